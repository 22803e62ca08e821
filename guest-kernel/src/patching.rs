//! The kernel's own call sites: patched for the world that was found, and what became of them.

use crate::cmdline::Cmdline;
use crate::{mm, println};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use pvops::detect::{Surroundings, World};
use pvops::patch::{self, Kind, Summary, Text};
use pvops::{Op, site};
use spin::Once;

static WORLD: Once<World> = Once::new();
static PATCHES: Once<Summary> = Once::new();

/// The world, for people and for checks.
pub fn world() -> World {
    WORLD.get().copied().unwrap_or(World::Native)
}

/// What became of the call sites.
pub fn patches() -> &'static Summary {
    PATCHES.get().unwrap_or(&Summary::EMPTY)
}

/// Makes the table of the world that was found the live one.
pub fn enter_world(found: &Surroundings) {
    let backend = found.world.backend();
    WORLD.call_once(|| found.world);
    // SAFETY: the world is the one that was found, and there is one CPU.
    unsafe { pvops::install(backend) };
    println!("ringside {}: world {}, hypervisor {}", env!("CARGO_PKG_VERSION"), backend.name, found.hypervisor());
}

/// Rewrites the call sites for the world that was found, unless the command line says `pvops=unpatched`.
pub fn patch_kernel(cmdline: Cmdline) {
    let patched = match cmdline.value("pvops") {
        Some("unpatched") => false,
        None | Some("patched") => true,
        Some(other) => {
            log::warn!("pvops={other}: not patched or unpatched; patching");
            true
        }
    };
    let mut text = DirectMapText;
    let text: Option<&mut dyn Text> = if patched { Some(&mut text) } else { None };
    // SAFETY: the sites are the kernel's own, the world was detected, and there is one CPU.
    let summary = unsafe { patch::apply_all(pvops::site::all(), world().backend(), text) };
    match summary {
        Ok(summary) => {
            PATCHES.call_once(|| summary);
        }
        Err(error) => panic!("cannot patch the kernel: {error}"),
    }
}

/// Writes to the kernel's text through the direct map, where it is data.
struct DirectMapText;

impl Text for DirectMapText {
    unsafe fn write(&mut self, address: usize, bytes: &[u8]) {
        let alias = mm::direct(mm::image::physical(address));
        // SAFETY: the direct map has the text writable until `protect_image`; per the contract nobody executes the site.
        unsafe { (alias as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn synchronize(&mut self) {
        pvops::cpu::serialize();
    }
}

/// Bytes in hexadecimal, for people.
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What stands at the sites of an operation, in Intel's syntax, padding included.
pub fn mnemonics(op: Op, kind: Option<Kind>) -> String {
    let template = crate::patching::world().backend().template(op);
    let (text, code) = match (kind, template) {
        (None, _) => return alloc::format!("call [{}]", op.name()),
        (Some(Kind::Direct), _) | (_, None) => (alloc::format!("call {}", op.name()), patch::DIRECT_CALL_LEN),
        (Some(_), Some(template)) => (template.text().into(), template.bytes().len()),
    };
    let padding = site::len_of(op).saturating_sub(code).div_ceil(patch::NOP_MAX);
    let nops = core::iter::repeat_n("nop", padding);
    let instructions: Vec<&str> = core::iter::once(&*text).filter(|text| !text.is_empty()).chain(nops).collect();
    instructions.join("; ")
}
