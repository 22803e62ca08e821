//! The exit statuses of `ringside`, as `ringside run --help` lists them.

use crate::stop::Outcome;

/// The guest powered off in good order, or the control socket stopped the VM.
pub const OK: u8 = 0;
/// The guest panicked.
pub const GUEST_PANIC: u8 = 1;
/// The command line or a file named there is unusable; nothing was started.
pub const BAD_INPUT: u8 = 2;
/// There is no usable KVM.
pub const NO_KVM: u8 = 3;
/// The VM could not be set up or could not go on, or what the guest wrote to a disk may be lost, however the VM ended.
pub const VM_FAILURE: u8 = 4;
/// The guest ended with a code that has no status of its own.
pub const GUEST_OTHER: u8 = 125;
/// A signal ended the VM: this plus its number.
pub const SIGNAL: u8 = 128;

/// The table for `--help`.
pub const HELP: &str = "\
Exit status:
  0        the guest powered off in good order or reset its machine, or the control socket stopped it
  1        the guest panicked
  2        bad input: the command line, or a file, socket or port that it names
  3        no usable KVM
  4        the VM could not be started or could not go on, or a disk could not be flushed
  5..124   the guest ended with this code
  125      the guest ended with any other code (the message has it)
  130,143  ended by Ctrl-C or SIGTERM (128 plus the signal's number)
  159      in a shell: killed by SIGSYS, for a system call that the sandbox forbids";

/// The exit status for the end of a VM.
pub fn of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Stopped | Outcome::GuestReset => OK,
        Outcome::Failure(_) => VM_FAILURE,
        Outcome::Signal(number) => u8::try_from(*number).ok().and_then(|n| SIGNAL.checked_add(n)).unwrap_or(SIGNAL),
        Outcome::GuestExit(code) => match *code {
            shared_abi::board::EXIT_OK => OK,
            shared_abi::board::EXIT_PANIC => GUEST_PANIC,
            code @ 5..125 => code as u8,
            _ => GUEST_OTHER,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_codes_never_look_like_errors_of_the_host() {
        assert_eq!(of(&Outcome::GuestExit(0)), 0);
        assert_eq!(of(&Outcome::GuestExit(1)), 1);
        assert_eq!(of(&Outcome::GuestExit(5)), 5);
        for code in [2, 3, 4, 125, 130, 256, u32::MAX] {
            assert_eq!(of(&Outcome::GuestExit(code)), GUEST_OTHER, "code {code}");
        }
    }

    #[test]
    fn signals_follow_the_shell() {
        assert_eq!(of(&Outcome::Signal(2)), 130);
        assert_eq!(of(&Outcome::Signal(15)), 143);
    }
}
