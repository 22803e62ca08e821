//! The fuzzer's bytes as the script of a hostile driver of `virtio::rng`.
#![no_main]

use hostile_driver::{Script, Subject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    run(Subject::Rng, &mut Script::from_bytes(bytes.to_vec()));
});
