//! The FAT file system on the drive that we were started from, by `embedded-sdmmc`, read through the BIOS.
//!
//! The crate reads sector by sector and insists on a partition table: a few pieces of the volume are kept, and it gets a
//! table made up, one sector long, in front of the volume.

use crate::real_mode::{self, DiskAddress, Registers};
use core::cell::RefCell;
use core::fmt;
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx, TimeSource, Timestamp};
use shared_abi::disk::{BiosParameters, SECTOR};

/// Bytes that are read at once.
const PIECE: usize = 32 << 10;
const PIECE_SECTORS: u64 = PIECE as u64 / SECTOR;
/// One for the file, one for the allocation table.
const PIECES: usize = 2;
const CARRY: u32 = 1;

/// A read that the BIOS refused, with its status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadError(u8);

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the BIOS cannot read the disk: status {:#04x}", self.0)
    }
}

impl core::error::Error for ReadError {}

// Aligned so that no read crosses 64 KiB, which old controllers cannot.
#[repr(align(32768))]
#[expect(dead_code, reason = "only its address is used")]
struct Pieces([[u8; PIECE]; PIECES]);

static mut PIECES_MEMORY: Pieces = Pieces([[0; PIECE]; PIECES]);

#[derive(Clone, Copy, Default)]
struct Kept {
    /// First sector in the volume.
    first: Option<u64>,
    last_use: u64,
}

/// The volume.
pub(crate) struct Volume {
    medium: BiosParameters,
    kept: RefCell<([Kept; PIECES], u64)>,
}

impl Volume {
    /// The one that mkimage recorded. There is only one at a time: it owns the memory for the pieces.
    pub(crate) fn new(medium: BiosParameters) -> Self {
        Self { medium, kept: RefCell::default() }
    }

    /// A partition table with one FAT32 partition (LBA).
    fn made_up_table(&self) -> [u8; SECTOR as usize] {
        let mut table = [0; SECTOR as usize];
        table[446 + 4] = 0x0c;
        table[446 + 8..446 + 12].copy_from_slice(&1u32.to_le_bytes());
        let sectors = u32::try_from(self.medium.volume_sectors).unwrap_or(u32::MAX);
        table[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }

    fn sector(&self, sector: u64, into: &mut [u8; SECTOR as usize]) -> Result<(), ReadError> {
        const BEYOND: ReadError = ReadError(0x04);
        let first = sector / PIECE_SECTORS * PIECE_SECTORS;
        let mut kept = self.kept.borrow_mut();
        let (pieces, clock) = &mut *kept;
        *clock += 1;
        let hit = pieces.iter().position(|piece| piece.first == Some(first));
        let oldest = if pieces[0].last_use <= pieces[1].last_use { 0 } else { 1 };
        let index = hit.unwrap_or(oldest);
        let memory = (&raw mut PIECES_MEMORY).cast::<u8>().wrapping_add(index * PIECE);
        if hit.is_none() {
            let sectors = self.medium.volume_sectors.checked_sub(first).filter(|left| *left > 0).ok_or(BEYOND)?;
            pieces[index].first = None;
            self.read(first, sectors.min(PIECE_SECTORS), memory)?;
            pieces[index].first = Some(first);
        }
        pieces[index].last_use = *clock;
        let offset = ((sector - first) * SECTOR) as usize;
        // SAFETY: within the piece, which only this volume uses, one borrow at a time.
        unsafe { memory.add(offset).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn read(&self, first: u64, sectors: u64, memory: *mut u8) -> Result<(), ReadError> {
        let per_block = (1u64 << self.medium.block_shift) / SECTOR;
        let start = self.medium.volume_first + first;
        let packet = DiskAddress {
            size: size_of::<DiskAddress>() as u16,
            blocks: sectors.div_ceil(per_block) as u16,
            offset: 0,
            segment: (memory.addr() >> 4) as u16,
            first: start / per_block,
        };
        // SAFETY: nothing else calls the BIOS meanwhile; the packet says where it may write.
        let registers = unsafe {
            real_mode::bios_packet = packet;
            let esi = (&raw const real_mode::bios_packet).addr() as u32;
            call(0x13, Registers { eax: 0x4200, edx: real_mode::bios_drive.into(), esi, ..Registers::default() })
        };
        if registers.flags & CARRY != 0 { Err(ReadError((registers.eax >> 8) as u8)) } else { Ok(()) }
    }
}

/// Calls the BIOS.
///
/// # Safety
/// No other call runs meanwhile, and what the call writes is in use by nothing else.
pub(crate) unsafe fn call(interrupt: u8, registers: Registers) -> Registers {
    // SAFETY: per the contract.
    unsafe {
        real_mode::bios_registers = registers;
        real_mode::bios_call(interrupt);
        (&raw const real_mode::bios_registers).read()
    }
}

impl BlockDevice for Volume {
    type Error = ReadError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), ReadError> {
        for (block, sector) in blocks.iter_mut().zip(u64::from(start.0)..) {
            match sector.checked_sub(1) {
                None => block.contents = self.made_up_table(),
                Some(sector) => self.sector(sector, &mut block.contents)?,
            }
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), ReadError> {
        // "Write protected", as a BIOS says it.
        Err(ReadError(0x03))
    }

    fn num_blocks(&self) -> Result<BlockCount, ReadError> {
        Ok(BlockCount(u32::try_from(self.medium.volume_sectors + 1).unwrap_or(u32::MAX)))
    }
}

/// Nothing is written, so nothing needs a time.
pub(crate) struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 0, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}
