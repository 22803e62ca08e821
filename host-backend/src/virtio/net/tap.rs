//! A link to a tap interface of this machine. Packets travel with their header, so the system finishes checksums that
//! the guest left open, and leaves open those that the guest does not need.

use super::{HEADER_LEN, Link, Sent};
use shared_abi::virtio::net::Features;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// A tap interface.
#[derive(Debug)]
pub struct TapLink {
    file: File,
    up: bool,
}

impl TapLink {
    /// Attaches to the interface of that name. It is never created: an interface without a configuration leads nowhere.
    ///
    /// # Errors
    /// When it is not there, not ours, or in use.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let absent = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("it does not exist; make it by ip tuntap add {name} mode tap"),
            )
        };
        let text = std::ffi::CString::new(name)?;
        // SAFETY: `text` is a string with its NUL.
        if unsafe { libc::if_nametoindex(text.as_ptr()) } == 0 {
            return Err(absent());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let header_len = HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETIFF reads and writes an ifreq, TUNSETVNETHDRSZ reads an int; both live through the calls.
        unsafe {
            check(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request))?;
            check(libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const header_len))?;
            check(libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request))?;
        }
        // The system makes an interface that is not there. If it went just now, this is ours and goes with us.
        // SAFETY: TUNGETIFF has filled in the flags.
        if libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_PERSIST == 0 {
            return Err(absent());
        }
        Ok(Self { file, up: true })
    }

    fn ends_on_error<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        // EBADFD: the interface was deleted.
        if let Err(error) = &result
            && error.raw_os_error() == Some(libc::EBADFD)
        {
            self.up = false;
        }
        result
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Link for TapLink {
    fn offloads(&self) -> Features {
        Features::CSUM | Features::GUEST_CSUM
    }

    fn activate(&mut self, features: Features) {
        let offloads = if features.contains(Features::GUEST_CSUM) { libc::TUN_F_CSUM } else { 0 };
        // SAFETY: TUNSETOFFLOAD takes its argument by value. Should it fail, the system completes all checksums.
        unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)) };
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<Sent> {
        match self.file.write(packet) {
            Ok(_) => Ok(Sent::Yes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Busy),
            other => self.ends_on_error(other.map(|_| Sent::Yes)),
        }
    }

    fn receive(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(packet) {
            Ok(len) if len > HEADER_LEN => Ok(Some(len)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => self.ends_on_error(Err(error)),
        }
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn is_up(&self) -> bool {
        self.up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::net::HEADER_LEN;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// A packet socket at the system's end of the interface.
    fn other_end(name: &str) -> File {
        assert!(Command::new("ip").args(["link", "set", name, "up"]).status().unwrap().success());
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: `address` is a complete sockaddr_ll, of which bind gets the size.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol.into());
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), len), 0);
            File::from(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Tries until the frame arrives: the system sends others of its own on a new interface.
    fn arrives(frame: &[u8], mut receive: impl FnMut(&mut [u8]) -> Option<usize>) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match receive(&mut buffer) {
                Some(len) if buffer[..len].ends_with(frame) => return true,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    #[test]
    fn frames_cross_the_interface_in_both_directions() {
        let Some(made) = Made::new() else {
            return eprintln!("SKIPPED frames_cross_the_interface_in_both_directions: no tap interface can be made");
        };
        let name = &made.0;
        let mut tap = TapLink::open(name).unwrap();
        tap.activate(Features::GUEST_CSUM);
        let mut system = other_end(name);
        // Broadcast, from a made-up card, of an experimental protocol.
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[0x5a; 60]].concat();
        assert_eq!(tap.send(&[&[0; HEADER_LEN], &frame[..]].concat()).unwrap(), Sent::Yes);
        assert!(arrives(&frame, |buffer| system.read(buffer).ok()));
        system.write_all(&frame).unwrap();
        assert!(arrives(&frame, |buffer| tap.receive(buffer).unwrap()));
    }

    /// An interface that exists already.
    struct Made(String);

    impl Made {
        fn new() -> Option<Self> {
            let name = format!("rs{}", std::process::id());
            let made = Command::new("ip").args(["tuntap", "add", &name, "mode", "tap"]).status();
            made.is_ok_and(|status| status.success()).then_some(Self(name))
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
        }
    }

    #[test]
    fn a_missing_interface_is_reported_and_not_created() {
        let error = TapLink::open("ringside-none").unwrap_err().to_string();
        if File::open("/dev/net/tun").is_err() {
            return eprintln!("SKIPPED a_missing_interface_is_reported_and_not_created: there is no /dev/net/tun");
        }
        assert!(error.contains("does not exist"), "{error}");
        // SAFETY: the name is a string with its NUL.
        assert_eq!(unsafe { libc::if_nametoindex(c"ringside-none".as_ptr()) }, 0);
    }

    #[test]
    fn an_interface_that_is_no_tap_is_refused() {
        assert!(TapLink::open("lo").is_err());
        assert!(TapLink::open("a-name-that-is-too-long").is_err());
    }
}
