//! The network: smoltcp over the card, an address by DHCP or from the command line (`ringside.ip=ADDRESS/PREFIX[,ROUTER]`), and the
//! status page.

mod http;

use crate::cmdline::Cmdline;
use crate::devices::card::{Card, Port};
use crate::task::Event;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use http::Connection;
use pvops::time;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

/// Connections that are served at the same time.
const CONNECTIONS: usize = 8;
const RECEIVE_BUFFER: usize = 1024;
const TRANSMIT_BUFFER: usize = 4096;

/// What the rest of the kernel knows about the network.
#[derive(Default)]
pub struct Status {
    /// Our address.
    pub address: Cell<Option<Ipv4Cidr>>,
    /// The router.
    pub router: Cell<Option<Ipv4Address>>,
    /// Pages sent and acknowledged.
    pub served: Cell<u64>,
    /// Bytes of the last page, header and body.
    pub last_page: Cell<usize>,
}

/// Raised when the address or the count of pages changes.
pub static CHANGED: Event = Event::new();

/// An address from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Static {
    address: Ipv4Cidr,
    router: Option<Ipv4Address>,
}

impl Static {
    /// From `ringside.ip=`; what cannot be read is logged, and DHCP takes its place.
    pub fn from_cmdline(cmdline: Cmdline) -> Option<Self> {
        let text = cmdline.own_value("ip").filter(|&text| text != "dhcp")?;
        let parsed = Self::parse(text);
        if parsed.is_none() {
            log::warn!("ringside.ip={text}: not ADDRESS/PREFIX[,ROUTER]; trying DHCP");
        }
        parsed
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, router) = match text.split_once(',') {
            Some((address, router)) => (address, Some(router.parse().ok()?)),
            None => (text, None),
        };
        Some(Self { address: address.parse().ok()?, router })
    }
}

/// Renders the page that the network serves.
pub type Page = Rc<dyn Fn() -> String>;

/// Runs the network; never returns.
pub async fn run(card: Rc<Card>, status: Rc<Status>, address: Option<Static>, seed: u64, page: Page) {
    let mut port = Port::new(&card);
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(card.mac())));
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut port, now());
    let mut sockets = SocketSet::new(Vec::new());
    let dhcp = match address {
        Some(Static { address, router }) => {
            configure(&mut interface, &status, address, router);
            None
        }
        None => Some(sockets.add(dhcpv4::Socket::new())),
    };
    let mut connections: Vec<(SocketHandle, Connection)> = (0..CONNECTIONS)
        .map(|_| {
            let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
            let socket = tcp::Socket::new(buffer(RECEIVE_BUFFER), buffer(TRANSMIT_BUFFER));
            (sockets.add(socket), Connection::default())
        })
        .collect();
    loop {
        interface.poll(now(), &mut Port::new(&card), &mut sockets);
        match dhcp.and_then(|dhcp| sockets.get_mut::<dhcpv4::Socket>(dhcp).poll()) {
            Some(dhcpv4::Event::Configured(config)) => {
                configure(&mut interface, &status, config.address, config.router);
            }
            Some(dhcpv4::Event::Deconfigured) => deconfigure(&mut interface, &status),
            None => {}
        }
        let mut again = false;
        for (handle, connection) in &mut connections {
            again |= connection.serve(sockets.get_mut::<tcp::Socket>(*handle), &status, &page);
        }
        if again {
            interface.poll(now(), &mut Port::new(&card), &mut sockets);
        }
        card.kick();
        let delay = interface.poll_delay(now(), &sockets).map(|delay| delay.total_micros() * 1000);
        let deadline = time::now().saturating_add(delay.unwrap_or(u64::MAX));
        card.interrupts().until_deadline(deadline, || card.service().then_some(())).await;
    }
}

fn configure(interface: &mut Interface, status: &Status, address: Ipv4Cidr, router: Option<Ipv4Address>) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        // Cannot fail: it was just cleared.
        let _ = addresses.push(IpCidr::Ipv4(address));
    });
    let routes = interface.routes_mut();
    routes.remove_default_ipv4_route();
    if let Some(router) = router
        && routes.add_default_ipv4_route(router).is_err()
    {
        log::warn!("net: no room for the route to {router}");
    }
    status.address.set(Some(address));
    status.router.set(router);
    log::info!("net: address {address}");
    CHANGED.raise();
}

fn deconfigure(interface: &mut Interface, status: &Status) {
    interface.update_ip_addrs(|addresses| addresses.clear());
    interface.routes_mut().remove_default_ipv4_route();
    status.address.set(None);
    status.router.set(None);
    CHANGED.raise();
}

fn now() -> Instant {
    Instant::from_micros((time::now() / 1000) as i64)
}
