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

const FRAME_MAX: usize = 65_536;
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

pub(crate) fn relay() -> Result<()> {
    let card = open_card().with_context(|| format!("cannot open {CARD}"))?;
    let listener = UnixListener::bind(NETWORK).with_context(|| format!("cannot listen on {NETWORK}"))?;
    // The host program may run many times, one after the other; each has a link of its own.
    let link = Arc::new(Mutex::new(None::<UnixStream>));
    let (from_card, to_link) = (card.try_clone()?, link.clone());
    thread::spawn(move || -> io::Result<()> {
        let mut frame = vec![0; size_of::<u32>() + FRAME_MAX];
        loop {
            let len = (&from_card).read(&mut frame[4..])?;
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

/// A packet socket on the card, which is up and takes frames for any address.
fn open_card() -> io::Result<File> {
    // SAFETY: a new descriptor, owned by nobody else; a negative one is turned down first.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, ALL_PROTOCOLS.into());
        OwnedFd::from_raw_fd(checked(socket)?)
    };
    let fd = socket.as_raw_fd();
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
    // SAFETY: all zeroes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is whole and its length is told.
    checked(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
    Ok(File::from(socket))
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
