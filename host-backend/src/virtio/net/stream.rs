//! A link over a stream socket in the framing of QEMU's `-netdev stream`: each frame after its length, a big-endian
//! u32. passt speaks it, and so do QEMU and other switches.
//!
//! The peer is not trusted either: a length that no frame can have ends the link. Checksums are complete in both
//! directions: what the guest leaves open, the card does before.

use super::{ETHERNET_HEADER, HEADER_LEN, Link, PACKET_MAX, Sent};
use crate::unix_socket;
use shared_abi::virtio::net::Features;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

const LENGTH: usize = size_of::<u32>();
const FRAME_MAX: usize = PACKET_MAX - HEADER_LEN;

/// A stream socket with a peer.
pub struct StreamLink {
    socket: UnixStream,
    /// Bytes received and not yet taken: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame of which a part went out.
    unsent: Vec<u8>,
    up: bool,
}

impl StreamLink {
    /// A link over a connected socket.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let buffer = vec![0; LENGTH + FRAME_MAX];
        Ok(Self { socket, buffer, start: 0, end: 0, unsent: Vec::new(), up: true })
    }

    /// Connects to a listening peer, which must accept at once.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(unix_socket::connect(path)?)
    }

    /// Another descriptor of the socket, for a thread that waits for the peer's end.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    /// The frame at the start of the buffer, once it is whole.
    fn buffered(&self) -> io::Result<Option<std::ops::Range<usize>>> {
        let bytes = &self.buffer[self.start..self.end];
        let Some(length) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(ETHERNET_HEADER..=FRAME_MAX).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        let start = self.start + LENGTH;
        Ok((bytes.len() >= LENGTH + length).then(|| start..start + length))
    }

    /// Reads what is available; false if nothing is.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match self.socket.read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.end += n;
                Ok(true)
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn next_frame(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn push_unsent(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if is_temporary(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Any failure of the stream is its end: where the next frame starts is lost.
    fn ends_on_error<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.up = false;
        }
        result
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Link for StreamLink {
    fn offloads(&self) -> Features {
        Features::empty()
    }

    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<Sent> {
        if !self.unsent.is_empty() {
            return Ok(Sent::Busy);
        }
        let frame = &packet[HEADER_LEN..];
        let length = (frame.len() as u32).to_be_bytes();
        let written = match self.socket.write_vectored(&[IoSlice::new(&length), IoSlice::new(frame)]) {
            Err(error) if is_temporary(&error) => return Ok(Sent::Busy),
            other => self.ends_on_error(other)?,
        };
        if written < LENGTH + frame.len() {
            self.unsent.extend(length.iter().chain(frame).skip(written));
        }
        Ok(Sent::Yes)
    }

    fn receive(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        let next = self.next_frame();
        let Some(frame) = self.ends_on_error(next)? else { return Ok(None) };
        let len = HEADER_LEN + frame.len();
        packet[..HEADER_LEN].fill(0);
        packet[HEADER_LEN..len].copy_from_slice(&self.buffer[frame.clone()]);
        self.start = frame.end;
        Ok(Some(len))
    }

    fn flush(&mut self) -> bool {
        let result = self.push_unsent();
        // When the link is down, sending fails at once, which empties the guest's queue.
        self.ends_on_error(result).unwrap_or(true)
    }

    fn is_up(&self) -> bool {
        self.up
    }
}
