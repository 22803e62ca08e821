//! The machine of a VM: builds the board that [`Config`] describes, starts its threads and ends them again.

use super::devices::{Models, devices};
use super::image::Image;
use super::peer::Peer;
use super::platform::Platform;
use super::{Error, open_lies, open_output};
use crate::config::{self, Config};
use crate::control::{Access, ControlConsole, ControlCounts, ControlSocket, Controlled};
use crate::devices::exit_port::ExitPort;
use crate::devices::output::Output;
use crate::devices::reset::{ControlRegister, KeyboardController, ResetLine};
use crate::devices::serial::SerialPort;
use crate::devices::{Bus, InputSink, InterruptLine};
use crate::hostile::Hostile;
use crate::hostile::liar::Liar;
use crate::sandbox::Sandbox;
use crate::say;
use crate::stop::Stop;
use crate::virtio::Change;
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::net::passt::Prepared;
use crate::vmm::exits::Counters;
use crate::vmm::gate::Gate;
use crate::vmm::lifecycle::{Event, Illegal, State};
use crate::vmm::{kvm, memory, vcpu};
use serde_json::{Map, Value, json};
use shared_abi::board;
use shared_abi::virtio::DeviceType;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a change from outside waits for a device that is at work.
const CHANGE_PATIENCE: Duration = Duration::from_millis(500);

/// A machine, ready to start.
pub struct Machine {
    /// Name and slot of each device.
    pub devices: Vec<(String, Arc<MmioTransport>)>,
    /// The serial port's output.
    pub output: Arc<Output>,
    /// Where typed input goes, if anywhere.
    pub input: Option<Arc<dyn InputSink>>,
    /// The host's end of the balloon, if there is one.
    pub balloon: Option<BalloonHandle>,
    /// The virtio console that the control socket reads and types to, if there is one.
    pub console: Option<ControlConsole>,
    /// The serial port.
    pub serial: Arc<SerialPort>,
    /// How often the guest's reset has started it again.
    pub reboots: AtomicU32,
    /// Exits by cause.
    pub exits: Arc<Counters>,
    /// The vCPUs' state.
    pub gate: Arc<Gate>,
    /// When the program started.
    pub started: Instant,
    /// What it was built from.
    pub config: Config,
    pub(super) stop: Arc<Stop>,
    /// The other end of the network card.
    pub(super) peer: Option<Arc<Peer>>,
    /// The devices that lie, if any.
    pub(super) hostile: Option<Hostile>,
    /// Where their lies are logged.
    lies: Option<Arc<Output>>,
    /// Put on before the guest runs.
    pub(super) sandbox: OnceLock<Arc<Sandbox>>,
    /// What the virtio console prints to.
    virtio_output: Option<Arc<Output>>,
    control_counts: ControlCounts,
}

/// A machine that is built but does not run yet.
pub struct BuiltMachine {
    pub(super) machine: Arc<Machine>,
    pub(super) platform: Platform,
    pub(super) shared: Arc<vcpu::Shared>,
    pub(super) image: Image,
    pub(super) sockets: Vec<ControlSocket>,
    /// The logs of which full files are kept.
    pub(super) logs: Vec<(config::LogFile, Arc<Output>)>,
    pub(super) passt: Option<Prepared>,
}

impl Machine {
    /// Opens what `config` names and makes the VM.
    ///
    /// # Errors
    /// [`Error`]: everything made so far is removed.
    pub fn build(config: &Config, stop: &Arc<Stop>, started: Instant) -> Result<BuiltMachine, Error> {
        let memory = memory::map(config.memory)?;
        let mut image = Image::open(config)?;
        let entry = image.load(&memory)?;
        let reset = Arc::new(ResetLine::new(config.on_reset, stop.clone()));
        let output = open_output(&config.console, config.console_rate, &reset)?;
        let lies = config.hostile_log.as_ref().map(|log| open_lies(log, &reset)).transpose()?;
        #[cfg(feature = "test-faults")]
        lies.iter().for_each(crate::sandbox::remember_log);
        let Models { models, balloon, console_input, console, passt, peer, virtio_output } =
            devices(config, &memory, stop, &reset, &output)?;

        let kvm = kvm::open(&config.kvm)?;
        let slots = models.len() as u32;
        let platform = Platform::new(kvm, memory.clone(), config.cpus, slots, entry)?;
        let line = |gsi| platform.lines.iter().find(|line| line.gsi() == gsi).cloned().ok_or(kvm::Error::NoLine(gsi));
        let made = super::parts::serial(line(board::COM1_GSI)?, output.clone());
        let (serial, serial_registers) = made.map_err(Error::system("create COM1"))?;
        let mut ports = Bus::default();
        ports.insert(board::COM1_PORT.into(), 8, serial_registers);
        ports.insert(board::EXIT_PORT.into(), 4, Arc::new(ExitPort::new(stop.clone())));
        ports.insert(board::RESET_CONTROL_PORT.into(), 1, Arc::new(ControlRegister::new(reset.clone())));
        ports.insert(board::KEYBOARD_PORT.into(), 1, Arc::new(KeyboardController(reset.clone())));
        let mut mmio = Bus::default();
        let mut devices = Vec::new();
        let mut hostile = config.hostile.clone().map(|options| Hostile::new(options, lies.clone()));
        for (slot, (name, mut model)) in (0..).zip(models) {
            let mut line: Arc<dyn InterruptLine> = line(board::VIRTIO_MMIO_GSI + slot)?;
            if let Some(hostile) = &mut hostile {
                let balloon = balloon.as_ref().filter(|_| model.device_type() == DeviceType::BALLOON);
                (model, line) = hostile.device(&name, model, line, balloon);
            }
            let transport = MmioTransport::named(&name, model, memory.clone(), line);
            let mut registers = super::parts::slot(&transport);
            if let Some(hostile) = &hostile {
                registers = hostile.slot(&transport, registers);
            }
            mmio.insert(slot_address(slot), board::VIRTIO_MMIO_STRIDE, registers);
            devices.push((name, transport));
        }
        let exits = Arc::new(Counters::default());
        let gate = Arc::new(Gate::new(config.cpus));
        let shared = vcpu::Shared { ports, mmio, exits: exits.clone(), gate: gate.clone(), stop: stop.clone(), reset };
        let input = match config.console {
            config::Console::Stdio => Some(serial.clone() as Arc<dyn InputSink>),
            config::Console::File(_) | config::Console::Control => console_input,
        };
        // All that was named is as it must be: from here on something is made.
        let sockets = [(&config.control, Access::Full), (&config.control_readonly, Access::Read)];
        let sockets = sockets.into_iter().filter_map(|(path, access)| Some((path.as_deref()?, access)));
        let sockets = sockets.map(|(path, access)| ControlSocket::bind(path, access)).collect::<Result<Vec<_>, _>>()?;
        let virtio = config.virtio_console.as_ref().zip(virtio_output.as_deref());
        let log = config.hostile_log.clone().map(config::Console::File);
        let log = log.as_ref().zip(lies.as_deref());
        let consoles: Vec<_> = [(&config.console, &*output)].into_iter().chain(virtio).chain(log).collect();
        create(&consoles)?;
        let logs = kept_logs(config, &output, virtio_output.as_ref(), lies.as_ref());
        if let Some(hostile) = &hostile {
            say!("{}", hostile.notice());
        }
        let machine = Self {
            devices,
            output,
            input,
            serial,
            balloon,
            console,
            exits,
            gate,
            started,
            reboots: AtomicU32::new(0),
            config: config.clone(),
            stop: stop.clone(),
            peer,
            hostile,
            lies,
            sandbox: OnceLock::new(),
            virtio_output,
            control_counts: ControlCounts::default(),
        };
        let (machine, shared) = (Arc::new(machine), Arc::new(shared));
        Ok(BuiltMachine { machine, platform, shared, image, sockets, logs, passt })
    }
}

impl Controlled for Machine {
    fn status(&self) -> Value {
        let device = |(name, transport): &(String, Arc<MmioTransport>)| {
            let mut device = json!({
                "name": name,
                "type": transport.device_type().name(),
                "status": transport.status().bits(),
                "problems": transport.problems(),
            });
            if let Some(liar) = self.liar(name) {
                device["lies"] = liar.counters();
            }
            device
        };
        let mut status = json!({
            "state": if self.stop.requested() { "stopping" } else { self.gate.state().name() },
            "cpus": self.config.cpus,
            "memory_mib": self.config.memory >> 20,
            "reboots": self.reboots.load(Ordering::Relaxed),
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        });
        if let Some(peer) = &self.peer {
            status["network"] = peer.status();
        }
        let report = self.sandbox.get().and_then(|sandbox| sandbox.report());
        status["sandbox"] = report.map_or_else(|| "off".into(), |report| report.json());
        status
    }

    /// All counters.
    fn stats(&self) -> Value {
        let exits: Map<_, _> = self.exits.all().map(|(cause, count)| (cause.into(), count.into())).collect();
        let devices: Map<_, _> = self
            .devices
            .iter()
            .map(|(name, transport)| {
                let mut counters = json!(transport.counters());
                if let (Some(fault), Some(object)) = (transport.fault(), counters.as_object_mut()) {
                    object.insert("first_fault".into(), fault.into());
                }
                if let Some(liar) = self.liar(name) {
                    counters["lies"] = liar.counters();
                }
                (name.clone(), counters)
            })
            .collect();
        let mut all = json!({
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "exits": exits,
            "serial": printed(&self.output),
            "devices": devices,
            "log": crate::log::counts(),
            "control": self.control_counts,
        });
        // Both consoles may have the same other end.
        if let Some(console) = self.virtio_output.as_ref().filter(|console| !Arc::ptr_eq(console, &self.output)) {
            all["console"] = printed(console);
        }
        if let Some(report) = self.sandbox.get().and_then(|sandbox| sandbox.report()) {
            all["sandbox_us"] = report.took_us();
        }
        if let Some(lies) = &self.lies {
            all["hostile_log"] = json!({ "bytes_written": lies.written(), "bytes_lost": lies.lost() });
        }
        if let Some(balloon) = &self.balloon {
            all["balloon"] = json!(balloon.numbers());
        }
        all
    }

    fn control_counts(&self) -> &ControlCounts {
        &self.control_counts
    }

    fn balloon(&self) -> Option<&BalloonHandle> {
        self.balloon.as_ref()
    }

    fn console(&self) -> Option<&ControlConsole> {
        self.console.as_ref()
    }

    fn pause(&self) -> Result<(), String> {
        self.must_not_end(Event::Pause)?;
        vcpu::pause(&self.gate, &self.stop).map_err(|error| error.to_string())?;
        // What a vCPU did on its way out may have been the guest's end.
        self.must_not_end(Event::Pause)
    }

    fn resume(&self) -> Result<(), String> {
        self.must_not_end(Event::Resume)?;
        vcpu::resume(&self.gate, &self.stop).map_err(|illegal| illegal.to_string())
    }

    fn change(&self, device: &str, change: Change) -> Result<(), String> {
        let found = self.devices.iter().find(|(name, _)| name == device);
        let (_, transport) = found.ok_or_else(|| format!("the VM has no device {device}"))?;
        transport.change(change, CHANGE_PATIENCE)
    }
}

impl Machine {
    fn liar(&self, device: &str) -> Option<&Arc<Liar>> {
        self.hostile.as_ref().and_then(|hostile| hostile.liar(device))
    }

    /// Refuses `event` as soon as the VM's end is requested; its vCPUs are stopped a little later.
    fn must_not_end(&self, event: Event) -> Result<(), String> {
        let illegal = Illegal { state: State::Stopped, event };
        if self.stop.requested() { Err(illegal.to_string()) } else { Ok(()) }
    }
}

/// The logs that have to be renamed when they are full, each once.
fn kept_logs(
    config: &Config,
    serial: &Arc<Output>,
    virtio: Option<&Arc<Output>>,
    lies: Option<&Arc<Output>>,
) -> Vec<(config::LogFile, Arc<Output>)> {
    let file = |console: &config::Console| match console {
        config::Console::File(log) => Some(log.clone()),
        config::Console::Stdio | config::Console::Control => None,
    };
    let virtio = virtio.filter(|output| !Arc::ptr_eq(output, serial));
    let virtio = config.virtio_console.as_ref().and_then(file).zip(virtio.cloned());
    let all = [file(&config.console).zip(Some(serial.clone())), virtio, config.hostile_log.clone().zip(lies.cloned())];
    all.into_iter().flatten().filter(|(log, output)| log.keep > 0 && output.is_log()).collect()
}

/// What became of a console's bytes.
fn printed(output: &Output) -> Value {
    json!({"bytes_written": output.written(), "bytes_lost": output.lost(), "throttled_ms": output.throttled_ms()})
}

/// Makes the consoles' files, and empties them only when all are there. Of those that were made none is left on a failure.
fn create(consoles: &[(&config::Console, &Output)]) -> Result<(), Error> {
    let all = |step: fn(&Output) -> io::Result<()>| {
        consoles.iter().try_for_each(|(console, output)| step(output).map_err(|source| failed(console, source)))
    };
    all(Output::make).and_then(|()| all(Output::empty)).inspect_err(|_| {
        consoles.iter().for_each(|(_, output)| output.unmake());
    })
}

fn failed(console: &config::Console, source: io::Error) -> Error {
    match console {
        config::Console::File(log) => Error::output("console output", log)(source),
        config::Console::Stdio | config::Console::Control => Error::System { what: "open a console", source },
    }
}

pub(super) fn slot_address(slot: u32) -> u64 {
    board::VIRTIO_MMIO_BASE + u64::from(slot) * board::VIRTIO_MMIO_STRIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_file_that_cannot_be_made_leaves_the_others_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("gone")).unwrap();
        std::fs::write(path("keep"), b"precious").unwrap();
        let consoles = ["keep", "new", "gone/log"].map(|name| {
            let log = config::LogFile { path: path(name), size: 4096, keep: 0 };
            (config::Console::File(log.clone()), Output::file(&log).unwrap())
        });
        std::fs::remove_dir(path("gone")).unwrap();
        let consoles: Vec<_> = consoles.iter().map(|(console, output)| (console, output)).collect();
        let result = create(&consoles);
        assert!(matches!(&result, Err(Error::Output { path: of, .. }) if *of == path("gone/log")), "{result:?}");
        assert_eq!(std::fs::read(path("keep")).unwrap(), b"precious");
        assert!(!path("new").exists());
        create(&consoles[..2]).unwrap();
        assert_eq!((std::fs::read(path("keep")).unwrap(), path("new").exists()), (Vec::new(), true));
    }
}
