//! The machine of a VM: builds the board that [`Config`] describes, starts its threads and ends them again.

use super::{Error, open_output};
use crate::config::{self, Config, Peer, Publish};
use crate::control::{ControlConsole, ControlSocket, Controlled};
use crate::devices::exit_port::ExitPort;
use crate::devices::output::Output;
use crate::devices::serial::SerialPort;
use crate::devices::{Bus, InputSink};
use crate::say;
use crate::stop::{Outcome, Stop};
use crate::virtio::balloon::{Balloon, BalloonHandle};
use crate::virtio::block::{Block, RawFile};
use crate::virtio::console::Console;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::net::passt::{Passt, Prepared};
use crate::virtio::net::stream::StreamLink;
use crate::virtio::net::tap::TapLink;
use crate::virtio::net::{Link, Net};
use crate::virtio::rng::Rng;
use crate::virtio::worker::{self, Worker};
use crate::virtio::{Change, Device};
use crate::vmm::exits::Counters;
use crate::vmm::kvm::{self, IrqLine};
use crate::vmm::vcpu::{self, Running};
use crate::vmm::{GuestRam, cpuid, memory};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use serde_json::{Value, json};
use shared_abi::board;
use shared_abi::virtio::mmio::Register;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the vCPUs, then for the devices, when the VM ends.
const GRACE: Duration = Duration::from_secs(2);
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
    /// Exits by cause.
    pub exits: Arc<Counters>,
    /// When the program started.
    pub started: Instant,
    /// What it was built from.
    pub config: Config,
    stop: Arc<Stop>,
}

/// A machine whose VM exists but does not run yet.
pub struct Ready {
    machine: Arc<Machine>,
    vcpus: Vec<VcpuFd>,
    shared: Arc<vcpu::Shared>,
    control: Option<ControlSocket>,
    passt: Option<Prepared>,
    /// Keeps the VM and its memory while vCPUs use them.
    vm: Arc<VmFd>,
    memory: GuestRam,
}

/// A machine that runs.
pub struct Started {
    machine: Arc<Machine>,
    vcpus: Vec<Running>,
    workers: Vec<Worker>,
    control: Option<ControlSocket>,
    passt: Option<Passt>,
    _vm: Arc<VmFd>,
    _memory: GuestRam,
}

impl Machine {
    /// Opens what `config` names and makes the VM.
    ///
    /// # Errors
    /// [`Error`]: nothing is left behind.
    pub fn build(config: &Config, stop: &Arc<Stop>, started: Instant) -> Result<Ready, Error> {
        let memory = memory::map(config.memory)?;
        let entry = super::image::load(&memory, config)?;
        let output = open_output(&config.console, stop)?;
        let control = config.control.as_deref().map(ControlSocket::bind).transpose()?;
        let Models { models, balloon, console_input, console, passt } = devices(config, &memory, stop, &output)?;

        let kvm = kvm::open(&config.kvm)?;
        let vm = kvm::create_vm(&kvm, &memory)?;
        let irq = |gsi| IrqLine::new(&vm, gsi).map(Arc::new);
        let serial = SerialPort::new(irq(board::COM1_GSI)?, output.clone()).map_err(Error::system("create COM1"))?;
        let serial = Arc::new(serial);
        let mut ports = Bus::default();
        ports.insert(board::COM1_PORT.into(), 8, serial.clone());
        ports.insert(board::EXIT_PORT.into(), 4, Arc::new(ExitPort::new(stop.clone())));
        let mut mmio = Bus::default();
        let mut slots = Vec::new();
        for (slot, (name, model)) in (0..).zip(models) {
            let transport =
                MmioTransport::named(name.clone(), model, memory.clone(), irq(board::VIRTIO_MMIO_GSI + slot)?);
            let base = slot_address(slot);
            mmio.insert(base, board::VIRTIO_MMIO_STRIDE, transport.clone());
            slots.push((name, transport));
        }
        let vcpus = create_vcpus(&kvm, &vm, config.cpus, slots.len() as u32, entry)?;
        let exits = Arc::new(Counters::default());
        let shared = vcpu::Shared { ports, mmio, exits: exits.clone(), stop: stop.clone() };
        let input = match config.console {
            config::Console::Stdio => Some(serial as Arc<dyn InputSink>),
            config::Console::File(_) | config::Console::Control => console_input,
        };
        let (config, stop) = (config.clone(), stop.clone());
        let machine = Self { devices: slots, output, balloon, input, console, exits, started, config, stop };
        Ok(Ready {
            machine: Arc::new(machine),
            vcpus,
            shared: Arc::new(shared),
            control,
            passt,
            vm: Arc::new(vm),
            memory,
        })
    }
}

impl Controlled for Machine {
    fn status(&self) -> Value {
        let device = |(name, transport): &(String, Arc<MmioTransport>)| json!({"name": name, "type": transport.device_type().name(), "status": transport.status().bits()});
        json!({
            "state": if self.stop.requested() { "stopping" } else { "running" },
            "cpus": self.config.cpus,
            "memory_mib": self.config.memory >> 20,
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        })
    }

    fn stats(&self) -> Value {
        super::stats::collect(self)
    }

    fn balloon(&self) -> Option<&BalloonHandle> {
        self.balloon.as_ref()
    }

    fn console(&self) -> Option<&ControlConsole> {
        self.console.as_ref()
    }

    fn change(&self, device: &str, change: Change) -> Result<(), String> {
        let found = self.devices.iter().find(|(name, _)| name == device);
        let (_, transport) = found.ok_or_else(|| format!("the VM has no device {device}"))?;
        transport.change(change, CHANGE_PATIENCE)
    }
}

impl Ready {
    /// Starts the devices' and the vCPUs' threads.
    ///
    /// # Errors
    /// When the system gives no threads or KVM no notifications.
    pub fn start(self) -> Result<Started, Error> {
        let mut workers = Vec::new();
        for (slot, (_, transport)) in (0..).zip(&self.machine.devices) {
            let worker =
                worker::start(transport.clone(), self.machine.stop.clone()).map_err(Error::system("start a device"))?;
            workers.push(worker);
            let notify = slot_address(slot) + Register::QueueNotify.offset();
            let events = transport.notifier().map_or(&[][..], |notifier| &notifier.queues);
            for (index, event) in (0..).zip(events) {
                kvm::signal_on_write(&self.vm, event, notify, index)?;
            }
        }
        let mut vcpus = Vec::new();
        for (index, vcpu) in (0..).zip(self.vcpus) {
            vcpus.push(vcpu::start(index, vcpu, self.shared.clone()).map_err(Error::system("start a vCPU"))?);
        }
        let stop = self.machine.stop.clone();
        super::clock_bug::start(&self.vm, &stop).map_err(Error::system("start a thread"))?;
        let mut started = Started {
            machine: self.machine,
            vcpus,
            workers,
            control: self.control,
            passt: None,
            _vm: self.vm,
            _memory: self.memory,
        };
        match self.passt.map(Prepared::start).transpose() {
            Ok(passt) => {
                started.passt = passt;
                Ok(started)
            }
            Err(error) => {
                stop.request(Outcome::Failure(error.to_string()));
                started.end();
                Err(error.into())
            }
        }
    }
}

impl Started {
    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The control socket, to be served.
    pub fn take_control(&mut self) -> Option<ControlSocket> {
        self.control.take()
    }

    /// Ends all threads, then flushes the disks. The VM must have been asked to stop.
    pub fn end(mut self) {
        debug_assert!(self.machine.stop.requested());
        if let Some(status) = self.passt.as_mut().and_then(Passt::ended_early) {
            say!("passt ended before the VM: {status}");
        }
        let deadline = Instant::now() + GRACE;
        for vcpu in self.vcpus {
            vcpu.join(deadline);
        }
        let deadline = Instant::now() + GRACE;
        for (worker, (name, transport)) in self.workers.into_iter().zip(&self.machine.devices) {
            worker.leave();
            while !worker.has_ended() && Instant::now() < deadline {}
            if let Some(Err(error)) = transport.flusher().map(|flusher| flusher.flush()) {
                say!("flush {name}: {error}");
            }
            if let Some(fault) = transport.fault() {
                say!("{name} needed a reset: {fault}");
            }
        }
        super::stats::print(&self.machine);
    }
}

/// Devices with their names, and the ends of them that stay outside the guest.
#[derive(Default)]
struct Models {
    models: Vec<(String, Box<dyn Device>)>,
    balloon: Option<BalloonHandle>,
    console_input: Option<Arc<dyn InputSink>>,
    console: Option<ControlConsole>,
    passt: Option<Prepared>,
}

impl Models {
    fn push(&mut self, name: impl Into<String>, device: impl Device + 'static) {
        self.models.push((name.into(), Box::new(device)));
    }
}

/// The devices that `config` asks for, in the order of their slots.
fn devices(config: &Config, memory: &GuestRam, stop: &Arc<Stop>, output: &Arc<Output>) -> Result<Models, Error> {
    let mut models = Models::default();
    for (index, disk) in config.disks.iter().enumerate() {
        let engine = RawFile::open(disk).map_err(|source| Error::Disk { path: disk.path.clone(), source })?;
        let name = disk.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let serial = disk.serial.as_deref().unwrap_or(&name);
        models
            .push(format!("block{index}"), Block::new(Box::new(engine), disk.access, serial).with_queues(disk.queues));
    }
    if let Some(net) = &config.net {
        let link = link(&net.peer, &config.publish, &mut models.passt)?;
        models.push("net", Net::new(link, net.mac));
    }
    if config.balloon {
        let balloon = Balloon::new(memory).map_err(Error::system("create the balloon"))?;
        models.balloon = Some(balloon.handle());
        models.push("balloon", balloon);
    }
    if let Some(console) = &config.virtio_console {
        let output = if *console == config.console { output.clone() } else { open_output(console, stop)? };
        let device = Console::new(output.clone()).map_err(Error::system("create the console"))?;
        match console {
            config::Console::Stdio => models.console_input = Some(device.input()),
            config::Console::Control => {
                models.console = Some(ControlConsole { output: output.clone(), input: device.input() });
            }
            config::Console::File(_) => {}
        }
        models.push("console", device);
    }
    if config.rng {
        models.push("rng", Rng::new());
    }
    Ok(models)
}

/// Connects to where frames go.
fn link(peer: &Peer, publish: &[Publish], child: &mut Option<Prepared>) -> Result<Box<dyn Link>, Error> {
    Ok(match peer {
        Peer::Tap(name) => Box::new(TapLink::open(name).map_err(|source| Error::Tap { name: name.clone(), source })?),
        Peer::Stream(path) => {
            Box::new(StreamLink::connect(path).map_err(|source| Error::Stream { path: path.clone(), source })?)
        }
        Peer::Passt => {
            let (passt, link) = Prepared::new(publish)?;
            *child = Some(passt);
            Box::new(link)
        }
    })
}

fn create_vcpus(
    kvm: &kvm_ioctls::Kvm,
    vm: &VmFd,
    cpus: u32,
    slots: u32,
    entry: u32,
) -> Result<Vec<VcpuFd>, kvm::Error> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm::Error::call("KVM_GET_SUPPORTED_CPUID"))?;
    let mut vcpus = Vec::new();
    for index in 0..cpus {
        let vcpu = vm.create_vcpu(index.into()).map_err(kvm::Error::call("KVM_CREATE_VCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        let board = cpuid::Board { tsc_khz, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer), slots, cpus };
        let leaves = cpuid::leaves(&supported, board, index).map_err(|_| kvm::Error::TooManyLeaves)?;
        vcpu.set_cpuid2(&leaves).map_err(kvm::Error::call("KVM_SET_CPUID2"))?;
        // The others wait for INIT and SIPI, as KVM leaves them.
        if index == 0 {
            vcpu::set_pvh_state(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn slot_address(slot: u32) -> u64 {
    board::VIRTIO_MMIO_BASE + u64::from(slot) * board::VIRTIO_MMIO_STRIDE
}
