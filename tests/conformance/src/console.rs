//! The virtio console. The harness types its input, and types back what the console printed.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::host_action::{HostAction, field},
    crate::support::device::Dev,
    crate::support::raw::{Buf, Dir, Queue, link, wait_until},
    crate::support::{Context, End, Verdict, equal, fail, holds, skip},
    alloc::string::String,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::console::{
        CONTROL_RECEIVE_QUEUE, CONTROL_TRANSMIT_QUEUE, Config, Control, Features, RECEIVE_QUEUE, TRANSMIT_QUEUE, event,
    },
};

const OPERATION: &str = "5.3.6 Device Operation";
const LAYOUT: &str = "5.3.4 Device configuration layout";
const INITIALIZATION: &str = "5.3.5.1 Device Requirements: Device Initialization";
const MULTIPORT: &str = "5.3.6.2 Multiport Device Operation";
const PORTS: &str = "5.3.6.2.1 Device Requirements: Multiport Device Operation";
const FRAMING: &str = "2.7.4.1 Device Requirements: Message Framing";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "console/output-is-taken",
        rule: "Output is consumed",
        clause: OPERATION,
        method: "Send a line",
        expectation: "Used, with length 0",
        run: |cx| output(cx, 1),
    },
    Check {
        name: "console/output-in-parts-is-taken",
        rule: "A device makes no assumptions about how a message is divided",
        clause: FRAMING,
        method: "Send a line in three descriptors",
        expectation: "Used, with length 0",
        run: |cx| output(cx, 3),
    },
    Check {
        name: "console/outputs-in-flight-are-all-taken",
        rule: "Buffers in flight are all consumed",
        clause: OPERATION,
        method: "Send 8 lines with one notification",
        expectation: "Eight used elements, each id once",
        run: |cx| {
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
            queue.wait_each_once(count, 8)?;
            dev.healthy()
        },
    },
    Check {
        name: "console/long-output-is-taken",
        rule: "A buffer may be longer than a page",
        clause: OPERATION,
        method: "Send 20,000 bytes in one descriptor",
        expectation: "Used, with length 0",
        run: |cx| {
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
        },
    },
    Check {
        name: "console/size-is-readable",
        rule: "cols and rows are valid with SIZE",
        clause: LAYOUT,
        method: "Read them, where offered",
        expectation: "Stable",
        run: |cx| {
            let dev = with(cx, Features::SIZE)?;
            equal("cols and rows, read again", dev.regs().config_read(0, 4), dev.regs().config_read(0, 4))
        },
    },
    Check {
        name: "console/only-two-queues-without-multiport",
        rule: "Other queues than those of port 0 exist only with MULTIPORT",
        clause: "5.3.2 Virtqueues",
        method: "Where MULTIPORT is not offered, read the size of queues 2 and 4",
        expectation: "0",
        run: |cx| {
            let dev = Dev::new(cx.device(DeviceType::CONSOLE)?)?;
            if dev.offered & Features::MULTIPORT.bits() != 0 {
                return Err(skip("the console offers MULTIPORT"));
            }
            [2, 4].into_iter().try_for_each(|queue| {
                dev.regs().select_queue(queue);
                equal("size of a queue that is not there", 0, dev.regs().queue_size_max())
            })
        },
    },
    Check {
        name: "console/emergency-write-needs-no-driver",
        rule: "A write to emerg_wr is allowed on an unconfigured device",
        clause: INITIALIZATION,
        method: "Reset, write a line to emerg_wr, then drive the device as usual",
        expectation: "Status 0 after the write; output is taken",
        run: |cx| {
            write_in_emergency(cx, LINE)?;
            output(cx, 1)
        },
    },
    Check {
        name: "console/emergency-write-is-heard",
        rule: "The lower byte of emerg_wr is output",
        clause: INITIALIZATION,
        method: "Write a text to emerg_wr byte by byte; the harness types back what it reads",
        expectation: "The same text arrives",
        level: Should,
        run: |cx| {
            const TEXT: &str = "in-an-emergency";
            cx.can_request(HostAction::Echo)?;
            write_in_emergency(cx, TEXT.as_bytes())?;
            let mut port = Port::start(cx, 256)?;
            cx.request(HostAction::Echo, Some((field::TEXT, &TEXT)))?;
            port.expect(TEXT)
        },
    },
    Check {
        name: "console/input-arrives",
        rule: "The contents of a used receive buffer is the input",
        clause: OPERATION,
        method: "Have a text typed",
        expectation: "It arrives, no byte more and none less",
        run: |cx| typed(cx, "typed into the guest", 256).map(drop),
    },
    Check {
        name: "console/input-arrives-in-small-buffers",
        rule: "Input goes on in the next buffer",
        clause: OPERATION,
        method: "Have 12 bytes typed with receive buffers of 4 bytes",
        expectation: "The text, in order; no used length above 4",
        run: |cx| {
            let port = typed(cx, "twelve bytes", 4)?;
            holds(
                port.lengths.iter().all(|&len| len <= 4),
                "used lengths",
                "up to 4",
                format_args!("{:?}", port.lengths),
            )
        },
    },
    Check {
        name: "console/nothing-behind-the-input",
        rule: "Bytes after the used length are left as they were, although a device may write more than it says",
        clause: "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        method: "Fill the receive buffer with 0xa5 before a text is typed",
        expectation: "0xa5 after the used length",
        level: Should,
        run: |cx| {
            let port = typed(cx, "short", 256)?;
            let (buf, len) = (port.buf.part(0, 256), port.lengths[0] as usize);
            equal("first byte changed after the used length", None, buf.part(len, 256 - len).first_not(FILL))
        },
    },
    Check {
        name: "console/no-input-uses-no-buffer",
        rule: "A receive buffer is used when there is input",
        clause: OPERATION,
        method: "Offer buffers, wait 50 ms without input",
        expectation: "The used index stays 0",
        run: |cx| {
            let port = Port::start(cx, 64)?;
            wait_until(50_000_000, || false);
            equal("used index of the receive queue", 0, port.receive.used_index())?;
            port.dev.healthy()
        },
    },
    Check {
        name: "console/input-interrupts",
        rule: "A used receive buffer is signalled",
        clause: OPERATION,
        method: "Have a text typed, count interrupts",
        expectation: "At least one",
        run: |cx| {
            cx.can_request(HostAction::Type)?;
            let mut port = Port::start(cx, 256)?;
            let Some(before) = port.dev.interrupts() else { return Err(skip("the console cannot interrupt")) };
            cx.request(HostAction::Type, Some((field::TEXT, &"ring")))?;
            let came = wait_until(PATIENCE, || port.dev.interrupts() != Some(before));
            // An interrupt may come before the input: what is not taken here would be the next check's.
            port.expect("ring")?;
            holds(came, "interrupts within 5 s", "1 or more", 0)
        },
    },
    Check {
        name: "console/output-is-heard",
        rule: "Output leaves the machine as it was sent",
        clause: OPERATION,
        method: "Send a text in two buffers; the harness types back what it reads",
        expectation: "The same text arrives",
        run: |cx| {
            const TEXT: &str = "out-of-the-guest-and-back";
            cx.can_request(HostAction::Echo)?;
            let mut port = Port::start(cx, 256)?;
            let (first, second) = TEXT.as_bytes().split_at(9);
            send(&port.dev, &mut port.transmit, first, 1)?;
            send(&port.dev, &mut port.transmit, second, 2)?;
            cx.request(HostAction::Echo, Some((field::TEXT, &TEXT)))?;
            port.expect(TEXT)
        },
    },
    Check {
        name: "console/ports-are-announced",
        rule: "Active ports are announced with PORT_ADD once the driver is ready",
        clause: PORTS,
        method: "Where MULTIPORT is offered, send DEVICE_READY",
        expectation: "PORT_ADD with ids below max_nr_ports, each once",
        run: |cx| ports(cx).map(drop),
    },
    Check {
        name: "console/console-port-is-nominated",
        rule: "The device nominates a console port",
        clause: MULTIPORT,
        method: "Answer PORT_ADD of port 0 with PORT_READY",
        expectation: "CONSOLE_PORT for port 0",
        run: |cx| {
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
            Err(fail("messages after PORT_READY", "CONSOLE_PORT", "none"))
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const LINE: &[u8] = b"conform\r\n";

    /// What receive buffers are filled with.
    pub const FILL: u8 = 0xa5;

    /// How long typed input may take.
    pub const PATIENCE: u64 = 5_000_000_000;

    /// Receive buffers.
    pub const BUFFERS: u16 = 8;

    /// Features that a check is about.
    pub fn with(cx: &Context, features: Features) -> Result<Dev<'_>, End> {
        let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, features.bits())?;
        if !dev.has(features.bits()) {
            return Err(skip("the console does not offer it"));
        }
        Ok(dev)
    }

    /// Port 0 with receive buffers offered.
    pub struct Port<'a> {
        pub dev: Dev<'a>,
        pub receive: Queue,
        pub transmit: Queue,
        pub buf: Buf,
        /// Bytes of a receive buffer.
        pub size: usize,
        /// Used lengths so far.
        pub lengths: Vec<u32>,
    }

    impl<'a> Port<'a> {
        pub fn start(cx: &'a Context, size: usize) -> Result<Self, End> {
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
        pub fn expect(&mut self, text: &str) -> Verdict {
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
            equal("used elements after the input", 0, self.receive.used_index().wrapping_sub(self.receive.seen()))?;
            self.dev.healthy()
        }
    }

    pub fn typed<'a>(cx: &'a Context, text: &str, size: usize) -> Result<Port<'a>, End> {
        cx.can_request(HostAction::Type)?;
        let mut port = Port::start(cx, size)?;
        cx.request(HostAction::Type, Some((field::TEXT, &text)))?;
        port.expect(text)?;
        Ok(port)
    }

    pub fn output(cx: &Context, parts: usize) -> Verdict {
        let dev = Dev::with_features(cx.device(DeviceType::CONSOLE)?, 0)?;
        let mut queue = dev.queue(TRANSMIT_QUEUE, 8)?;
        dev.start()?;
        send(&dev, &mut queue, LINE, parts)
    }

    /// Sends bytes in so many descriptors of one chain.
    pub fn send(dev: &Dev<'_>, queue: &mut Queue, bytes: &[u8], parts: usize) -> Verdict {
        let line = dev.buffer(bytes.len())?;
        line.put(bytes);
        let size = bytes.len() / parts;
        let links: Vec<_> = (0..parts).map(|n| link(&line.part(n * size, size), Dir::Out)).collect();
        let head = queue.chain(0, &links);
        queue.send(dev, head);
        equal("used length", 0, queue.wait()?.len)?;
        dev.healthy()
    }

    /// Writes a text to `emerg_wr` of a device without a driver.
    pub fn write_in_emergency(cx: &Context, text: &[u8]) -> Verdict {
        let target = cx.device(DeviceType::CONSOLE)?;
        let offered = Dev::new(target)?.offered;
        if offered & Features::EMERG_WRITE.bits() == 0 {
            return Err(skip("the console does not offer EMERG_WRITE"));
        }
        // The end of `Dev` has reset it.
        text.iter().for_each(|&byte| target.regs.config_write(offset_of!(Config, emerg_wr), 4, byte.into()));
        equal("status after the write", 0, target.regs.status())
    }

    /// The control queues of a console with MULTIPORT.
    pub struct Ports<'a> {
        pub dev: Dev<'a>,
        pub receive: Queue,
        pub transmit: Queue,
        pub buf: Buf,
    }

    /// Bytes of a control message with room for a name.
    pub const MESSAGE: usize = 64;

    impl<'a> Ports<'a> {
        pub fn start(cx: &'a Context) -> Result<Self, End> {
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

        pub fn send(&mut self, control: Control) -> Verdict {
            let buf = self.dev.buffer(size_of::<Control>())?;
            buf.write32(0, control.id);
            buf.write16(4, control.event);
            buf.write16(6, control.value);
            let head = self.transmit.chain(0, &[link(&buf, Dir::Out)]);
            self.transmit.send(&self.dev, head);
            equal("used length of a control message", 0, self.transmit.wait()?.len)
        }

        /// The next message, while they come.
        pub fn next(&mut self) -> Result<Option<Control>, End> {
            if !wait_until(200_000_000, || self.receive.used_index() != self.receive.seen()) {
                return Ok(None);
            }
            let used = self.receive.wait()?;
            holds(used.id < self.receive.size.into(), "id of a used element", "one that is in flight", used.id)?;
            holds(used.len >= 8, "length of a control message", "8 or more", used.len)?;
            let at = used.id as usize * MESSAGE;
            let message =
                Control { id: self.buf.read32(at), event: self.buf.read16(at + 4), value: self.buf.read16(at + 6) };
            // A device may have more to say than there are buffers.
            self.receive.send(&self.dev, used.id as u16);
            Ok(Some(message))
        }
    }

    /// Brings the device to announce its ports.
    pub fn ports(cx: &Context) -> Result<(Ports<'_>, Vec<u32>), End> {
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
}
