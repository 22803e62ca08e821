//! The host program's network link, led to the card of the inner Linux frame by frame. The link's framing is that of
//! QEMU's stream sockets: each frame after its length, a big-endian u32.

use anyhow::{Context, Result};
use inner_init::{CARD, NETWORK};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Longer than any frame that a guest can send: what the card does not take is lost, and the link stays.
const FRAME_MAX: usize = 1 << 17;
/// Bytes of a VLAN tag, and its place: after the addresses.
const TAG: usize = 4;
const ADDRESSES: usize = 12;
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Switches generic receive offload; the number is <linux/ethtool.h>'s.
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

pub(crate) fn relay() -> Result<()> {
    let card = open_card().with_context(|| format!("cannot open {CARD}"))?;
    let listener = UnixListener::bind(NETWORK).with_context(|| format!("cannot listen on {NETWORK}"))?;
    // The host program may run many times, one after the other; each has a link of its own.
    let link = Arc::new(Mutex::new(None::<UnixStream>));
    let (from_card, to_link) = (card.try_clone()?, link.clone());
    thread::spawn(move || -> io::Result<()> {
        let mut frame = vec![0; size_of::<u32>() + FRAME_MAX + TAG];
        loop {
            let len = read_frame(&from_card, &mut frame[4..])?;
            frame[..4].copy_from_slice(&(len as u32).to_be_bytes());
            if let Some(link) = to_link.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                // A link that is gone takes its frames with it.
                let _ = link.write_all(&frame[..4 + len]);
            }
        }
    });
    thread::spawn(move || -> io::Result<()> {
        loop {
            let (from_link, _) = listener.accept()?;
            *link.lock().unwrap_or_else(PoisonError::into_inner) = Some(from_link.try_clone()?);
            // It ends with its host program.
            let _ = from_link_to_card(from_link, &card);
        }
    });
    Ok(())
}

fn from_link_to_card(mut link: UnixStream, mut card: &File) -> io::Result<()> {
    let mut frame = vec![0; FRAME_MAX];
    loop {
        let mut len = [0; 4];
        link.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        let frame = frame.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
        link.read_exact(frame)?;
        // A frame that the card does not take is lost, as on a wire.
        let _ = card.write(frame);
    }
}

/// Reads a frame as it was on the wire: the system takes a VLAN tag out, and reports it separately. Needs [`TAG`] bytes
/// of room after the longest frame.
fn read_frame(card: &File, frame: &mut [u8]) -> io::Result<usize> {
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() - TAG };
    // SAFETY: all zeroes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
    // SAFETY: the message names `frame` and `control` with their lengths, and both live through the call.
    let len = unsafe { libc::recvmsg(card.as_raw_fd(), &raw mut message, 0) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the system has filled the control part; a message of this level and type is a whole tpacket_auxdata.
    let about = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let ours = |(level, kind)| level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA;
        (!header.is_null() && ours(((*header).cmsg_level, (*header).cmsg_type)))
            .then(|| libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned())
    };
    match about {
        Some(about) if about.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && len >= ADDRESSES => {
            frame.copy_within(ADDRESSES..len, ADDRESSES + TAG);
            frame[ADDRESSES..ADDRESSES + 2].copy_from_slice(&about.tp_vlan_tpid.to_be_bytes());
            frame[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&about.tp_vlan_tci.to_be_bytes());
            Ok(len + TAG)
        }
        _ => Ok(len),
    }
}

/// A packet socket on the card, which is up and takes frames for any address.
fn open_card() -> io::Result<File> {
    // SAFETY: a new descriptor, owned here alone; a negative one is refused first.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, ALL_PROTOCOLS.into());
        OwnedFd::from_raw_fd(checked(socket)?)
    };
    let fd = socket.as_raw_fd();
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, whose size is passed.
    checked(unsafe {
        let len = size_of_val(&on) as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, (&raw const on).cast(), len)
    })?;
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(CARD.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is whole, its name ends with a zero, and each call writes only the field that is read.
    let index = unsafe {
        checked(libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_PROMISC) as libc::c_short;
        checked(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request))?;
        checked(libc::ioctl(fd, libc::SIOCGIFINDEX as _, &raw mut request))?;
        request.ifr_ifru.ifru_ifindex
    };
    // The card would put segments of a connection together: the guest is to see what was on the wire. Should there be no
    // such setting, there is nothing to switch off either.
    let mut setting = EthtoolValue { command: ETHTOOL_SGRO, value: 0 };
    request.ifr_ifru.ifru_data = (&raw mut setting).cast();
    // SAFETY: the request names the card and points to a whole ethtool_value, which lives through the call.
    let _ = unsafe { libc::ioctl(fd, libc::SIOCETHTOOL as _, &raw mut request) };
    // SAFETY: all zeroes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is complete and its length is passed.
    checked(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
    Ok(File::from(socket))
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
