//! Resets of the guest's machine. Without KVM each test says that it was skipped.

mod common;

use common::{Place, finish, kvm_works, ringside, signal, start, status_of, text};
use host_backend::sample::{halt, print, store32};
use shared_abi::board;
use shared_abi::virtio::console::TRANSMIT_QUEUE;
use shared_abi::virtio::mmio::Register;
use std::io::Read;

/// Returns from the test when there is no KVM, having said so.
macro_rules! needs_kvm {
    ($test:literal) => {
        if !kvm_works($test) {
            return;
        }
    };
}

/// The ways in which a guest resets its machine, with the status when that ends the VM.
fn resets() -> [(&'static str, Vec<u8>, i32); 3] {
    // mov al, VALUE; mov dx, PORT; out dx, al; hlt
    let out = |port: u16, value: u8| [&[0xb0, value, 0x66, 0xba][..], &port.to_le_bytes(), &[0xee], &halt()].concat();
    // lidt of an empty table, then ud2
    let fault = [&[0x0f, 0x01, 0x1d][..], &0x20_0010u32.to_le_bytes(), &[0x0f, 0x0b]].concat();
    [
        ("0xcf9", out(board::RESET_CONTROL_PORT, 6), 0),
        ("0x64", out(board::KEYBOARD_PORT, 0xfe), 0),
        ("triple fault", fault, 4),
    ]
}

#[test]
fn a_reset_ends_the_vm_unless_it_is_to_start_again() {
    needs_kvm!("a_reset_ends_the_vm_unless_it_is_to_start_again");
    for (what, code, status) in resets() {
        let place = Place::new();
        let output = finish(&mut ringside(&place.kernel(&[print(b"!"), code].concat())));
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(status), "!"), "{what}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{what}");
    }
}

#[test]
fn a_reset_starts_the_vm_again_with_clear_memory_and_new_devices() {
    needs_kvm!("a_reset_starts_the_vm_again_with_clear_memory_and_new_devices");
    // cmp dword ptr [0x200000], 0; je over the trap; ud2: memory must be as at first
    let check = [&[0x83, 0x3d][..], &0x20_0000u32.to_le_bytes(), &[0, 0x74, 2, 0x0f, 0x0b]].concat();
    for (what, code, _) in resets() {
        let place = Place::new();
        let (path, disk) = (place.path("control"), place.file("disk", &[0; 4096]));
        let kernel = place.kernel(&[check.clone(), store32(0x20_0000, 1), print(b"again"), code].concat());
        let mut command = ringside(&kernel);
        command.args(["--on-reset", "reboot", "--cpus", "2", "--balloon", "--rng", "--control"]).arg(&path);
        let mut child = start(command.arg("--disk").arg(&disk));
        let mut printed = [0; 25];
        child.child().stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
        assert_eq!(text(&printed), "again".repeat(5), "{what}");
        let status = status_of(&path);
        assert!(status["reboots"].as_u64().unwrap() >= 4, "{what}: {status}");
        signal(&mut child, libc::SIGTERM);
        let output = child.wait();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(143), ""), "{what}");
    }
}

/// Code that gives a byte and a mebibyte to the virtio console in the first slot, and goes on when the byte is out, or
/// after a moment.
fn print_on_virtio_console() -> Vec<u8> {
    let slot = board::VIRTIO_MMIO_BASE as u32;
    let register = |register: Register, value| store32(slot + register.offset() as u32, value);
    let (table, driver, device, text) = (0x20_0000u32, 0x20_1000, 0x20_2000u32, 0x30_0000);
    let steps = [
        register(Register::Status, 1),
        register(Register::Status, 3),
        register(Register::DriverFeaturesSel, 1),
        // VIRTIO_F_VERSION_1
        register(Register::DriverFeatures, 1),
        register(Register::Status, 0xb),
        register(Register::QueueSel, TRANSMIT_QUEUE.into()),
        register(Register::QueueSize, 8),
        register(Register::QueueDescLow, table),
        register(Register::QueueDriverLow, driver),
        register(Register::QueueDeviceLow, device),
        register(Register::QueueReady, 1),
        register(Register::Status, 0xf),
        store32(table, text),
        store32(table + 8, 1),
        store32(table + 16, text),
        store32(table + 24, 1 << 20),
        // The ring, 0 and 1, and its index after the flags.
        store32(driver + 4, 1 << 16),
        store32(driver, 2 << 16),
        register(Register::QueueNotify, TRANSMIT_QUEUE.into()),
        // mov ecx, 0x20000; back: cmp dword ptr [the used ring's index], 0; jne out; dec ecx; jnz back; out:
        [&[0xb9, 0, 0, 2, 0, 0x83, 0x3d][..], &(device + 2).to_le_bytes(), &[0, 0x75, 3, 0x49, 0x75, 0xf4]].concat(),
        // mov ecx, 0x10000; dec ecx; jnz back
        vec![0xb9, 0, 0, 1, 0, 0x49, 0x75, 0xfd],
    ];
    steps.concat()
}

#[test]
fn a_reset_starts_the_vm_again_while_its_console_waits() {
    needs_kvm!("a_reset_starts_the_vm_again_while_its_console_waits");
    let place = Place::new();
    let [(_, reset, _), ..] = resets();
    let kernel = place.kernel(&[print(b"again"), print_on_virtio_console(), reset].concat());
    let pipe = place.path("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: `name` is a string with its NUL.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let _reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    // One that waits for its rate, and one whose reader does not read.
    for (file, rate) in [(place.path("log"), "100"), (pipe, "none")] {
        let mut command = ringside(&kernel);
        command.args(["--on-reset", "reboot", "--console-rate", rate]);
        let mut child = start(command.arg(format!("--virtio-console=file={}", file.display())));
        let mut printed = [0; 25];
        child.child().stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
        assert_eq!(text(&printed), "again".repeat(5), "{rate}");
        signal(&mut child, libc::SIGTERM);
        let output = child.wait();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(143), ""), "{rate}");
    }
}
