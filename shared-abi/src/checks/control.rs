//! The control queue of the network card.

use super::{Check, row};

const QUEUE: &str = "5.1.9.5 Control Virtqueue";
const FILTER: &str = "5.1.9.5.1.1 Device Requirements: Packet Receive Filtering";
const ADDRESS: &str = "5.1.9.5.2.1 Device Requirements: Setting MAC Address Filtering";
const VLAN: &str = "5.1.9.5.3.1 Device Requirements: VLAN Filtering";
const PAIRS: &str = "5.1.9.5.6 Automatic receive steering in multiqueue mode";

/// The checks of this group. Those about frames need an echo peer; a frame that a device SHOULD drop and delivers is advice.
pub const CHECKS: &[Check] = &[
    row(
        "net-control/receive-modes-are-acknowledged",
        "With CTRL_RX, PROMISC and ALLMULTI are there",
        FILTER,
        "Each on, off and on again",
        "Acknowledged with 0 each time, used length 1",
    ),
    row(
        "net-control/more-receive-modes-are-acknowledged",
        "With CTRL_RX_EXTRA, ALLUNI, NOMULTI, NOUNI and NOBCAST are there",
        FILTER,
        "Each on and off",
        "Acknowledged with 0 each time",
    ),
    row(
        "net-control/command-in-parts-is-acknowledged",
        "A device makes no assumptions about how a message is divided",
        "2.7.4.1 Device Requirements: Message Framing",
        "PROMISC with a descriptor each for class, command and data, and in one of three bytes",
        "Acknowledged with 0",
    ),
    row(
        "net-control/unknown-class-is-an-error",
        "What is not done is not acknowledged as done",
        QUEUE,
        "Classes 0x7f and 0xff",
        "Acknowledged with 1; the next command works",
    ).should(),
    row(
        "net-control/unknown-command-is-an-error",
        "What is not done is not acknowledged as done",
        QUEUE,
        "Command 0x7f of the classes RX and MAC",
        "Acknowledged with 1; the next command works",
    ).should(),
    row(
        "net-control/missing-data-is-an-error",
        "What is not done is not acknowledged as done",
        QUEUE,
        "PROMISC without its byte, a MAC table of no bytes, one of three entries with two, one whose count is 0xffffffff",
        "Acknowledged with 1; the next command works",
    ).should(),
    row(
        "net-control/mac-table-is-acknowledged",
        "With CTRL_RX the MAC table can be set",
        ADDRESS,
        "Tables without entries, with one unicast, with two unicast and three multicast addresses",
        "Acknowledged with 0",
    ),
    row(
        "net-control/address-is-set",
        "mac shows the address that was set, before the command is used",
        ADDRESS,
        "With CTRL_MAC_ADDR: set another address, read mac, set the old one, read mac",
        "Acknowledged with 0; as set each time",
    ),
    row(
        "net-control/short-address-is-an-error",
        "What is not done is not acknowledged as done",
        QUEUE,
        "With CTRL_MAC_ADDR: set an address of five bytes",
        "Acknowledged with 1; mac stays",
    ).should(),
    row(
        "net-control/promiscuous-card-hears-all",
        "A promiscuous card receives all incoming packets",
        FILTER,
        "PROMISC on, the echo peer sends to another unicast and another multicast address",
        "Both arrive",
    ).should(),
    row(
        "net-control/unknown-addresses-are-dropped",
        "A card drops what is neither for its address nor in its table",
        ADDRESS,
        "PROMISC and ALLMULTI off, an empty table; the echo peer sends to another unicast and another multicast address, then to the card",
        "Only the last arrives",
    ),
    row(
        "net-control/table-lets-addresses-in",
        "A card receives what is for an address in its table",
        ADDRESS,
        "PROMISC and ALLMULTI off, a table of a unicast and a multicast address; the echo peer sends to both",
        "Both arrive",
    ),
    row(
        "net-control/set-address-is-received",
        "The card's address is the one that was set",
        ADDRESS,
        "PROMISC off, another address set; the echo peer sends to it",
        "It arrives",
    ),
    row(
        "net-control/all-multicast-lets-multicast-in",
        "With ALLMULTI all multicast is received",
        FILTER,
        "PROMISC off, ALLMULTI on; the echo peer sends to some multicast address, and to some unicast one",
        "The first arrives, the second does not",
    ).should(),
    row(
        "net-control/broadcast-is-received-unless-suppressed",
        "NOBCAST suppresses broadcast",
        FILTER,
        "PROMISC off; the echo peer sends a broadcast; NOBCAST on, where CTRL_RX_EXTRA is offered; again",
        "The first arrives, the second does not",
    ),
    row(
        "net-control/vlan-filter-lets-its-ids-in",
        "Tagged frames are received if their id is in the VLAN table",
        VLAN,
        "With CTRL_VLAN: a frame of VLAN 5, add 5, again, delete 5, again",
        "Acknowledged with 0; only the second arrives",
    ),
    row(
        "net-control/announcement-is-cleared",
        "ANNOUNCE_ACK clears the announce bit of status",
        "5.1.9.5.4.2 Device Requirements: Gratuitous Packet Sending",
        "With GUEST_ANNOUNCE: acknowledge, although nobody asked",
        "An answer of 0 or 1, and the bit is 0",
    ),
    row(
        "net-control/queue-pairs-have-limits",
        "The number of pairs is from 1 to max_virtqueue_pairs",
        PAIRS,
        "With MQ: set 1, the maximum, 0 and one more than the maximum",
        "Acknowledged with 0 and 0; other answers than 1 to the last two are advice: no driver asks for that",
    ),
    row(
        "net-control/every-pair-sends",
        "Once enabled, every pair of queues serves",
        PAIRS,
        "With MQ and an echo peer: all pairs set up and enabled, a frame through each transmit queue",
        "Each is used and comes back, on whatever pair",
    ),
    row(
        "net-control/reset-forgets-modes",
        "The MAC table is empty after a reset",
        ADDRESS,
        "Suppress all that can be suppressed, reset, start over without the control queue",
        "A frame to the card and a broadcast arrive",
    ),
];
