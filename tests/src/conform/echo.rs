//! The echo peer: the other end of the guest's Ethernet during a run. It echoes frames, as `conformance::echo` says, over
//! a listening Unix socket in QEMU's stream framing: each frame after its length, a big-endian u32.

use anyhow::{Context, Result};
use conformance::echo::{BROADCAST, MAC};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// No frame is longer.
const FRAME_MAX: usize = 1 << 17;

/// an echo peer that serves one connection. It ends with this.
#[derive(Debug)]
pub struct EchoPeer {
    path: PathBuf,
}

impl EchoPeer {
    /// Listens.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        thread::spawn(move || -> io::Result<()> {
            let (wire, _) = listener.accept()?;
            serve(wire)
        });
        Ok(Self { path: path.into() })
    }
}

impl Drop for EchoPeer {
    fn drop(&mut self) {
        // If no peer has connected, this is the one connection, and it is over at once.
        drop(UnixStream::connect(&self.path));
    }
}

/// Echoes until the other end is gone, or says what makes no sense.
fn serve(wire: UnixStream) -> io::Result<()> {
    let mut out = wire.try_clone()?;
    let mut wire = BufReader::new(wire);
    loop {
        let mut len = [0; 4];
        wire.read_exact(&mut len)?;
        let size = u32::from_be_bytes(len) as usize;
        if size > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = [&len[..], &vec![0; size]].concat();
        wire.read_exact(&mut message[4..])?;
        if echo(&mut message[4..]) {
            out.write_all(&message)?;
        }
    }
}

/// Turns a frame for us round.
fn echo(frame: &mut [u8]) -> bool {
    let Some((addresses, _)) = frame.split_first_chunk_mut::<12>() else { return false };
    let (to, from) = addresses.split_at_mut(6);
    if to != MAC && to != BROADCAST {
        return false;
    }
    to.copy_from_slice(from);
    from.copy_from_slice(&MAC);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(to: [u8; 6], from: [u8; 6], payload: &[u8]) -> Vec<u8> {
        let len = (12 + payload.len() as u32).to_be_bytes();
        [&len[..], &to, &from, payload].concat()
    }

    #[test]
    fn frames_for_the_echo_peer_and_for_all_come_back_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let echo_peer = EchoPeer::start(&folder.path().join("s")).unwrap();
        let mut wire = UnixStream::connect(&echo_peer.path).unwrap();
        let (guest, other) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
        for (to, payload) in [(MAC, &b"one"[..]), (other, b"two"), (BROADCAST, b""), (MAC, b"four")] {
            wire.write_all(&framed(to, guest, payload)).unwrap();
        }
        wire.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        wire.read_to_end(&mut back).unwrap();
        let expected = [&b"one"[..], b"", b"four"].map(|payload| framed(guest, MAC, payload)).concat();
        assert_eq!(back, expected);
    }

    #[test]
    fn a_frame_that_nobody_can_send_ends_the_echo_peer() {
        let folder = tempfile::tempdir().unwrap();
        let echo_peer = EchoPeer::start(&folder.path().join("s")).unwrap();
        let mut wire = UnixStream::connect(&echo_peer.path).unwrap();
        wire.write_all(&[0xff; 4]).unwrap();
        assert_eq!(wire.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn echo_peer_without_a_connection_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(EchoPeer::start(&path).unwrap());
        let refused = std::iter::repeat_with(|| {
            thread::sleep(std::time::Duration::from_millis(1));
            UnixStream::connect(&path)
        });
        assert!(refused.take(5000).any(|result| result.is_err()));
    }
}
