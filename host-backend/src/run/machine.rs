//! The machine of a VM: builds the board that [`Config`] describes, starts its threads and ends them again.

use super::devices::{Models, devices};
use super::peer::Peer;
use super::{Error, open_output};
use crate::config::{self, Config};
use crate::control::{ControlConsole, ControlSocket, Controlled};
use crate::devices::exit_port::ExitPort;
use crate::devices::output::Output;
use crate::devices::serial::SerialPort;
use crate::devices::{Bus, InputSink};
use crate::stop::Stop;
use crate::virtio::Change;
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::net::passt::Prepared;
use crate::vmm::exits::Counters;
use crate::vmm::kvm::{self, IrqLine};
use crate::vmm::{GuestRam, cpuid, memory, vcpu};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use serde_json::{Value, json};
use shared_abi::board;
use std::sync::Arc;
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
    /// Exits by cause.
    pub exits: Arc<Counters>,
    /// When the program started.
    pub started: Instant,
    /// What it was built from.
    pub config: Config,
    pub(super) stop: Arc<Stop>,
    /// The other end of the network card.
    pub(super) peer: Option<Arc<Peer>>,
}

/// A machine whose VM exists but does not run yet.
pub struct Ready {
    pub(super) machine: Arc<Machine>,
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) shared: Arc<vcpu::Shared>,
    pub(super) control: Option<ControlSocket>,
    pub(super) passt: Option<Prepared>,
    /// Keeps the VM and its memory while vCPUs use them.
    pub(super) vm: Arc<VmFd>,
    pub(super) memory: GuestRam,
}

impl Machine {
    /// Opens what `config` names and makes the VM.
    ///
    /// # Errors
    /// [`Error`]: nothing is left behind.
    pub fn build(config: &Config, stop: &Arc<Stop>, started: Instant) -> Result<Ready, Error> {
        let memory = memory::map(config.memory)?;
        let entry = super::image::load(&memory, config)?;
        let output = open_output(&config.console, config.console_rate, stop)?;
        let Models { models, balloon, console_input, console, passt, peer, virtio_output } =
            devices(config, &memory, stop, &output)?;

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
            let transport = MmioTransport::named(&name, model, memory.clone(), irq(board::VIRTIO_MMIO_GSI + slot)?);
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
        // All that was named is as it must be: from here on something is made.
        let control = config.control.as_deref().map(ControlSocket::bind).transpose()?;
        create(&config.console, &output)?;
        if let (Some(console), Some(output)) = (&config.virtio_console, &virtio_output)
            && *console != config.console
        {
            create(console, output)?;
        }
        let (config, stop) = (config.clone(), stop.clone());
        let machine = Self { devices: slots, output, balloon, input, console, exits, started, config, stop, peer };
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
        let device = |(name, transport): &(String, Arc<MmioTransport>)| {
            json!({
                "name": name,
                "type": transport.device_type().name(),
                "status": transport.status().bits(),
                "problems": transport.problems(),
            })
        };
        let mut status = json!({
            "state": if self.stop.requested() { "stopping" } else { "running" },
            "cpus": self.config.cpus,
            "memory_mib": self.config.memory >> 20,
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        });
        if let Some(peer) = &self.peer {
            status["network"] = peer.status();
        }
        status
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

/// Makes or empties a console's file.
fn create(console: &config::Console, output: &Output) -> Result<(), Error> {
    match console {
        config::Console::File(log) => {
            output.create().map_err(|source| Error::Console { path: log.path.clone(), source })
        }
        config::Console::Stdio | config::Console::Control => Ok(()),
    }
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

pub(super) fn slot_address(slot: u32) -> u64 {
    board::VIRTIO_MMIO_BASE + u64::from(slot) * board::VIRTIO_MMIO_STRIDE
}
