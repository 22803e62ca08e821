//! The hypervisor's console, by `pvops::vmm`.

/// Bytes that are asked for at once.
const CHUNK: usize = 64;

/// Input that was read and not yet asked for.
pub(super) struct Console {
    buffer: [u8; CHUNK],
    next: usize,
    len: usize,
}

impl Console {
    pub(super) const fn new() -> Self {
        Self { buffer: [0; CHUNK], next: 0, len: 0 }
    }

    pub(super) fn read(&mut self) -> Option<u8> {
        if self.next == self.len {
            self.len = pvops::vmm::read(&mut self.buffer);
            self.next = 0;
        }
        let byte = *self.buffer[..self.len].get(self.next)?;
        self.next += 1;
        Some(byte)
    }
}

/// Writes all bytes; a hypervisor that takes none gets no more.
pub(super) fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match pvops::vmm::write(bytes) {
            0 => return,
            taken => bytes = bytes.get(taken..).unwrap_or(&[]),
        }
    }
}
