//! Where data is: in the pool, or on its data device ([decision 0016](../../../docs/decisions/0016-data-device.md)).
//!
//! Which [`Tier`] new blocks of a file come from follows from its DAX flag alone. Who has an extent asks its blocks
//! where they are, so that a file may have some in each place; one with the flag has none on the device.

use std::sync::Arc;

use nix::errno::Errno;
use udax_disk::Disk;
use udax_journal::DataWriter;
use udax_media::inode::{FileKind, InodeFlags};
use udax_media::{BlockNo, BlockRange, DEVICE_START, Place};
use udax_pagecache::ErrSeq;
use udax_sync::fault::{Fault, is_injected};

use crate::error::{Error, Result};
use crate::inode::hold::Hold;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::{Space, Tier};

/// The device's byte that is byte `at` of the pool's space of blocks; `None` for one of the pool.
pub(crate) fn device_byte(at: u64) -> Option<u64> {
    at.checked_sub(DEVICE_START.offset().raw())
}

impl Pool {
    /// The free blocks of `tier`; those of the pool where there is no device.
    pub(crate) fn space_on(&self, tier: Tier) -> &Space {
        match (tier, &self.device_space) {
            (Tier::Device, Some(space)) => space,
            _ => &self.space,
        }
    }

    /// The free blocks among which `block` would be.
    pub(crate) fn space_of(&self, block: BlockNo) -> &Space {
        self.space_on(Tier::of(block))
    }

    /// Makes taken blocks available again, wherever they are.
    pub(crate) fn give_back(&self, blocks: BlockRange) {
        self.space_of(blocks.start).give_back(blocks);
    }

    /// Where new blocks of `inode` are to be.
    ///
    /// # Errors
    /// A media error.
    pub(crate) fn tier_of(&self, inode: &Inode) -> Result<Tier> {
        if self.device_space.is_none() || inode.kind != FileKind::Regular {
            return Ok(Tier::Pool);
        }
        let (_, flags) = self.inode_mode_and_flags(inode)?;
        Ok(
            match InodeFlags::from_bits_retain(flags).contains(InodeFlags::DAX) {
                true => Tier::Pool,
                false => Tier::Device,
            },
        )
    }

    /// Where cached files take their blocks.
    pub(crate) fn cached_space(&self) -> &Space {
        self.space_on(Tier::Device)
    }

    /// A writer of data in both places.
    pub(crate) fn data_writer(&self) -> DataWriter<'_> {
        DataWriter::with_disk(&self.region, self.disk.as_ref())
    }

    fn disk_at(&self, at: u64) -> Result<&Arc<Disk>> {
        self.disk.as_ref().ok_or(Error::Inconsistent {
            place: Place::Byte(udax_media::ByteOffset(at)),
            what: "a block of a data device in a pool that has none",
        })
    }

    /// Reads bytes of data from `at` on, wherever they are.
    pub(crate) fn read_data(&self, at: u64, to: &mut [u8]) -> Result<()> {
        match device_byte(at) {
            Some(byte) => Ok(self.disk_at(at)?.read(byte, to)?),
            None => Ok(self.region.read(at, to)?),
        }
    }

    /// Stores bytes of data over others, wherever they are; not durable before a fence, and a flush of the device.
    pub(crate) fn overwrite_data(&self, at: u64, bytes: &[u8]) -> Result<()> {
        match device_byte(at) {
            Some(byte) => Ok(self.disk_at(at)?.write(byte, bytes)?),
            None => Ok(self.region.store_nontemporal(at, bytes)?),
        }
    }

    /// The errors of flushes of the data device: what a flush that failed was to make durable may be lost, whoever had
    /// written it.
    ///
    /// # Locks
    /// A leaf.
    pub(crate) fn disk_errors(&self) -> &ErrSeq {
        if let Some(disk) = &self.disk {
            let failures = disk.failures();
            // Who finds them noted finds the error: both change under one lock.
            let mut noted = self.disk_failures.lock();
            if *noted < failures {
                *noted = failures;
                self.disk_errors.set(Errno::EIO);
            }
        }
        &self.disk_errors
    }

    /// Notes that bytes of a file are about to be overwritten on the data device.
    pub(crate) fn note_overwrite(&self, state: &mut InodeState) {
        if let Some(disk) = &self.disk {
            state.overwritten.get_or_insert_with(|| disk.failures());
        }
    }

    /// Makes durable what was overwritten of a file on the data device.
    ///
    /// # Errors
    /// `Disk`: it may be lost, as a flush has failed since it was written, whoever had asked for that. This is told
    /// once by the file; every open file is told besides.
    pub(crate) fn flush_overwritten(&self, hold: &mut dyn Hold) -> Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let before = hold.state_mut().overwritten.take();
        let mut flushed = Ok(());
        hold.while_lent(0, &mut || {
            flushed = match before {
                Some(before) if !is_injected(Fault::UnflushedDeviceSync) => {
                    disk.flush_since(before).map_err(Error::from)
                }
                _ => self.flush_disk(),
            };
        });
        flushed
    }

    /// Makes durable what was written to the data device.
    ///
    /// # Errors
    /// `Disk`: what was written may be lost, which every open file will be told.
    pub(crate) fn flush_disk(&self) -> Result<()> {
        match &self.disk {
            Some(disk) if !is_injected(Fault::UnflushedDeviceSync) => Ok(disk.flush()?),
            _ => Ok(()),
        }
    }
}
