//! A new file of a set size that keeps its holes: zeros are not written where nothing else was. The tables of a FAT file
//! system of 2 TiB are half a gigabyte of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of a piece that is a hole or is not.
const PIECE: u64 = 64 << 10;

/// The file.
pub(super) struct Holes<'a> {
    file: &'a mut File,
    at: u64,
    /// Pieces that something was written to.
    written: BTreeSet<u64>,
}

impl<'a> Holes<'a> {
    /// What was written so far lies in the first piece, and the position does not matter.
    pub(super) fn new(file: &'a mut File) -> Self {
        Self { file, at: 0, written: BTreeSet::from([0]) }
    }
}

impl Read for Holes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let len = self.file.read(buffer)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Write for Holes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = self.at / PIECE;
        let len = bytes.len().min((PIECE - self.at % PIECE) as usize);
        let bytes = &bytes[..len];
        if self.written.contains(&piece) || bytes.iter().any(|byte| *byte != 0) {
            self.file.seek(SeekFrom::Start(self.at))?;
            self.file.write_all(bytes)?;
            self.written.insert(piece);
        }
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Holes<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset).ok_or(io::ErrorKind::InvalidInput)?,
            other => self.file.seek(other)?,
        };
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_stay_holes_and_overwrite_what_was_there() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let mut holes = Holes::new(&mut file);
        holes.seek(SeekFrom::Start(1 << 20)).unwrap();
        holes.write_all(&vec![0; 32 << 20]).unwrap();
        assert_eq!(holes.stream_position().unwrap(), 33 << 20);
        for bytes in [[1; 8], [0; 8]] {
            holes.seek(SeekFrom::Start(40 << 20)).unwrap();
            holes.write_all(&bytes).unwrap();
            let mut back = [7; 8];
            holes.seek(SeekFrom::Start(40 << 20)).unwrap();
            holes.read_exact(&mut back).unwrap();
            assert_eq!(back, bytes);
        }
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert!(allocated <= 1 << 20, "{allocated} bytes");
    }
}
