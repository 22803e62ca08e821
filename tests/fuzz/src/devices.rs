//! The device models and the drivers: the bytes are the script of the other side.

use hostile_driver::{Script, Subject};

pub(crate) fn block(bytes: &[u8]) {
    device(Subject::Block, bytes);
}

pub(crate) fn net(bytes: &[u8]) {
    device(Subject::Net, bytes);
}

pub(crate) fn balloon(bytes: &[u8]) {
    device(Subject::Balloon, bytes);
}

pub(crate) fn console(bytes: &[u8]) {
    device(Subject::Console, bytes);
}

pub(crate) fn rng(bytes: &[u8]) {
    device(Subject::Rng, bytes);
}

fn device(subject: Subject, bytes: &[u8]) {
    hostile_driver::run(subject, &mut Script::from_bytes(bytes.to_vec()));
}

/// The first byte chooses the driver.
pub(crate) fn drivers(bytes: &[u8]) {
    let Some((choice, script)) = bytes.split_first() else { return };
    let subjects = hostile_device::Subject::ALL;
    hostile_device::run(subjects[usize::from(*choice) % subjects.len()], &mut Script::from_bytes(script.to_vec()));
}
