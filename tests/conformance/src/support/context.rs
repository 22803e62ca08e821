//! What a check is given: the devices that were found, and ways to say more than a verdict.

use super::device::{Target, is_read_only};
use super::verdict::{End, Verdict, skip};
use crate::host_action::{HostAction, WORD};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Display;
use guest_kernel::cmdline::Cmdline;
use guest_kernel::console::report;
use guest_kernel::devices::place::Places;
use guest_kernel::platform::registers::Window;
use pvops::detect::{Surroundings, World};
use shared_abi::report::{Kind, Outcome};
use shared_abi::virtio::DeviceType;

/// What the checks find: devices, and what CPUID reports.
pub(crate) struct Context {
    pub targets: Vec<Target>,
    /// Register blocks that the machine names as those of devices, and that do not look like one.
    pub strange: Vec<Window>,
    pub found: Surroundings,
    /// What the harness can do, from the command line.
    host_actions: &'static str,
    /// The check that runs.
    pub name: &'static str,
    /// Whether an echo peer echoes frames, once that was tried.
    pub echo_peer: Cell<Option<bool>>,
    /// What it says of how it was done, for the evidence.
    pub did: RefCell<Option<String>>,
}

impl Context {
    pub fn new(found: Surroundings, cmdline: Cmdline) -> Self {
        let mut targets = Vec::new();
        let places = Places::find(&found, cmdline);
        for (device_type, place) in places.modern {
            let location = place.location();
            match Target::open(device_type, place) {
                Ok(target) => targets.push(target),
                Err(why) => log::error!("{} at {location}: {why}", device_type.name()),
            }
        }
        // The checks that write take the first disk.
        targets.sort_by_key(is_read_only);
        Self {
            targets,
            strange: places.strange.into_iter().map(|(_, window)| window).collect(),
            found,
            host_actions: cmdline.value(WORD).unwrap_or(""),
            name: "",
            echo_peer: Cell::new(None),
            did: RefCell::new(None),
        }
    }

    /// Whether the kernel has something of the machine that a paravirtual hypervisor keeps for itself.
    ///
    /// # Errors
    /// Not applicable where it has none.
    pub fn has(&self, what: &str) -> Verdict {
        match self.found.world {
            World::Native | World::Kvm => Ok(()),
            World::Xen => Err(skip(format!("{what}: Xen keeps it for itself"))),
        }
    }

    /// Says how much was done where that depends on the machine, and what was seen although it breaks no rule.
    pub fn did(&self, what: impl Display) {
        self.did.replace(Some(what.to_string()));
    }

    /// The first device of a type.
    ///
    /// # Errors
    /// Not applicable when there is none.
    pub fn device(&self, device_type: DeviceType) -> Result<&Target, End> {
        let found = self.targets.iter().find(|target| target.device_type == device_type);
        found.ok_or_else(|| skip(format!("there is no {} device", device_type.name())))
    }
}

impl Context {
    /// Whether the harness supports a host action.
    ///
    /// # Errors
    /// Not applicable when it would not.
    pub fn can_request(&self, action: HostAction) -> Verdict {
        self.step(action).map(drop)
    }

    /// The amount by which it can be changed.
    fn step(&self, action: HostAction) -> Result<u32, End> {
        let mut able = self.host_actions.split(',').filter_map(HostAction::able);
        let step = able.find_map(|(able, step)| (able == action).then_some(step));
        step.ok_or_else(|| skip(format!("the harness supports no host action {:?}", action.word())))
    }

    /// So many pages of the balloon's, or a few more where it moves by more than a page.
    pub fn pages(&self, pages: u32) -> u32 {
        pages.next_multiple_of(self.step(HostAction::Balloon).unwrap_or(1))
    }

    /// Asks the harness for a host action.
    ///
    /// # Errors
    /// Not applicable where the harness does not support it.
    pub fn request(&self, action: HostAction, field: Option<(&str, &dyn Display)>) -> Verdict {
        self.can_request(action)?;
        report(Kind::Request, action.word(), Outcome::Waiting, |line| match field {
            Some((key, value)) => line.field(key, value),
            None => Ok(line),
        });
        Ok(())
    }
}
