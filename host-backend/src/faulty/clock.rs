//! KVM's clock with a bug ([`super::Bug::ClockGoesBack`]): it is set back while the guest runs.

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

/// Starts to set the clock back.
///
/// # Errors
/// When the system gives no thread.
pub fn start(vm: &Arc<VmFd>, stop: &Arc<Stop>) -> io::Result<()> {
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
