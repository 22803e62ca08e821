//! The fuzzer's bytes as a lying device's script: the first chooses the driver.
#![no_main]

use hostile_device::{Script, Subject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, script)) = bytes.split_first() else { return };
    let subject = Subject::ALL[usize::from(*choice) % Subject::ALL.len()];
    run(subject, &mut Script::from_bytes(script.to_vec()));
});
