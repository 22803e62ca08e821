//! What becomes a bootable disk.

use super::Fixture;
use mkimage::bootable::Image;
use mkimage::loaders::Loaders;
use shared_abi::disk::{BIOS_MAGIC, BIOS_PARAMETERS};

/// Loaders that boot nothing.
fn loaders() -> Loaders {
    let mut bios = vec![0x90; 3 * 512];
    bios[BIOS_PARAMETERS..BIOS_PARAMETERS + 8].copy_from_slice(&BIOS_MAGIC);
    bios[510..512].copy_from_slice(&[0x55, 0xaa]);
    Loaders { efi: b"MZ, if it were one".to_vec(), bios }
}

/// What goes into a disk of 64 MiB.
pub(crate) fn image() -> Image {
    let initrd = vec![7; 3000];
    let kernel = Fixture::default().build();
    Image { kernel, cmdline: "tour x=1".into(), initrd, loaders: Some(loaders()), ..Image::default() }
}
