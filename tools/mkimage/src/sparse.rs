//! A disk in memory of which only what is written takes room: file systems and partition tables are made here, then what
//! there is goes to a file in one sweep.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The disk. Reads as zeros where nothing was written.
#[derive(Debug, Default)]
pub struct Sparse {
    pieces: BTreeMap<u64, Box<[u8]>>,
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
        self.pieces.len() as u64 * PIECE as u64
    }

    /// What is not just zeros: offset and bytes, ascending.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(index, bytes)| {
            let start = index * PIECE as u64;
            let len = (self.len - start).min(PIECE as u64) as usize;
            (start, &bytes[..len])
        })
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
            Some(piece) => buffer[..len].copy_from_slice(&piece[offset..offset + len]),
            None => buffer[..len].fill(0),
        }
        self.at += len as u64;
        Ok(len)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (index, offset, len) = self.part(bytes.len());
        let bytes = &bytes[..len];
        if self.pieces.contains_key(&index) || bytes.iter().any(|byte| *byte != 0) {
            let piece = self.pieces.entry(index).or_insert_with(|| vec![0; PIECE].into_boxed_slice());
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
