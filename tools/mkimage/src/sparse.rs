//! A disk in memory of which only what is written takes room: file systems and partition tables are made here, then what
//! there is goes to a file or a device in one sweep. A device has old content, so it is also known where zeros were written.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of a piece.
pub(crate) const PIECE: usize = 64 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// The disk. Reads as zeros where nothing was written.
#[derive(Debug, Default)]
pub struct Sparse {
    /// All that was ever written to; `None`: zeros.
    pieces: BTreeMap<u64, Option<Box<[u8]>>>,
    len: u64,
    at: u64,
}

impl Sparse {
    /// A disk of zeros.
    pub fn new(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in memory.
    pub fn used(&self) -> u64 {
        self.pieces.values().flatten().count() as u64 * PIECE as u64
    }

    /// What is not just zeros: offset and bytes, ascending.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().filter_map(|(index, bytes)| Some(self.placed(*index, bytes.as_deref()?)))
    }

    /// What was written, zeros too: offset and bytes, ascending. What lies between may stay as it is on a device.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(index, bytes)| self.placed(*index, bytes.as_deref().unwrap_or(&ZEROS)))
    }

    fn placed<'a>(&self, index: u64, bytes: &'a [u8]) -> (u64, &'a [u8]) {
        let start = index * PIECE as u64;
        let len = (self.len - start).min(PIECE as u64) as usize;
        (start, &bytes[..len])
    }

    /// The piece at the position, the offset in it, and how many of `wanted` bytes lie in it and on the disk.
    fn part(&self, wanted: usize) -> (u64, usize, usize) {
        let offset = (self.at % PIECE as u64) as usize;
        let left = self.len.saturating_sub(self.at).min((PIECE - offset) as u64) as usize;
        (self.at / PIECE as u64, offset, wanted.min(left))
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (index, offset, len) = self.part(buffer.len());
        match self.pieces.get(&index) {
            Some(Some(piece)) => buffer[..len].copy_from_slice(&piece[offset..offset + len]),
            Some(None) | None => buffer[..len].fill(0),
        }
        self.at += len as u64;
        Ok(len)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (index, offset, len) = self.part(bytes.len());
        let bytes = &bytes[..len];
        if len == 0 {
            return Ok(0);
        }
        let piece = self.pieces.entry(index).or_default();
        if piece.is_some() || *bytes != ZEROS[..len] {
            let piece = piece.get_or_insert_with(|| vec![0; PIECE].into_boxed_slice());
            piece[offset..offset + len].copy_from_slice(bytes);
        }
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(offset) => (offset, 0),
            SeekFrom::End(offset) => (self.len, offset),
            SeekFrom::Current(offset) => (self.at, offset),
        };
        self.at = base.checked_add_signed(offset).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_the_rest_is_zeros_that_take_no_room() {
        let mut disk = Sparse::new(1 << 40);
        let bytes: Vec<u8> = (0..200_000u32).map(|index| (index % 251 + 1) as u8).collect();
        disk.seek(SeekFrom::Start((1 << 39) - 77)).unwrap();
        disk.write_all(&bytes).unwrap();
        disk.write_all(&[0; 1 << 20]).unwrap();
        disk.seek(SeekFrom::Start((1 << 39) - 78)).unwrap();
        let mut back = vec![9; bytes.len() + 2];
        disk.read_exact(&mut back).unwrap();
        assert!(back[0] == 0 && back[1..back.len() - 1] == bytes && back.last() == Some(&0));
        assert!(disk.used() < 400_000);
    }

    #[test]
    fn zeros_that_were_written_are_known_and_still_take_no_room() {
        let piece = PIECE as u64;
        let mut disk = Sparse::new(10 * piece + 100);
        disk.seek(SeekFrom::Start(2 * piece - 1)).unwrap();
        disk.write_all(&[0, 0]).unwrap();
        disk.seek(SeekFrom::Start(10 * piece)).unwrap();
        disk.write_all(&[0, 7]).unwrap();
        let written: Vec<_> = disk.written().map(|(at, bytes)| (at / piece, bytes.len())).collect();
        assert_eq!(written, [(1, PIECE), (2, PIECE), (10, 100)]);
        assert_eq!(disk.pieces().map(|(at, bytes)| (at / piece, bytes[1])).collect::<Vec<_>>(), [(10, 7)]);
        assert_eq!(disk.used(), piece);
        // What was zeros takes other bytes later.
        disk.seek(SeekFrom::Start(piece + 5)).unwrap();
        disk.write_all(&[9]).unwrap();
        assert!(disk.written().all(|(at, bytes)| at != piece || (bytes[4..7] == [0, 9, 0])));
    }

    #[test]
    fn the_end_of_the_disk_ends_reads_and_writes() {
        let mut disk = Sparse::new(100_000);
        disk.seek(SeekFrom::End(-3)).unwrap();
        assert!(disk.write_all(b"four").is_err());
        disk.seek(SeekFrom::End(-3)).unwrap();
        assert_eq!(disk.read(&mut [0; 9]).unwrap(), 3);
        assert_eq!(disk.read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(disk.pieces().map(|(at, piece)| at + piece.len() as u64).max(), Some(100_000));
        assert!(disk.seek(SeekFrom::Current(-100_001)).is_err());
    }
}
