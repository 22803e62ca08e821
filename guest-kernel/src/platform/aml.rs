//! What ACPI's bytecode (AML) declares, read without running it: devices whose id and resources are constants, as virtual
//! machines declare their virtio-mmio devices (ACPI 6.5, sections 20.2 and 6.4). An interpreter would be a library's, but
//! those there are take a nightly compiler.
//!
//! Methods are passed over. What cannot be passed over without running it ends the block that it is in.

use super::mmio::Slot;
use alloc::vec::Vec;
use pvops::event::Trigger;

/// virtio-mmio's hardware id (Linux `drivers/virtio/virtio_mmio.c`).
pub const VIRTIO_MMIO: &[u8] = b"LNRO0005";
/// Blocks in blocks that are looked into.
const DEPTH: usize = 8;
/// Most devices that are read.
const DEVICES_MAX: usize = 256;

/// The virtio-mmio devices that a table declares, and how many others have that id without resources that can be read.
pub fn virtio_mmio(aml: &[u8]) -> (Vec<Slot>, usize) {
    let mut devices = Vec::new();
    collect(aml, DEPTH, &mut devices);
    let virtio = devices.iter().filter(|device| device.id == Some(VIRTIO_MMIO));
    let slots: Vec<Slot> = virtio.clone().filter_map(|device| slot(device.resources?)).collect();
    let unread = virtio.count() - slots.len();
    (slots, unread)
}

/// The first two elements of the package that the first object of a name is, those that are numbers of a byte.
///
/// The name is searched for in every byte: code that only an interpreter could skip may come before it.
pub fn start_of_package(aml: &[u8], name: &[u8; 4]) -> Option<[Option<u8>; 2]> {
    let at = find(aml, name)?;
    let Object::Package(elements) = Terms(&aml[at + name.len()..]).object()? else { return None };
    // Their number comes first.
    let mut elements = Terms(elements.get(1..)?);
    Some(core::array::from_fn(|_| match elements.object()? {
        Object::Integer(value) => value.try_into().ok(),
        _ => None,
    }))
}

/// Where a name first stands. Most steps pass over four bytes (Horspool's search): a DSDT has thousands, and each boot looks.
fn find(aml: &[u8], name: &[u8; 4]) -> Option<usize> {
    let mut at = 0;
    loop {
        let window = aml.get(at..at + 4)?;
        if window == name {
            return Some(at);
        }
        // On to the next place where the last byte could fit.
        at += (1..4).find(|&step| name[3 - step] == window[3]).unwrap_or(4);
    }
}

/// What is of interest of a device's objects.
#[derive(Default)]
struct Device<'a> {
    /// `_HID`, where it is a string.
    id: Option<&'a [u8]>,
    /// `_CRS`, where it is a buffer.
    resources: Option<&'a [u8]>,
}

fn collect<'a>(terms: &'a [u8], depth: usize, devices: &mut Vec<Device<'a>>) {
    for term in Terms(terms) {
        match term {
            Term::Scope(body) if depth > 0 => collect(body, depth - 1, devices),
            Term::Device(body) if depth > 0 && devices.len() < DEVICES_MAX => {
                devices.push(declared(body));
                collect(body, depth - 1, devices);
            }
            _ => {}
        }
    }
}

fn declared(body: &[u8]) -> Device<'_> {
    let mut device = Device::default();
    for term in Terms(body) {
        match term {
            Term::Name([b'_', b'H', b'I', b'D'], Object::String(id)) => device.id = Some(id),
            Term::Name([b'_', b'C', b'R', b'S'], Object::Buffer(bytes)) => device.resources = Some(bytes),
            _ => {}
        }
    }
    device
}

/// A constant.
enum Object<'a> {
    String(&'a [u8]),
    Buffer(&'a [u8]),
    Integer(u64),
    Package(&'a [u8]),
    VarPackage,
}

/// A declaration.
enum Term<'a> {
    /// The last segment of a name, and what it names.
    Name([u8; 4], Object<'a>),
    Scope(&'a [u8]),
    Device(&'a [u8]),
    Other,
}

/// Declarations, one after the other, as far as they can be read.
struct Terms<'a>(&'a [u8]);

impl<'a> Iterator for Terms<'a> {
    type Item = Term<'a>;

    fn next(&mut self) -> Option<Term<'a>> {
        self.term()
    }
}

impl<'a> Terms<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    /// What a package length, which counts itself, is the length of (20.2.4).
    fn package(&mut self) -> Option<Self> {
        let lead = usize::from(*self.0.first()?);
        let more = self.0.get(1..=lead >> 6)?;
        let start = if more.is_empty() { lead & 0x3f } else { lead & 0xf };
        let len = more.iter().enumerate().fold(start, |len, (index, byte)| len | usize::from(*byte) << (4 + 8 * index));
        self.take(len)?.get(1 + more.len()..).map(Self)
    }

    /// The last segment of a name string (20.2.2); zeros for the root.
    fn name(&mut self) -> Option<[u8; 4]> {
        const SEGMENT: usize = 4;
        while let [b'\\' | b'^', rest @ ..] = self.0 {
            self.0 = rest;
        }
        let segments = match *self.0.first()? {
            0x00 => {
                self.byte()?;
                return Some([0; SEGMENT]);
            }
            0x2e => {
                self.byte()?;
                2
            }
            0x2f => {
                self.byte()?;
                self.byte()?.into()
            }
            b'A'..=b'Z' | b'_' => 1,
            _ => return None,
        };
        self.take(segments * SEGMENT)?.last_chunk().copied()
    }

    /// A constant (20.2.3).
    fn object(&mut self) -> Option<Object<'a>> {
        let integer = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(match self.byte()? {
            value @ 0..=1 => Object::Integer(value.into()),
            0xff => Object::Integer(u64::MAX),
            0x0a => Object::Integer(integer(self.take(1)?)),
            0x0b => Object::Integer(integer(self.take(2)?)),
            0x0c => Object::Integer(integer(self.take(4)?)),
            0x0e => Object::Integer(integer(self.take(8)?)),
            0x0d => {
                let len = self.0.iter().position(|byte| *byte == 0)?;
                let text = self.take(len)?;
                self.byte()?;
                Object::String(text)
            }
            0x11 => {
                let mut body = self.package()?;
                let Object::Integer(size) = body.object()? else { return None };
                // The rest of a buffer larger than its initializer is zeros.
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                Object::Buffer(&body.0[..size.min(body.0.len())])
            }
            0x12 => Object::Package(self.package()?.0),
            0x13 => {
                self.package()?;
                Object::VarPackage
            }
            _ => return None,
        })
    }

    /// A term that declares something (20.2.5).
    fn term(&mut self) -> Option<Term<'a>> {
        match self.byte()? {
            0x08 => return Some(Term::Name(self.name()?, self.object()?)),
            0x10 => {
                let mut body = self.package()?;
                body.name()?;
                return Some(Term::Scope(body.0));
            }
            // Alias.
            0x06 => {
                self.name()?;
                self.name()?;
            }
            // Method, If, Else.
            0x14 | 0xa0 | 0xa1 => {
                self.package()?;
            }
            // External.
            0x15 => {
                self.name()?;
                self.take(2)?;
            }
            0x5b => match self.byte()? {
                0x82 => {
                    let mut body = self.package()?;
                    body.name()?;
                    return Some(Term::Device(body.0));
                }
                // Field, Processor, power resource, thermal zone, IndexField, BankField.
                0x81 | 0x83..=0x87 => {
                    self.package()?;
                }
                // Operation region: space, offset, length.
                0x80 => {
                    self.name()?;
                    self.byte()?;
                    self.object()?;
                    self.object()?;
                }
                // Mutex, event.
                0x01 => {
                    self.name()?;
                    self.byte()?;
                }
                0x02 => {
                    self.name()?;
                }
                _ => return None,
            },
            _ => return None,
        }
        Some(Term::Other)
    }
}

/// The first range of memory and the first interrupt of resources (6.4): a device has one each.
fn slot(mut resources: &[u8]) -> Option<Slot> {
    let (mut place, mut line) = (None, None);
    while let [tag, rest @ ..] = resources {
        let (len, head) = match tag & 0x80 {
            0 => (usize::from(tag & 7), 0),
            _ => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), 2),
        };
        let body = rest.get(head..head + len)?;
        resources = &rest[head + len..];
        let number = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let is_memory = body.first() == Some(&0);
        let found = match tag {
            // 32-bit fixed memory range.
            0x86 => Some((number(1)?.into(), number(5)?.into())),
            // Address spaces of 32 and 64 bits: minimum and length.
            0x87 if is_memory => Some((number(7)?.into(), number(19)?.into())),
            0x8a if is_memory => Some((long(11)?, long(35)?)),
            // Extended interrupt: flags, count, numbers.
            0x89 => {
                const EDGE: u8 = 1 << 1;
                const ACTIVE_LOW: u8 = 1 << 2;
                let trigger = match (body.first()? & EDGE != 0, body.first()? & ACTIVE_LOW != 0) {
                    (true, false) => Trigger::Edge,
                    (true, true) => Trigger::EdgeLow,
                    (false, false) => Trigger::LevelHigh,
                    (false, true) => Trigger::Level,
                };
                line = line.or(number(2).map(|line| (line, trigger)));
                None
            }
            // End.
            0x78..=0x7f => break,
            _ => None,
        };
        place = place.or(found);
    }
    let ((address, size), (line, trigger)) = (place?, line?);
    Some(Slot { address, size, line, trigger }).filter(|slot| slot.address > 0 && slot.size > 0)
}

#[cfg(test)]
mod tests;
