//! One vCPU: its state at PVH entry, and the loop that runs it on a thread of its own.
//!
//! The loop serves the exits that must be served before the guest's next instruction (port and register accesses), waits
//! at the [`Gate`] while the VM is paused, and leaves when a stop was requested.

use super::exits::{Cause, Counters};
use super::gate::{Entry, Gate, Pass, PauseError};
use super::kvm::Error;
use super::lifecycle::{Event, Illegal, State};
use crate::devices::reset::ResetLine;
use crate::devices::{Access, Bus};
use crate::mistake::{Mistake, made};
use crate::stop::{Outcome, PanicWatch, Stop};
use crate::{say, threads};
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};
use shared_abi::board::START_INFO_ADDR;
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// What the vCPUs share.
pub struct Shared {
    /// Port I/O.
    pub ports: Bus,
    /// Memory that is not RAM.
    pub mmio: Bus,
    /// Exits by cause.
    pub exits: Arc<Counters>,
    /// When to stay out of the guest.
    pub gate: Arc<Gate>,
    /// When to leave the loop.
    pub stop: Arc<Stop>,
    /// When to leave it too.
    pub reset: Arc<ResetLine>,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.requested() && !self.reset.is_pending()
    }

    /// Runs vCPU `index` on the calling thread until a stop or a reset is requested. Each time the gate is open, `turn` goes
    /// into the guest; it also learns of the end of each wait at the gate.
    pub(crate) fn run(&self, index: u32, mut turn: impl FnMut(Turn<'_>)) {
        let Some(pass) = self.gate.admit(index) else { return };
        while self.goes_on() {
            match pass.enter() {
                Entry::Open => turn(Turn::Guest(&pass)),
                Entry::Closed => {
                    pass.wait(|| self.goes_on());
                    turn(Turn::Waited);
                }
            }
        }
    }

    /// Whether the guest has reset its machine, and that is to be done now: not while the VM is paused.
    pub fn is_to_be_reset(&self) -> bool {
        self.reset.is_pending() && self.gate.state() != State::Paused
    }

    /// Begins the reset, for which all vCPUs leave; false if the VM was paused meanwhile, so that it has to wait.
    pub fn begin_reset(&self) -> bool {
        self.gate.change(Event::Reset).is_ok()
    }
}

/// Pauses the vCPUs, from any thread.
///
/// # Errors
/// As [`Gate::pause`].
pub fn pause(gate: &Gate, stop: &Stop) -> Result<(), PauseError> {
    let result = gate.pause();
    if result.is_err() {
        // A reset may have waited while it was tried.
        stop.wake();
    }
    result
}

/// Lets paused vCPUs go on, from any thread. The main loop looks whether a reset has waited for that.
///
/// # Errors
/// As [`Gate::change`].
pub fn resume(gate: &Gate, stop: &Stop) -> Result<(), Illegal> {
    gate.change(Event::Resume)?;
    if !made(Mistake::ResumeWakesNobody) {
        stop.wake();
    }
    Ok(())
}

/// What a vCPU does next.
pub(crate) enum Turn<'a> {
    /// It goes into the guest, and serves the exit.
    Guest(&'a Pass<'a>),
    /// Nothing: it has waited at the gate.
    Waited,
}

/// Puts a vCPU into the state of PVH's entry: 32-bit protected mode, flat segments, no paging, EBX = start info.
///
/// # Errors
/// Those of KVM.
pub fn set_pvh_state(vcpu: &VcpuFd, entry: u32) -> Result<(), Error> {
    const PROTECTION_ENABLE: u64 = 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    const FLAGS_RESERVED: u64 = 1 << 1;
    let flat = |selector: u16, type_: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let (code, data) = (flat(0x08, 0xb), flat(0x10, 0x3));
    let mut sregs = vcpu.get_sregs().map_err(Error::call("KVM_GET_SREGS"))?;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    sregs.cr0 = PROTECTION_ENABLE | EXTENSION_TYPE;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(Error::call("KVM_SET_SREGS"))?;
    let regs = kvm_regs { rip: entry.into(), rbx: START_INFO_ADDR, rflags: FLAGS_RESERVED, ..Default::default() };
    vcpu.set_regs(&regs).map_err(Error::call("KVM_SET_REGS"))
}

/// The thread of a vCPU. It outlives the guest's resets: each gives it another vCPU to run, because no thread can be made any
/// more by then.
pub struct Thread {
    thread: JoinHandle<()>,
    /// None once it is to end.
    work: Option<Sender<VcpuFd>>,
    done: Receiver<VcpuFd>,
    at_work: Cell<bool>,
}

/// Starts the thread of vCPU `index`, which calls `enter` first and then waits for work.
///
/// # Errors
/// When the system gives no thread.
pub fn start(index: u32, shared: Arc<Shared>, enter: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    threads::prepare();
    let (work, to_do) = channel::<VcpuFd>();
    let (report, done) = channel();
    let thread = std::thread::Builder::new().name(format!("vcpu{index}")).stack_size(256 << 10).spawn(move || {
        let _watch = PanicWatch::new(shared.stop.clone(), "a vCPU's thread");
        enter();
        while let Ok(mut vcpu) = to_do.recv() {
            run(index, &mut vcpu, &shared);
            // The main thread lets go of it.
            if report.send(vcpu).is_err() {
                return;
            }
        }
    })?;
    Ok(Thread { thread, work: Some(work), done, at_work: Cell::new(false) })
}

impl Thread {
    /// Runs a vCPU until a stop or a reset is requested.
    pub fn run(&self, vcpu: VcpuFd) {
        self.at_work.set(true);
        // A thread that has panicked runs nothing; it has ended the VM.
        let _ = self.work.as_ref().map(|work| work.send(vcpu));
    }

    /// Asks it to end when it has come back.
    pub fn leave(&mut self) {
        self.work = None;
    }

    /// Whether it has ended, which takes a request to [`leave`](Self::leave), and to stop.
    pub fn has_ended(&self) -> bool {
        self.is_idle() && self.thread.is_finished()
    }

    /// Whether it has come back from the guest and let go of its vCPU, as it does once a stop or a reset is requested.
    /// Interrupts KVM_RUN.
    pub fn is_idle(&self) -> bool {
        if self.at_work.get() {
            match self.done.try_recv() {
                Ok(vcpu) => drop(vcpu),
                Err(TryRecvError::Disconnected) => {}
                Err(TryRecvError::Empty) => {
                    threads::interrupt(&self.thread);
                    return false;
                }
            }
            self.at_work.set(false);
        }
        true
    }
}

fn run(index: u32, vcpu: &mut VcpuFd, shared: &Shared) {
    shared.run(index, |turn| match turn {
        Turn::Guest(pass) => run_once(index, vcpu, shared, pass),
        Turn::Waited => tell_of_pause(index, vcpu),
    });
}

/// Lets the guest see in its clock page that it was stopped, as QEMU does when it goes on, so that it does not take the
/// pause for a hang of its own.
fn tell_of_pause(index: u32, vcpu: &VcpuFd) {
    match vcpu.kvmclock_ctrl() {
        Ok(()) => {}
        // The guest has set up no clock page.
        Err(error) if error.errno() == libc::EINVAL => {}
        Err(error) => say!("vcpu {index}: the guest was not notified of its pause: KVM_KVMCLOCK_CTRL: {error}"),
    }
}

fn run_once(index: u32, vcpu: &mut VcpuFd, shared: &Shared, pass: &Pass<'_>) {
    let exit = vcpu.run();
    pass.exit();
    let cause = match exit {
        Ok(VcpuExit::IoOut(port, data)) => {
            served(shared.ports.write(port.into(), data), Cause::PortWrite, Cause::NoPort)
        }
        Ok(VcpuExit::IoIn(port, data)) => served(shared.ports.read(port.into(), data), Cause::PortRead, Cause::NoPort),
        Ok(VcpuExit::MmioWrite(address, data)) => {
            served(shared.mmio.write(address, data), Cause::MmioWrite, Cause::NoMmio)
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            served(shared.mmio.read(address, data), Cause::MmioRead, Cause::NoMmio)
        }
        Ok(VcpuExit::Intr) => Cause::Interrupted,
        Ok(VcpuExit::Hlt) => Cause::Other,
        Ok(VcpuExit::Shutdown) if shared.reset.reboots() => {
            shared.reset.pull();
            Cause::Other
        }
        Ok(exit) => {
            let what = describe(&exit);
            shared.stop.request(Outcome::Failure(failure(index, vcpu, what)));
            Cause::Other
        }
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Cause::Interrupted,
        Err(error) => {
            shared.stop.request(Outcome::Failure(failure(index, vcpu, format!("KVM_RUN: {error}"))));
            Cause::Other
        }
    };
    shared.exits.count(cause);
}

fn served(access: Access, handled: Cause, nothing: Cause) -> Cause {
    match access {
        Access::Handled => handled,
        Access::Nothing => nothing,
    }
}

fn describe(exit: &VcpuExit<'_>) -> String {
    match exit {
        VcpuExit::Shutdown => "the guest shut down by a triple fault".into(),
        VcpuExit::InternalError => "KVM gave up (KVM_EXIT_INTERNAL_ERROR)".into(),
        VcpuExit::FailEntry(reason, _) => format!("the processor refused the guest's state (reason {reason:#x})"),
        other => format!("unexpected exit {other:?}"),
    }
}

/// One line: what happened, and where the vCPU was.
fn failure(index: u32, vcpu: &mut VcpuFd, what: String) -> String {
    let mut line = format!("vcpu {index}: {what}");
    let run = vcpu.get_kvm_run();
    if run.exit_reason == kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
        // SAFETY: the exit reason says that this member of the union is the one KVM filled.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        line += &match internal.suberror {
            KVM_INTERNAL_ERROR_EMULATION => ": an instruction that KVM cannot emulate".to_string(),
            other => format!(": suberror {other}"),
        };
    }
    if let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) {
        line += &format!(
            "; rip={:#x} cs={:#x} rflags={:#x} rsp={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x} \
             rbp={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            regs.rip,
            sregs.cs.selector,
            regs.rflags,
            regs.rsp,
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            regs.rbp,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.efer,
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnReset;

    #[test]
    fn reset_of_a_paused_vm_waits_until_it_is_resumed_and_its_end_does_not() {
        let stop = Arc::new(Stop::new().unwrap());
        let reset = Arc::new(ResetLine::new(OnReset::Reboot, stop.clone()));
        let gate = Arc::new(Gate::new(1));
        let (ports, mmio, exits) = (Bus::default(), Bus::default(), Arc::default());
        let shared = Shared { ports, mmio, exits, gate, stop, reset };
        shared.gate.change(Event::Start).unwrap();
        assert_eq!((shared.goes_on(), shared.is_to_be_reset()), (true, false));
        shared.gate.pause().unwrap();
        shared.reset.pull();
        assert_eq!((shared.goes_on(), shared.is_to_be_reset()), (false, false));
        shared.gate.change(Event::Resume).unwrap();
        assert_eq!((shared.goes_on(), shared.is_to_be_reset()), (false, true));
        shared.reset.is_done();
        shared.gate.pause().unwrap();
        shared.stop.request(Outcome::Stopped);
        assert!(!shared.goes_on());
    }
}
