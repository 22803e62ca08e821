//! The control queue of the network card: answers to every class of commands, and what the filters let in.
//!
//! The echo peer sends to whatever address a frame claims to come from, which is how frames for others are made.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::echo::BROADCAST,
    crate::host_action::HostAction,
    crate::support::card::{Card, PATIENCE, find_echo_peer, tagged},
    crate::support::control_queue::{Control, Heard},
    crate::support::device::Dev,
    crate::support::raw::{Dir, link, wait_until},
    crate::support::{Context, Verdict, advice, binding, equal, holds, skip, worst},
    alloc::format,
    code::*,
    core::mem::offset_of,
    guest_kernel::trap::irq,
    shared_abi::virtio::net::control::{
        ADDR_SET, ALLMULTI, ALLUNI, ANNOUNCE, ANNOUNCE_ACK, ERR, MAC, MQ, NOBCAST, NOMULTI, NOUNI, OK, PAIRS_SET,
        PROMISC, RX, TABLE_SET, VLAN, VLAN_ADD, VLAN_DEL,
    },
    shared_abi::virtio::net::{Config, Features, Header, STATUS_ANNOUNCE},
};

const QUEUE: &str = "5.1.9.5 Control Virtqueue";
const FILTER: &str = "5.1.9.5.1.1 Device Requirements: Packet Receive Filtering";
const ADDRESS: &str = "5.1.9.5.2.1 Device Requirements: Setting MAC Address Filtering";
const GRATUITOUS: &str = "5.1.9.5.4.2 Device Requirements: Gratuitous Packet Sending";
const VLAN_CLAUSE: &str = "5.1.9.5.3.1 Device Requirements: VLAN Filtering";
const PAIRS: &str = "5.1.9.5.6 Automatic receive steering in multiqueue mode";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "net-control/receive-modes-are-acknowledged",
        rule: "With CTRL_RX, PROMISC and ALLMULTI are there",
        clause: FILTER,
        method: "Each on, off and on again",
        expectation: "Acknowledged with 0 each time, used length 1",
        run: |cx| modes(cx, Features::CTRL_RX, &[PROMISC, ALLMULTI]),
    },
    Check {
        name: "net-control/more-receive-modes-are-acknowledged",
        rule: "With CTRL_RX_EXTRA, ALLUNI, NOMULTI, NOUNI and NOBCAST are there",
        clause: FILTER,
        method: "Each on and off",
        expectation: "Acknowledged with 0 each time",
        run: |cx| modes(cx, Features::CTRL_RX | Features::CTRL_RX_EXTRA, &[ALLUNI, NOMULTI, NOUNI, NOBCAST]),
    },
    Check {
        name: "net-control/command-in-parts-is-acknowledged",
        rule: "A device makes no assumptions about how a message is divided",
        clause: "2.7.4.1 Device Requirements: Message Framing",
        method: "PROMISC with a descriptor each for class, command and data, and in one of three bytes",
        expectation: "Acknowledged with 0",
        run: |cx| {
            let mut control = Control::start(cx, Features::CTRL_RX)?;
            for parts in [&[1, 1, 1][..], &[3], &[1, 2]] {
                equal(&format!("answer to parts of {parts:?}"), OK, control.command_in(RX, PROMISC, &[1], parts)?)?;
            }
            Ok(())
        },
    },
    Check {
        name: "net-control/unknown-class-is-an-error",
        rule: "What is not done is not acknowledged as done",
        clause: QUEUE,
        method: "Classes 0x7f and 0xff",
        expectation: "Acknowledged with 1; the next command works",
        level: Should,
        run: |cx| refused(cx, &[(0x7f, 0, &[0]), (0xff, 0xff, &[])]),
    },
    Check {
        name: "net-control/unknown-command-is-an-error",
        rule: "What is not done is not acknowledged as done",
        clause: QUEUE,
        method: "Command 0x7f of the classes RX and MAC",
        expectation: "Acknowledged with 1; the next command works",
        level: Should,
        run: |cx| refused(cx, &[(RX, 0x7f, &[1]), (MAC, 0x7f, &[0; 8])]),
    },
    Check {
        name: "net-control/missing-data-is-an-error",
        rule: "What is not done is not acknowledged as done",
        clause: QUEUE,
        method: "PROMISC without its byte, a MAC table of no bytes, one of three entries with two, one whose count \
            is 0xffffffff",
        expectation: "Acknowledged with 1; the next command works",
        level: Should,
        run: |cx| {
            let three_with_two = [[3, 0, 0, 0].as_slice(), &[2; 12]].concat();
            let endless = [[0xff; 4].as_slice(), &[2; 12]].concat();
            refused(
                cx,
                &[
                    (RX, PROMISC, &[]),
                    (MAC, TABLE_SET, &[]),
                    (MAC, TABLE_SET, &three_with_two),
                    (MAC, TABLE_SET, &endless),
                ],
            )
        },
    },
    Check {
        name: "net-control/mac-table-is-acknowledged",
        rule: "With CTRL_RX the MAC table can be set",
        clause: ADDRESS,
        method: "Tables without entries, with one unicast, with two unicast and three multicast addresses",
        expectation: "Acknowledged with 0",
        run: |cx| {
            let mut control = Control::start(cx, Features::CTRL_RX)?;
            control.table(&[], &[])?;
            control.table(&[OTHER], &[])?;
            control.table(&[OTHER, THIRD], &[GROUP, [1; 6], [3; 6]])
        },
    },
    Check {
        name: "net-control/address-is-set",
        rule: "mac shows the address that was set, before the command is used",
        clause: ADDRESS,
        method: "With CTRL_MAC_ADDR: set another address, read mac, set the old one, read mac",
        expectation: "Acknowledged with 0; as set each time",
        run: |cx| {
            let mut control = Control::start(cx, Features::CTRL_MAC_ADDR)?;
            let before = control.card.mac();
            for address in [OTHER, before] {
                control.must(MAC, ADDR_SET, &address)?;
                equal("mac", address, control.card.mac())?;
            }
            Ok(())
        },
    },
    Check {
        name: "net-control/short-address-is-an-error",
        rule: "What is not done is not acknowledged as done",
        clause: QUEUE,
        method: "With CTRL_MAC_ADDR: set an address of five bytes",
        expectation: "Acknowledged with 1; mac stays",
        level: Should,
        run: |cx| {
            let mut control = Control::start(cx, Features::CTRL_RX | Features::CTRL_MAC_ADDR)?;
            let before = control.card.mac();
            equal("answer", ERR, control.command(MAC, ADDR_SET, &OTHER[..5])?)?;
            equal("mac", before, control.card.mac())
        },
    },
    Check {
        name: "net-control/promiscuous-card-hears-all",
        rule: "A promiscuous card receives all incoming packets",
        clause: FILTER,
        method: "PROMISC on, the echo peer sends to another unicast and another multicast address",
        expectation: "Both arrive",
        level: Should,
        run: |cx| {
            let mut control = Control::filtering(cx, Features::empty())?;
            control.must(RX, PROMISC, &[1])?;
            control.hears(OTHER, Heard::Yes)?;
            control.hears(GROUP, Heard::Yes)
        },
    },
    Check {
        name: "net-control/unknown-addresses-are-dropped",
        rule: "A card drops what is neither for its address nor in its table",
        clause: ADDRESS,
        method: "PROMISC and ALLMULTI off, an empty table; the echo peer sends to another unicast and another \
            multicast address, then to the card",
        expectation: "Only the last arrives",
        run: |cx| {
            let mut control = Control::filtering(cx, Features::empty())?;
            let own = control.card.mac();
            control.hears(own, Heard::Yes)?;
            control.hears(OTHER, Heard::No)?;
            control.hears(GROUP, Heard::No)
        },
    },
    Check {
        name: "net-control/table-lets-addresses-in",
        rule: "A card receives what is for an address in its table",
        clause: ADDRESS,
        method: "PROMISC and ALLMULTI off, a table of a unicast and a multicast address; the echo peer sends to both",
        expectation: "Both arrive",
        run: |cx| {
            let mut control = Control::filtering(cx, Features::empty())?;
            control.table(&[OTHER], &[GROUP])?;
            control.hears(OTHER, Heard::Yes)?;
            control.hears(GROUP, Heard::Yes)?;
            control.hears(THIRD, Heard::No)
        },
    },
    Check {
        name: "net-control/set-address-is-received",
        rule: "The card's address is the one that was set",
        clause: ADDRESS,
        method: "PROMISC off, another address set; the echo peer sends to it",
        expectation: "It arrives",
        run: |cx| {
            let mut control = Control::filtering(cx, Features::CTRL_MAC_ADDR)?;
            control.must(MAC, ADDR_SET, &OTHER)?;
            control.hears(OTHER, Heard::Yes)
        },
    },
    Check {
        name: "net-control/all-multicast-lets-multicast-in",
        rule: "With ALLMULTI all multicast is received",
        clause: FILTER,
        method: "PROMISC off, ALLMULTI on; the echo peer sends to some multicast address, and to some unicast one",
        expectation: "The first arrives, the second does not",
        level: Should,
        run: |cx| {
            let mut control = Control::filtering(cx, Features::empty())?;
            control.must(RX, ALLMULTI, &[1])?;
            control.hears(GROUP, Heard::Yes)?;
            control.hears(OTHER, Heard::No)
        },
    },
    Check {
        name: "net-control/broadcast-is-received-unless-suppressed",
        rule: "NOBCAST suppresses broadcast",
        clause: FILTER,
        method: "PROMISC off; the echo peer sends a broadcast; NOBCAST on, where CTRL_RX_EXTRA is offered; again",
        expectation: "The first arrives, the second does not",
        run: |cx| {
            let mut control = Control::filtering(cx, Features::CTRL_RX_EXTRA)?;
            control.hears(BROADCAST, Heard::Yes)?;
            control.must(RX, NOBCAST, &[1])?;
            control.hears(BROADCAST, Heard::No)
        },
    },
    Check {
        name: "net-control/vlan-filter-lets-its-ids-in",
        rule: "Tagged frames are received if their id is in the VLAN table",
        clause: VLAN_CLAUSE,
        method: "With CTRL_VLAN: a frame of VLAN 5, add 5, again, delete 5, again",
        expectation: "Acknowledged with 0; only the second arrives",
        run: vlan,
    },
    Check {
        name: "net-control/announcement-is-cleared",
        rule: "ANNOUNCE_ACK clears the announce bit of status",
        clause: GRATUITOUS,
        method: "With GUEST_ANNOUNCE: have the card asked to announce itself, where the harness can; acknowledge",
        expectation: "The bit comes, an answer of 0, and the bit is 0; without a request an answer of 0 or 1",
        run: |cx| {
            let mut control = Control::start(cx, Features::GUEST_ANNOUNCE | Features::STATUS)?;
            let asked = cx.can_request(HostAction::Announce).is_ok();
            if asked {
                announced(cx, &control.card.dev)?;
            }
            let answer = control.command(ANNOUNCE, ANNOUNCE_ACK, &[])?;
            let most = if asked { OK } else { ERR };
            holds(answer <= most, "answer", format_args!("at most {most}"), answer)?;
            equal("announce bit of status", 0, status(&control.card.dev) & STATUS_ANNOUNCE)
        },
    },
    Check {
        name: "net-control/announcement-interrupts",
        rule: "A request to announce is a change of the configuration, and is notified",
        clause: GRATUITOUS,
        method: "With GUEST_ANNOUNCE: have the card asked to announce itself, count its interrupts",
        expectation: "At least one",
        run: |cx| {
            cx.can_request(HostAction::Announce)?;
            let mut control = Control::start(cx, Features::GUEST_ANNOUNCE | Features::STATUS)?;
            let interrupts = control.card.dev.target.interrupts;
            let Some(event) = interrupts.config_event().or(interrupts.queue_event()) else {
                return Err(skip("the card cannot interrupt"));
            };
            let before = irq::count_of(event);
            announced(cx, &control.card.dev)?;
            let came = wait_until(5 * PATIENCE, || irq::count_of(event) != before);
            holds(came, "interrupts within 5 s", "1 or more", 0)?;
            control.must(ANNOUNCE, ANNOUNCE_ACK, &[])
        },
    },
    Check {
        name: "net-control/queue-pairs-have-limits",
        rule: "The number of pairs is from 1 to max_virtqueue_pairs",
        clause: PAIRS,
        method: "With MQ: set 1, the maximum, 0 and one more than the maximum",
        expectation: "Acknowledged with 0 and 0; other answers than 1 to the last two are advice: no driver asks for \
            that",
        run: |cx| {
            let mut control = Control::start(cx, Features::MQ)?;
            let most = control.pairs();
            for (count, answer) in [(1, OK), (most, OK), (0, ERR), (most + 1, ERR)] {
                let saw = control.command(MQ, PAIRS_SET, &count.to_le_bytes())?;
                let answered = equal(&format!("answer to {count} pairs"), answer, saw);
                // No driver asks for the last two.
                if answer == OK { answered? } else { advice(answered)? }
            }
            Ok(())
        },
    },
    Check {
        name: "net-control/every-pair-sends",
        rule: "Once enabled, every pair of queues serves",
        clause: PAIRS,
        method: "With MQ and an echo peer: all pairs set up and enabled, a frame through each transmit queue",
        expectation: "Each is used and comes back, on whatever pair",
        run: |cx| {
            find_echo_peer(cx)?;
            let mut control = Control::start(cx, Features::MQ)?;
            let count = control.pairs();
            if count < 2 {
                return Err(skip("the device has one pair of queues"));
            }
            control.must(MQ, PAIRS_SET, &count.to_le_bytes())?;
            // Frames may arrive on any pair.
            let room = control.card.dev.buffer(usize::from(count) * 4096)?;
            for (pair, (receive, _)) in control.more.iter_mut().enumerate() {
                for n in 0..2 {
                    let head =
                        receive.chain(n, &[link(&room.part(4096 * pair + 2048 * usize::from(n), 2048), Dir::In)]);
                    receive.offer(head);
                }
                receive.publish();
                receive.notify(&control.card.dev);
            }
            control.card.stock(2048, 16)?;
            for pair in 0..usize::from(count) {
                let frame = control.card.to_echo_peer(90);
                let buf = control.card.dev.buffer(size_of::<Header>() + frame.len())?;
                buf.part(size_of::<Header>(), frame.len()).put(&frame);
                let transmit = if pair == 0 { &mut control.card.transmit } else { &mut control.more[pair - 1].1 };
                let head = transmit.chain(0, &[link(&buf, Dir::Out)]);
                transmit.send(&control.card.dev, head);
                transmit.wait()?;
            }
            let arrived = |control: &Control<'_>| {
                let more: u16 = control.more.iter().map(|(receive, _)| receive.used_index()).sum();
                control.card.receive.used_index() + more
            };
            let all = wait_until(5 * PATIENCE, || arrived(&control) >= count);
            holds(all, "echoes on all pairs", count, arrived(&control))
        },
    },
    Check {
        name: "net-control/reset-empties-the-mac-table",
        rule: "The MAC table is empty after a reset",
        clause: ADDRESS,
        method: "Put a unicast address into the table, reset, set no table; the echo peer sends to that address, where the \
            device dropped that before",
        expectation: "It does not arrive",
        run: |cx| {
            let mut control = Control::filtering(cx, Features::empty())?;
            if control.hears(OTHER, Heard::No).is_err() {
                return Err(skip("the device does not filter: what it should drop arrives"));
            }
            control.table(&[OTHER], &[])?;
            control.hears(OTHER, Heard::Yes)?;
            drop(control);
            let mut control = Control::start(cx, Features::CTRL_RX)?;
            control.must(RX, PROMISC, &[0])?;
            control.must(RX, ALLMULTI, &[0])?;
            let own = control.card.mac();
            control.hears(own, Heard::Yes)?;
            // No advice: the device has shown that it filters.
            binding(control.hears(OTHER, Heard::No))
        },
    },
    Check {
        name: "net-control/reset-forgets-modes",
        rule: "What the control queue suppressed is received again after a reset",
        clause: ADDRESS,
        method: "Suppress all that can be suppressed, reset, start over without the control queue",
        expectation: "A frame to the card and a broadcast arrive",
        run: |cx| {
            {
                let mut control = Control::filtering(cx, Features::empty())?;
                let extra = Features::CTRL_RX_EXTRA.bits();
                if control.card.dev.offered & extra != 0 {
                    drop(control);
                    control = Control::filtering(cx, Features::CTRL_RX_EXTRA)?;
                    [NOMULTI, NOUNI, NOBCAST].into_iter().try_for_each(|mode| control.must(RX, mode, &[1]))?;
                }
            }
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            let frame = card.to_echo_peer(80);
            card.echo(&frame)?;
            let mut frame = card.to_echo_peer(80);
            frame[6..12].copy_from_slice(&BROADCAST);
            card.echo(&frame).map(drop)
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub fn status(dev: &Dev<'_>) -> u16 {
        dev.regs().config_read(offset_of!(Config, status), 2) as u16
    }

    /// Has the card asked to announce itself, and waits until it is.
    pub fn announced(cx: &Context, dev: &Dev<'_>) -> Verdict {
        cx.request(HostAction::Announce, None)?;
        let asked = wait_until(5 * PATIENCE, || status(dev) & STATUS_ANNOUNCE != 0);
        holds(asked, "announce bit of status within 5 s", "set", "clear")
    }

    pub const OTHER: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 0x01];

    pub const THIRD: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 0x02];

    pub const GROUP: [u8; 6] = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];

    pub fn modes(cx: &Context, features: Features, modes: &[u8]) -> Verdict {
        let mut control = Control::start(cx, features)?;
        for &mode in modes {
            [1, 0, 1, 0].into_iter().try_for_each(|on| control.must(RX, mode, &[on]))?;
        }
        Ok(())
    }

    /// These are answered with an error, and the queue goes on.
    pub fn refused(cx: &Context, commands: &[(u8, u8, &[u8])]) -> Verdict {
        let mut control = Control::start(cx, Features::CTRL_RX)?;
        for &(class, command, data) in commands {
            let what = format!("answer to command {command:#x} of class {class:#x} with {data:02x?}");
            equal(&what, ERR, control.command(class, command, data)?)?;
            control.must(RX, PROMISC, &[1])?;
        }
        Ok(())
    }

    pub fn vlan(cx: &Context) -> Verdict {
        const ID: u16 = 5;
        let mut control = Control::filtering(cx, Features::CTRL_VLAN)?;
        let hears = |control: &mut Control<'_>, expected, what: &str| {
            let frame = tagged(&control.card.to_echo_peer(100), ID);
            control.expect(&frame, expected, what)
        };
        let before = hears(&mut control, Heard::No, "a frame of a VLAN that is not in the table");
        control.must(VLAN, VLAN_ADD, &ID.to_le_bytes())?;
        hears(&mut control, Heard::Yes, "a frame of a VLAN that was added")?;
        control.must(VLAN, VLAN_DEL, &ID.to_le_bytes())?;
        worst(before, hears(&mut control, Heard::No, "a frame of a VLAN that was deleted"))
    }
}
