//! The one deliberate bug that is in no device model ([`Bug::ClockGoesBack`]): KVM's clock is set back while the guest runs.
//! Called when the vCPUs start; without the bug it does nothing.

use crate::bugs::{Bug, is_injected};
use crate::stop::Stop;
use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(20);
/// Less than passes in between, so that the guest's waits still end.
const BACK: u64 = 2_000_000;

/// Starts to set the clock back, if that is asked for.
pub(super) fn start(vm: &Arc<VmFd>, stop: &Arc<Stop>) -> io::Result<()> {
    if !is_injected(Bug::ClockGoesBack) {
        return Ok(());
    }
    let (vm, stop) = (vm.clone(), stop.clone());
    let turn_back = move || {
        while !stop.requested() {
            thread::sleep(EVERY);
            let Ok(now) = vm.get_clock() else { return };
            let then = kvm_clock_data { clock: now.clock.saturating_sub(BACK), ..Default::default() };
            if vm.set_clock(&then).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("clock-bug".into()).spawn(turn_back).map(drop)
}
