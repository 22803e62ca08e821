//! The card's control queue (section 5.1.6.5 "Control Virtqueue") and the filters that it sets: which of the frames that
//! come over the link the guest gets to see.
//!
//! A command is a copy of what the guest wrote. One that is not whole, not known or not negotiated is answered with an
//! error and changes nothing. The tables are bounded: a table that does not fit lets all of its kind in.

use crate::config::Mac;
use shared_abi::virtio::net::Features;
use shared_abi::virtio::net::control::{
    ADDR_SET, ALLMULTI, ALLUNI, ERR, MAC, NOBCAST, NOMULTI, NOUNI, OK, PROMISC, RX, TABLE_SET, VLAN, VLAN_ADD, VLAN_DEL,
};

/// The address of everybody on an Ethernet.
const BROADCAST: [u8; 6] = [0xff; 6];
/// Addresses in a table.
const TABLE_MAX: usize = 64;
/// Bytes of a command, at most: two tables far larger than ours.
pub(super) const COMMAND_MAX: usize = 8192;
/// VLAN ids.
const VLANS: usize = 4096;

/// What can be set through the queue.
pub(super) const FEATURES: Features = Features::CTRL_VQ
    .union(Features::CTRL_RX)
    .union(Features::CTRL_RX_EXTRA)
    .union(Features::CTRL_VLAN)
    .union(Features::CTRL_MAC_ADDR);

type Address = [u8; 6];

/// Addresses that are let in.
#[derive(Debug, Default)]
struct Table {
    addresses: Vec<Address>,
    all: bool,
}

impl Table {
    fn has(&self, address: &Address) -> bool {
        self.all || self.addresses.contains(address)
    }

    /// Takes a table off the front of a command.
    fn parse(data: &mut &[u8]) -> Option<Self> {
        let (count, rest) = data.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(size_of::<Address>())?;
        let (bytes, rest) = rest.split_at_checked(len)?;
        *data = rest;
        let (addresses, _) = bytes.as_chunks::<6>();
        let all = addresses.len() > TABLE_MAX;
        Some(Self { addresses: if all { Vec::new() } else { addresses.to_vec() }, all })
    }
}

/// What the guest has asked to see; at first all.
#[derive(Debug)]
pub(super) struct Filter {
    mac: Mac,
    features: Features,
    /// A bit for each command of class RX.
    modes: u8,
    unicast: Table,
    multicast: Table,
    vlans: Box<[u64; VLANS / 64]>,
}

impl Filter {
    /// That of a card after a reset.
    pub(super) fn new(mac: Mac) -> Self {
        Self {
            mac,
            features: Features::empty(),
            modes: 1 << PROMISC,
            unicast: Table::default(),
            multicast: Table::default(),
            vlans: Box::new([0; VLANS / 64]),
        }
    }

    /// The card's address.
    pub(super) fn mac(&self) -> Mac {
        self.mac
    }

    /// The driver accepted these features.
    pub(super) fn activate(&mut self, features: Features) {
        self.features = features;
    }

    /// Executes a command; its answer.
    pub(super) fn execute(&mut self, command: &[u8]) -> u8 {
        if self.try_execute(command).is_some() { OK } else { ERR }
    }

    fn try_execute(&mut self, command: &[u8]) -> Option<()> {
        let (&[class, command], mut data) = command.split_first_chunk::<2>()?;
        let needed = match (class, command) {
            (RX, PROMISC | ALLMULTI) | (MAC, TABLE_SET) => Features::CTRL_RX,
            (RX, ALLUNI | NOMULTI | NOUNI | NOBCAST) => Features::CTRL_RX_EXTRA,
            (MAC, ADDR_SET) => Features::CTRL_MAC_ADDR,
            (VLAN, VLAN_ADD | VLAN_DEL) => Features::CTRL_VLAN,
            _ => return None,
        };
        if !self.features.contains(needed) {
            return None;
        }
        match class {
            RX => {
                let (on, mode) = (*data.first()?, 1 << command);
                self.modes = if on == 0 { self.modes & !mode } else { self.modes | mode };
            }
            MAC if command == TABLE_SET => {
                let (unicast, multicast) = (Table::parse(&mut data)?, Table::parse(&mut data)?);
                (self.unicast, self.multicast) = (unicast, multicast);
            }
            MAC => {
                let address: Address = data.try_into().ok()?;
                let sound = address[0] & 1 == 0 && address != [0; 6];
                self.mac = sound.then_some(Mac(address))?;
            }
            _ => {
                let id = usize::from(u16::from_le_bytes(*data.first_chunk()?));
                let word = self.vlans.get_mut(id / 64)?;
                let bit = 1 << (id % 64);
                *word = if command == VLAN_ADD { *word | bit } else { *word & !bit };
            }
        }
        Some(())
    }

    fn is_on(&self, mode: u8) -> bool {
        self.modes & 1 << mode != 0
    }

    /// Whether the guest gets to see a frame.
    pub(super) fn lets_in(&self, frame: &[u8]) -> bool {
        if self.is_on(PROMISC) {
            return true;
        }
        let Some(to) = frame.first_chunk::<6>() else { return false };
        let by_address = if *to == BROADCAST {
            !self.is_on(NOBCAST)
        } else if to[0] & 1 != 0 {
            !self.is_on(NOMULTI) && (self.is_on(ALLMULTI) || self.multicast.has(to))
        } else {
            !self.is_on(NOUNI) && (self.is_on(ALLUNI) || *to == self.mac.0 || self.unicast.has(to))
        };
        by_address && self.lets_vlan_in(frame)
    }

    fn lets_vlan_in(&self, frame: &[u8]) -> bool {
        match frame.get(12..16) {
            Some(&[0x81, 0x00, high, low]) if self.features.contains(Features::CTRL_VLAN) => {
                let id = usize::from(u16::from_be_bytes([high, low])) % VLANS;
                self.vlans[id / 64] & 1 << (id % 64) != 0
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: Address = [2, 0, 0, 0, 0, 9];
    const OTHER: Address = [2, 0, 0, 0, 0, 8];
    const GROUP: Address = [1, 0, 0x5e, 0, 0, 1];

    fn filter() -> Filter {
        let mut filter = Filter::new(Mac(OWN));
        filter.activate(FEATURES);
        filter
    }

    fn command(class: u8, command: u8, data: &[u8]) -> Vec<u8> {
        [&[class, command], data].concat()
    }

    fn heard(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, BROADCAST].map(|to| filter.lets_in(&[&to[..], &[0; 54]].concat()))
    }

    #[test]
    fn modes_and_tables_say_who_is_heard() {
        let mut filter = filter();
        assert_eq!(heard(&filter), [true; 4], "all, after a reset");
        let mut after = |class, what, data: &[u8]| {
            assert_eq!(filter.execute(&command(class, what, data)), OK);
            heard(&filter)
        };
        assert_eq!(after(RX, PROMISC, &[0]), [true, false, false, true]);
        assert_eq!(after(RX, ALLMULTI, &[1]), [true, false, true, true]);
        assert_eq!(after(RX, NOMULTI, &[1]), [true, false, false, true]);
        assert_eq!(after(RX, ALLUNI, &[1]), [true, true, false, true]);
        assert_eq!(after(RX, NOUNI, &[1]), [false, false, false, true]);
        assert_eq!(after(RX, NOBCAST, &[1]), [false; 4]);
        assert_eq!(after(RX, PROMISC, &[1]), [true; 4]);
        for mode in [PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST] {
            after(RX, mode, &[0]);
        }
        let table = [&[1, 0, 0, 0][..], &OTHER, &[1, 0, 0, 0], &GROUP].concat();
        assert_eq!(after(MAC, TABLE_SET, &table), [true; 4]);
        assert_eq!(after(MAC, TABLE_SET, &[0; 8]), [true, false, false, true]);
        assert_eq!(after(MAC, ADDR_SET, &OTHER), [false, true, false, true]);
    }

    #[test]
    fn tagged_frames_need_their_id_in_the_table() {
        let mut filter = filter();
        let tagged = [&OWN[..], &OTHER, &[0x81, 0, 0xe0, 5], &[0; 40]].concat();
        assert_eq!(filter.execute(&command(RX, PROMISC, &[0])), OK);
        assert!(!filter.lets_in(&tagged));
        assert_eq!(filter.execute(&command(VLAN, VLAN_ADD, &[5, 0])), OK);
        assert!(filter.lets_in(&tagged));
        assert_eq!(filter.execute(&command(VLAN, VLAN_DEL, &[5, 0])), OK);
        assert!(!filter.lets_in(&tagged));
        assert_eq!(filter.execute(&command(VLAN, VLAN_ADD, &[0, 0x10])), ERR, "there are 4096 ids");
    }

    #[test]
    fn what_is_not_whole_known_or_negotiated_is_an_error_and_changes_nothing() {
        let mut filter = filter();
        let long = [&100u32.to_le_bytes()[..], &[2; 600], &[0; 4]].concat();
        assert_eq!(filter.execute(&command(MAC, TABLE_SET, &long)), OK, "more than the table holds");
        assert!(filter.unicast.all && filter.unicast.addresses.is_empty());
        for wrong in [
            vec![],
            vec![RX],
            command(RX, PROMISC, &[]),
            command(RX, 6, &[1]),
            command(MAC, TABLE_SET, &[0; 7]),
            command(MAC, TABLE_SET, &[0xff; 40]),
            command(MAC, ADDR_SET, &OWN[..5]),
            command(MAC, ADDR_SET, &GROUP),
            command(VLAN, VLAN_ADD, &[5]),
            command(4, 0, &[1, 0]),
            command(0xff, 0xff, &[]),
        ] {
            assert_eq!(filter.execute(&wrong), ERR, "{wrong:?}");
        }
        assert_eq!(heard(&filter), [true; 4]);
        filter.activate(Features::CTRL_VQ);
        assert_eq!(filter.execute(&command(RX, PROMISC, &[0])), ERR);
    }

    proptest! {
        #[test]
        fn any_command_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..64), class in 0..4u8) {
            let mut filter = filter();
            let answer = filter.execute(&[&[class], &bytes[..]].concat());
            prop_assert!(answer <= ERR);
            filter.lets_in(&bytes);
        }
    }
}
