//! Time, the console, and hypercalls that are refused or made several at once.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::xen::{EFAULT, ENOSYS, counted, here, settled, spin, spin_until, version},
    crate::support::{End, equal, error, holds},
    code::*,
    guest_kernel::trap::irq,
    pvops::time,
    pvops::worlds::xen::hypercall::{self},
    pvops::worlds::xen::{shared_info, vcpu_info},
    shared_abi::xen::{Call, event as command, hypercall as number},
    volatile::map_field,
};

const TIMER: &str = "Xen public/vcpu.h, VCPUOP_set_singleshot_timer";
const TIME: &str = "Xen public/xen.h, struct vcpu_time_info";
const CONSOLE: &str = "Xen public/xen.h, console_io";
const CALLS: &str = "Xen public/arch-x86/xen-x86_64.h, hypercall interface; public/errno.h";
const MULTICALL: &str = "Xen public/xen.h, struct multicall_entry";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "xen/timer-is-not-early",
        rule: "A timer does not fire before its time",
        clause: TIMER,
        method: "20 timers of 2 ms",
        expectation: "None early",
        run: |cx| {
            here(cx)?;
            let mut latest = 0;
            for _ in 0..20 {
                let (deadline, fired) = timer(2_000_000)?;
                holds(fired >= deadline, "nanoseconds", format_args!("{deadline} or later"), fired)?;
                latest = latest.max(fired - deadline);
            }
            cx.did(format_args!("at most {latest} ns late"));
            Ok(())
        },
    },
    Check {
        name: "xen/timer-is-within-a-percent",
        rule: "A timer fires at its time",
        clause: TIMER,
        method: "Up to five timers of half a second",
        expectation: "One less than 5 ms late",
        run: |cx| {
            here(cx)?;
            const WAIT: u64 = 500_000_000;
            const MOST: u64 = WAIT / 100;
            // A machine that is busy with other things is late now and then.
            let mut least = u64::MAX;
            for _ in 0..5 {
                let (deadline, fired) = timer(WAIT)?;
                least = least.min(fired.saturating_sub(deadline));
                if least < MOST {
                    break;
                }
            }
            cx.did(format_args!("{least} ns late"));
            holds(
                least < MOST,
                "nanoseconds that each of five timers of half a second is late",
                "fewer than 5000000",
                least,
            )
        },
    },
    Check {
        name: "xen/timer-in-the-past-fires",
        rule: "A time that has passed fires at once",
        clause: TIMER,
        method: "A timer at time 1",
        expectation: "One event within a second",
        run: |cx| {
            here(cx)?;
            let before = irq::timer_count();
            time::set_timer(1);
            spin_until(1_000_000_000, || irq::timer_count() != before);
            equal("timer events", 1, irq::timer_count() - before)
        },
    },
    Check {
        name: "xen/timer-stops",
        rule: "A stopped timer does not fire",
        clause: "Xen public/vcpu.h, VCPUOP_stop_singleshot_timer",
        method: "Set a timer of 50 ms, stop it, wait 100 ms",
        expectation: "No event",
        run: |cx| {
            here(cx)?;
            let before = irq::timer_count();
            time::set_timer(time::now() + 50_000_000);
            time::set_timer(time::NEVER);
            spin(100_000_000);
            equal("timer events after a timer that was stopped", 0, irq::timer_count() - before)
        },
    },
    Check {
        name: "xen/time-page-version-is-even",
        rule: "A CPU sees its own time only as Xen has finished it",
        clause: TIME,
        method: "Read it 2000 times",
        expectation: "The version is even, the multiplier not 0",
        run: |cx| {
            here(cx)?;
            let info = vcpu_info();
            let page = map_field!(info.time);
            (0..2000).try_for_each(|_| equal("lowest bit of the version", 0, page.read().version & 1))?;
            holds(page.read().tsc_to_system_mul != 0, "multiplier", "not 0", 0)
        },
    },
    Check {
        name: "xen/wall-clock-is-set",
        rule: "The shared page has the time of day",
        clause: "Xen public/xen.h, struct shared_info, wc_sec",
        method: "Read it",
        expectation: "A time after 2020",
        run: |cx| {
            here(cx)?;
            // SAFETY: the shared page is mapped; Xen writes it.
            let [version, seconds, nanoseconds, _] =
                unsafe { (&raw const (*shared_info()).wall_clock).read_volatile() };
            equal("lowest bit of the version", 0, version & 1)?;
            holds(seconds > 1_577_836_800, "seconds since 1970", "after 2020", seconds)?;
            holds(nanoseconds < 1_000_000_000, "nanoseconds", "below 1000000000", nanoseconds)
        },
    },
    Check {
        name: "xen/console-without-input-reads-nothing",
        rule: "CONSOLEIO_read returns what is there",
        clause: CONSOLE,
        method: "Read without input",
        expectation: "0 bytes",
        run: |cx| {
            here(cx)?;
            equal("bytes", 0, pvops::vmm::read(&mut [0; 16]))
        },
    },
    Check {
        name: "xen/unknown-hypercall-refuses",
        rule: "A number without hypercall is refused",
        clause: CALLS,
        method: "Call number 63",
        expectation: "ENOSYS",
        run: |cx| {
            here(cx)?;
            // SAFETY: there is no such hypercall.
            equal("result of hypercall 63", ENOSYS, unsafe { hypercall::call2(63, 0, 0) })
        },
    },
    Check {
        name: "xen/unknown-command-refuses",
        rule: "A command that is none is refused",
        clause: CALLS,
        method: "Call sched_op 99",
        expectation: "ENOSYS",
        run: |cx| {
            here(cx)?;
            // SAFETY: there is no such command.
            equal("result of sched_op 99", ENOSYS, unsafe { hypercall::call2(number::SCHED_OP, 99, 0) })
        },
    },
    Check {
        name: "xen/bad-pointer-is-an-error",
        rule: "An argument that the guest cannot reach is an error",
        clause: CALLS,
        method: "Send with the argument at an address of Xen's",
        expectation: "EFAULT",
        run: |cx| {
            here(cx)?;
            // SAFETY: Xen refuses an address that is its own.
            let result =
                unsafe { hypercall::call2(number::EVENT_CHANNEL_OP, command::SEND.into(), 0xffff_8300_0000_0000) };
            equal("result with an address of Xen's", EFAULT, result)
        },
    },
    Check {
        name: "xen/multicall-goes-on-behind-a-failure",
        rule: "Each call of a list has its own result",
        clause: MULTICALL,
        method: "Three calls, the second one refused",
        expectation: "Two versions, ENOSYS between",
        run: |cx| {
            here(cx)?;
            let ask = Call { number: number::XEN_VERSION.into(), ..Call::default() };
            let bad = Call { number: number::SCHED_OP.into(), arguments: [99, 0, 0, 0, 0, 0], ..Call::default() };
            let mut calls = [ask, bad, ask];
            // SAFETY: asking has no effect, and there is no such command.
            settled(unsafe { hypercall::multicall(&mut calls) })?;
            let version = i64::from(version());
            equal("results", [version, ENOSYS, version], calls.map(|call| call.result))
        },
    },
    Check {
        name: "xen/multicall-is-one-entry",
        rule: "A list of calls is one hypercall",
        clause: MULTICALL,
        method: "64 calls",
        expectation: "One hypercall is counted, 64 results are right",
        run: |cx| {
            here(cx)?;
            let mut calls = [Call { number: number::XEN_VERSION.into(), ..Call::default() }; 64];
            // SAFETY: asking for the version has no effect.
            let entries = counted(|| unsafe { hypercall::multicall(&mut calls) }.is_ok());
            equal("hypercalls for 64 calls", 1, entries)?;
            calls.iter().try_for_each(|call| equal("result", i64::from(version()), call.result))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Sets the timer; deadline, and when the event was seen.
    pub fn timer(wait: u64) -> Result<(u64, u64), End> {
        time::set_timer(time::NEVER);
        let before = irq::timer_count();
        let deadline = time::now() + wait;
        time::set_timer(deadline);
        let came = spin_until(wait + 1_000_000_000, || irq::timer_count() != before);
        let fired = time::now();
        if came { Ok((deadline, fired)) } else { Err(error("the timer did not fire")) }
    }
}
