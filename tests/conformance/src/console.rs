//! The virtio console. The harness types its input, and types back what the console printed.

use super::device::Dev;
use super::raw::{Buf, Dir, Queue, link, wait_until};
use super::{Context, End, Row, Verdict, equal, fail, holds, skip};
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use shared_abi::host_action::{HostAction, field};
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::console::{
    CONTROL_RECEIVE_QUEUE, CONTROL_TRANSMIT_QUEUE, Config, Control, Features, RECEIVE_QUEUE, TRANSMIT_QUEUE, event,
};

pub const ROWS: &[Row] = &[
    ("console/output-is-taken", |cx| output(cx, 1)),
    ("console/output-in-parts-is-taken", |cx| output(cx, 3)),
    ("console/outputs-in-flight-are-all-taken", in_flight),
    ("console/long-output-is-taken", long_output),
    ("console/size-is-readable", |cx| {
        let dev = with(cx, Features::SIZE)?;
        equal("cols and rows, read again", dev.regs().config_read(0, 4), dev.regs().config_read(0, 4))
    }),
    ("console/only-two-queues-without-multiport", only_two_queues),
    ("console/emergency-write-needs-no-driver", emergency_write),
    ("console/emergency-write-is-heard", emergency_write_is_heard),
    ("console/input-arrives", |cx| typed(cx, "typed into the guest", 256).map(drop)),
    ("console/input-arrives-in-small-buffers", |cx| {
        let port = typed(cx, "twelve bytes", 4)?;
        holds(port.lengths.iter().all(|&len| len <= 4), "used lengths", "up to 4", format_args!("{:?}", port.lengths))
    }),
    ("console/nothing-behind-the-input", |cx| {
        let port = typed(cx, "short", 256)?;
        let (buf, len) = (port.buf.part(0, 256), port.lengths[0] as usize);
        equal("first byte changed behind the used length", None, buf.part(len, 256 - len).first_not(FILL))
    }),
    ("console/no-input-uses-no-buffer", |cx| {
        let port = Port::start(cx, 64)?;
        wait_until(50_000_000, || false);
        equal("used index of the receive queue", 0, port.receive.used_index())?;
        port.dev.healthy()
    }),
    ("console/input-interrupts", |cx| {
        cx.can_request(HostAction::Type)?;
        let mut port = Port::start(cx, 256)?;
        let Some(before) = port.dev.interrupts() else { return Err(skip("the console cannot interrupt")) };
        cx.request(HostAction::Type, Some((field::TEXT, &"ring")))?;
        let came = wait_until(PATIENCE, || port.dev.interrupts() != Some(before));
        // An interrupt may come before the input: what is not taken here would be the next check's.
        port.expect("ring")?;
        holds(came, "interrupts within 5 s", "1 or more", 0)
    }),
    ("console/output-is-heard", output_is_heard),
    ("console/ports-are-announced", |cx| ports(cx).map(drop)),
    ("console/console-port-is-nominated", console_port),
];

const LINE: &[u8] = b"conform\r\n";
/// What receive buffers are filled with.
const FILL: u8 = 0xa5;
/// How long typed input may take.
const PATIENCE: u64 = 5_000_000_000;
/// Receive buffers.
const BUFFERS: u16 = 8;

/// Features that a check is about.
fn with(cx: &Context, features: Features) -> Result<Dev<'_>, End> {
    let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, features.bits())?;
    if !dev.has(features.bits()) {
        return Err(skip("the console does not offer it"));
    }
    Ok(dev)
}

/// Port 0 with receive buffers offered.
struct Port<'a> {
    dev: Dev<'a>,
    receive: Queue,
    transmit: Queue,
    buf: Buf,
    /// Bytes of a receive buffer.
    size: usize,
    /// Used lengths so far.
    lengths: Vec<u32>,
}

impl<'a> Port<'a> {
    fn start(cx: &'a Context, size: usize) -> Result<Self, End> {
        let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, 0)?;
        let (mut receive, transmit) = (dev.queue(RECEIVE_QUEUE, BUFFERS)?, dev.queue(TRANSMIT_QUEUE, BUFFERS)?);
        let buf = dev.buffer(size * usize::from(receive.size))?;
        buf.fill(FILL);
        dev.start()?;
        for n in 0..receive.size {
            let head = receive.chain(n, &[link(&buf.part(usize::from(n) * size, size), Dir::In)]);
            receive.offer(head);
        }
        receive.publish();
        receive.notify(&dev);
        Ok(Self { dev, receive, transmit, buf, size, lengths: Vec::new() })
    }

    /// Takes input until the text is there; then nothing may follow.
    fn expect(&mut self, text: &str) -> Verdict {
        let mut got = Vec::new();
        while got.len() < text.len() {
            let there = wait_until(PATIENCE, || self.receive.used_index() != self.receive.seen());
            if !there {
                return Err(fail("input within 5 s", text, String::from_utf8_lossy(&got)));
            }
            let used = self.receive.wait()?;
            holds(used.id < self.receive.size.into(), "id of a used element", "one that is in flight", used.id)?;
            holds(used.len as usize <= self.size, "used length", format_args!("up to {}", self.size), used.len)?;
            got.extend(self.buf.part(used.id as usize * self.size, used.len as usize).bytes());
            self.lengths.push(used.len);
        }
        equal("the input", text, &String::from_utf8_lossy(&got))?;
        wait_until(20_000_000, || false);
        equal("used elements behind the input", 0, self.receive.used_index().wrapping_sub(self.receive.seen()))?;
        self.dev.healthy()
    }
}

fn typed<'a>(cx: &'a Context, text: &str, size: usize) -> Result<Port<'a>, End> {
    cx.can_request(HostAction::Type)?;
    let mut port = Port::start(cx, size)?;
    cx.request(HostAction::Type, Some((field::TEXT, &text)))?;
    port.expect(text)?;
    Ok(port)
}

fn output(cx: &Context, parts: usize) -> Verdict {
    let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, 0)?;
    let mut queue = dev.queue(TRANSMIT_QUEUE, 8)?;
    dev.start()?;
    send(&dev, &mut queue, LINE, parts)
}

/// Sends bytes in so many descriptors of one chain.
fn send(dev: &Dev<'_>, queue: &mut Queue, bytes: &[u8], parts: usize) -> Verdict {
    let line = dev.buffer(bytes.len())?;
    line.put(bytes);
    let size = bytes.len() / parts;
    let links: Vec<_> = (0..parts).map(|n| link(&line.part(n * size, size), Dir::Out)).collect();
    let head = queue.chain(0, &links);
    queue.send(dev, head);
    equal("used length", 0, queue.wait()?.len)?;
    dev.healthy()
}

fn in_flight(cx: &Context) -> Verdict {
    let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, 0)?;
    let mut queue = dev.queue(TRANSMIT_QUEUE, 8)?;
    dev.start()?;
    let line = dev.buffer(LINE.len())?;
    line.put(LINE);
    // A device may keep a larger size.
    let count = queue.size.min(8);
    for n in 0..count {
        let head = queue.chain(n, &[link(&line, Dir::Out)]);
        queue.offer(head);
    }
    queue.publish();
    queue.notify(&dev);
    let mut seen = 0u32;
    for _ in 0..count {
        let used = queue.wait()?;
        holds(used.id < 8 && seen & 1 << used.id == 0, "id of a used element", "each once", used.id)?;
        seen |= 1 << used.id;
    }
    dev.healthy()
}

fn long_output(cx: &Context) -> Verdict {
    const LEN: usize = 20_000;
    let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, 0)?;
    let mut queue = dev.queue(TRANSMIT_QUEUE, 8)?;
    dev.start()?;
    // Zeroes: nothing that a terminal would show.
    let buf = dev.buffer(LEN)?;
    let head = queue.chain(0, &[link(&buf, Dir::Out)]);
    queue.send(&dev, head);
    equal("used length", 0, queue.wait()?.len)?;
    dev.healthy()
}

fn only_two_queues(cx: &Context) -> Verdict {
    let dev = Dev::new(cx.device(DeviceType::CONSOLE)?)?;
    if dev.offered & Features::MULTIPORT.bits() != 0 {
        return Err(skip("the console offers MULTIPORT"));
    }
    [2, 4].into_iter().try_for_each(|queue| {
        dev.regs().select_queue(queue);
        equal("size of a queue that is not there", 0, dev.regs().queue_size_max())
    })
}

/// Writes a text to `emerg_wr` of a device that nobody drives.
fn write_in_emergency(cx: &Context, text: &[u8]) -> Verdict {
    let target = cx.device(DeviceType::CONSOLE)?;
    let offered = Dev::new(target)?.offered;
    if offered & Features::EMERG_WRITE.bits() == 0 {
        return Err(skip("the console does not offer EMERG_WRITE"));
    }
    // The end of `Dev` has reset it.
    text.iter().for_each(|&byte| target.regs.config_write(offset_of!(Config, emerg_wr), 4, byte.into()));
    equal("status behind the write", 0, target.regs.status())
}

fn emergency_write(cx: &Context) -> Verdict {
    write_in_emergency(cx, LINE)?;
    output(cx, 1)
}

fn emergency_write_is_heard(cx: &Context) -> Verdict {
    const TEXT: &str = "in-an-emergency";
    cx.can_request(HostAction::Echo)?;
    write_in_emergency(cx, TEXT.as_bytes())?;
    let mut port = Port::start(cx, 256)?;
    cx.request(HostAction::Echo, Some((field::TEXT, &TEXT)))?;
    port.expect(TEXT)
}

fn output_is_heard(cx: &Context) -> Verdict {
    const TEXT: &str = "out-of-the-guest-and-back";
    cx.can_request(HostAction::Echo)?;
    let mut port = Port::start(cx, 256)?;
    let (first, second) = TEXT.as_bytes().split_at(9);
    send(&port.dev, &mut port.transmit, first, 1)?;
    send(&port.dev, &mut port.transmit, second, 2)?;
    cx.request(HostAction::Echo, Some((field::TEXT, &TEXT)))?;
    port.expect(TEXT)
}

/// The control queues of a console with MULTIPORT.
struct Ports<'a> {
    dev: Dev<'a>,
    receive: Queue,
    transmit: Queue,
    buf: Buf,
}

/// Bytes of a control message with room for a name.
const MESSAGE: usize = 64;

impl<'a> Ports<'a> {
    fn start(cx: &'a Context) -> Result<Self, End> {
        let dev = with(cx, Features::MULTIPORT)?;
        // The queues of port 0 are there too.
        for queue in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
            dev.queue(queue, BUFFERS)?;
        }
        let mut receive = dev.queue(CONTROL_RECEIVE_QUEUE, BUFFERS)?;
        let transmit = dev.queue(CONTROL_TRANSMIT_QUEUE, BUFFERS)?;
        let buf = dev.buffer(MESSAGE * usize::from(receive.size))?;
        dev.start()?;
        for n in 0..receive.size {
            let head = receive.chain(n, &[link(&buf.part(usize::from(n) * MESSAGE, MESSAGE), Dir::In)]);
            receive.offer(head);
        }
        receive.publish();
        receive.notify(&dev);
        Ok(Self { dev, receive, transmit, buf })
    }

    fn send(&mut self, control: Control) -> Verdict {
        let buf = self.dev.buffer(size_of::<Control>())?;
        buf.write32(0, control.id);
        buf.write16(4, control.event);
        buf.write16(6, control.value);
        let head = self.transmit.chain(0, &[link(&buf, Dir::Out)]);
        self.transmit.send(&self.dev, head);
        equal("used length of a control message", 0, self.transmit.wait()?.len)
    }

    /// The next message, while they come.
    fn next(&mut self) -> Result<Option<Control>, End> {
        if !wait_until(200_000_000, || self.receive.used_index() != self.receive.seen()) {
            return Ok(None);
        }
        let used = self.receive.wait()?;
        holds(used.id < self.receive.size.into(), "id of a used element", "one that is in flight", used.id)?;
        holds(used.len >= 8, "length of a control message", "8 or more", used.len)?;
        let at = used.id as usize * MESSAGE;
        Ok(Some(Control { id: self.buf.read32(at), event: self.buf.read16(at + 4), value: self.buf.read16(at + 6) }))
    }
}

/// Brings the device to announce its ports.
fn ports(cx: &Context) -> Result<(Ports<'_>, Vec<u32>), End> {
    let mut ports = Ports::start(cx)?;
    let most = ports.dev.regs().config_read(offset_of!(Config, max_nr_ports), 4);
    ports.send(Control { id: u32::MAX, event: event::DEVICE_READY, value: 1 })?;
    let mut ids = Vec::new();
    while let Some(message) = ports.next()? {
        if message.event == event::PORT_ADD {
            let new = message.id < most && !ids.contains(&message.id);
            holds(new, "id of a port", format_args!("below {most}, each once"), message.id)?;
            ids.push(message.id);
        }
    }
    holds(!ids.is_empty(), "ports announced", "1 or more", 0)?;
    ports.dev.healthy()?;
    Ok((ports, ids))
}

fn console_port(cx: &Context) -> Verdict {
    let (mut ports, ids) = ports(cx)?;
    if !ids.contains(&0) {
        return Err(skip("the console has no port 0"));
    }
    ports.send(Control { id: 0, event: event::PORT_READY, value: 1 })?;
    while let Some(message) = ports.next()? {
        if message.event == event::CONSOLE_PORT {
            return equal("the console port", 0, message.id);
        }
    }
    Err(fail("messages behind PORT_READY", "CONSOLE_PORT", "none"))
}
