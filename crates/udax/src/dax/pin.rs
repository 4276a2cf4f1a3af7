//! Pins and read leases of open files.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use udax_dax::{Access, DaxError, Label, Mapping, Mode, PageRange, Pin, ReadLease, Refused, Request, Term};
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, FileBlock};
use udax_sync::fault;

use super::Obstacle;
use super::extents::LockedExtents;
use crate::error::{Error, Result};
use crate::extents::{self, Mapping as Mapped};
use crate::file::File;
use crate::file::summed::LastLook;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;

/// What pins of a handle keep: one more handle, which is closed with the last of them.
#[derive(Debug)]
pub(crate) struct PinOwner {
    pub(crate) pool: Arc<Pool>,
    pub(crate) inode: Arc<Inode>,
}

impl Drop for PinOwner {
    fn drop(&mut self) {
        self.pool.close_handle(&self.inode);
    }
}

impl File {
    /// Pins the pages that hold `len` bytes from `offset`: until the guard is dropped their bytes stay where they are,
    /// for devices, system calls and other processors to read or, with write access, to store to. Truncations, punches
    /// and whatever else would move them wait; an unlinked file is freed after its last pin.
    ///
    /// Holes are filled with zeroed blocks, which counts as a modification, and shared blocks are copied first, the
    /// latter for write access: a pin that fails then may have done so in part. Blocks that have checksums are verified
    /// and lose them, for write access: they have none until they are written by [`File::write_at`] while they are not
    /// pinned, or the file's last handle is closed. A pin for reading verifies nothing. Operations that wait already
    /// for this range are let go first, for a tenth of a second: the caller may hold the pin that they wait for. Who
    /// holds pins already asks with a deadline all the same: to copy and to fill may wait for pins, its own among them.
    ///
    /// # Errors
    /// `BadHandle` unless open for reading, and for write access for writing; `Invalid` for an empty range and other
    /// kinds than regular files; `NotSupported` for a file without DAX; `WrongData`; `Dax`: beyond the end, or
    /// something in the way for longer than [`File::waiting`] allows; `NoSpace`, and `ReadOnly` where there are holes.
    ///
    /// # Durability
    /// None of what is stored through the pin: [`Pin::persist`], or [`File::sync`] while or after it lives.
    pub fn pin(&self, offset: u64, len: u64, request: Request) -> Result<Pin> {
        self.pin_by(offset, len, request, self.wait())
    }

    /// As [`File::pin`], without waiting for anything but locks.
    ///
    /// # Errors
    /// As [`File::pin`].
    pub fn try_pin(&self, offset: u64, len: u64, request: Request) -> Result<Pin> {
        self.pin_by(offset, len, request, &Mode::NoWait)
    }

    /// As [`File::pin`], waiting until `deadline` at most.
    ///
    /// # Errors
    /// As [`File::pin`].
    pub fn pin_deadline(&self, offset: u64, len: u64, request: Request, deadline: Instant) -> Result<Pin> {
        self.pin_by(offset, len, request, &Mode::deadline(deadline))
    }

    /// Leases the pages that hold `len` bytes from `offset` for reading: a pin whose bytes nobody changes while it
    /// lives, so that they can be borrowed ([`ReadLease::slices`], from the start of the first page). Writes to the
    /// range, pins for writing, and what would move its blocks wait.
    ///
    /// Holes are filled first. While it waits for pins and writes it keeps new ones back for a moment, but has nothing
    /// pinned. Who holds a pin of the range for writing itself waits for itself.
    ///
    /// # Errors
    /// As [`File::pin`].
    pub fn lease(&self, offset: u64, len: u64, label: Label, term: Term) -> Result<ReadLease> {
        let request = Request {
            access: Access::Read,
            label,
            term,
        };
        let pages = self.check_pin(offset, len, request.access)?;
        let mut last: Option<Refused> = None;
        loop {
            let pin = self.pin_pages(pages, request, self.wait(), last.as_ref())?;
            let granted = {
                // The library writes with the lock held alone: none is under way.
                let _state = self.inode().read()?;
                ReadLease::try_grant(pin, last.take())
            };
            match granted {
                Ok(lease) => return Ok(lease),
                Err(refused) => {
                    let place = (self.inode().ino.raw(), pages.first());
                    let listed = self.pool().waiters.enter("lease", place, Obstacle::Holder);
                    refused.wait(self.wait())?;
                    drop(listed);
                    last = Some(*refused);
                }
            }
        }
    }

    fn pin_by(&self, offset: u64, len: u64, request: Request, mode: &Mode) -> Result<Pin> {
        let pages = self.check_pin(offset, len, request.access)?;
        self.pin_pages(pages, request, mode, None)
    }

    /// Pins `pages`; for a lease that `refused` was given for before, if it was.
    fn pin_pages(
        &self,
        pages: PageRange,
        request: Request,
        mode: &Mode,
        refused: Option<&Refused>,
    ) -> Result<Pin> {
        let inode = self.inode();
        loop {
            match (refused, inode.mapping()) {
                (Some(refused), _) => refused.pass_gate(mode)?,
                (None, Some(mapping)) => mapping.pass_gate(pages, mode)?,
                (None, None) => {}
            }
            let state = self.pool().read_loaded(inode)?;
            if inode.is_cached() {
                return Err(Error::NotSupported(
                    "a file without DAX is not reached by memory access; set its DAX flag first",
                ));
            }
            // Before holes are filled for nothing.
            let pages_of_file = self.pool().inode_size(inode)?.div_ceil(BLOCK_BYTES);
            if pages.last() >= pages_of_file {
                let page = pages_of_file.max(pages.first());
                return Err(DaxError::BeyondEnd { page }.into());
            }
            let mapping = inode.mapping_or_make(self.pool());
            let extents = LockedExtents {
                pool: self.pool(),
                inode,
                cache: &state.extents,
                refused: Cell::new(None),
            };
            match mapping.pin_past_gate(pages, request, &Mode::NoWait, &extents) {
                Ok(mut pin) => {
                    if request.access == Access::Write {
                        inode.note_stored();
                    }
                    if !fault::is_injected(fault::Fault::EarlyFree) {
                        pin.attach(self.pin_owner());
                    }
                    return Ok(pin);
                }
                Err(error) => {
                    let summed = extents.refused.get();
                    drop(state);
                    self.prepare(mapping, pages, (request.access, mode), (error, summed))?;
                }
            }
        }
    }

    fn check_pin(&self, offset: u64, len: u64, access: Access) -> Result<PageRange> {
        if self.inode().kind != FileKind::Regular {
            return Err(Error::Invalid("only a regular file is pinned"));
        }
        self.check_readable()?;
        if access == Access::Write {
            self.check_writable()?;
        }
        PageRange::of_bytes(offset, len).ok_or(Error::Invalid("an empty range"))
    }

    /// Does away with what has refused a pin. No lock is held.
    fn prepare(
        &self,
        mapping: &Mapping,
        pages: PageRange,
        (access, mode): (Access, &Mode),
        (error, summed): (DaxError, Option<(FileBlock, FileBlock)>),
    ) -> Result<()> {
        let (first, end) = (FileBlock(pages.first()), FileBlock(pages.last() + 1));
        match (error, mode) {
            (DaxError::WouldBlock { page, what }, Mode::NoWait) => {
                Err(DaxError::WouldBlock { page, what }.into())
            }
            (DaxError::WouldBlock { page, .. }, _) => {
                let place = (mapping.number(), page);
                let _listed = self.pool().waiters.enter("pin", place, Obstacle::Holder);
                Ok(mapping.wait_to_pin(pages, access, mode)?)
            }
            (DaxError::NeedsAllocation { .. }, _) => self.pool().fill(self.inode(), (first, end), mode),
            (DaxError::NeedsCopy { .. }, _) => self.pool().wait_and_retry("pin", mode, || {
                self.pool().retry_when_full(|| {
                    let mut state = self.inode().write()?;
                    self.pool().unshare_range(self.inode(), &mut state, first, end)?;
                    // A page may be in an entry of a huge one, which then is written to as a whole.
                    let (from, to) = summed.unwrap_or((first, end));
                    let all = (first.min(from), end.max(to));
                    self.pool()
                        .unsum_range(self.inode(), &mut state, all, LastLook::Yes)
                })
            }),
            (error, _) => Err(error.into()),
        }
    }
}

impl Inode {
    /// Its mapping, made now if need be. The caller has the inode's lock.
    fn mapping_or_make(&self, pool: &Pool) -> &Arc<Mapping> {
        self.mapping
            .get_or_init(|| Mapping::new(&pool.device, self.ino.raw()))
    }
}

impl Pool {
    /// Gives `first..end`, as far as it is in the file, blocks with zeros where it has none that were written.
    fn fill(&self, inode: &Inode, (first, end): (FileBlock, FileBlock), mode: &Mode) -> Result<()> {
        self.check_writable()?;
        self.wait_and_retry("pin", mode, || {
            let mut state = inode.write()?;
            self.prepare_range(inode, &mut state)?;
            self.fill_locked(inode, &mut state, (first, end))
        })
    }

    fn fill_locked(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
    ) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let size = self.inode_size(inode)?;
        let end = end.min(FileBlock(size.div_ceil(BLOCK_BYTES)));
        let mut at = first;
        while at < end {
            extents::load(self, inode, state)?;
            let until = match extents::lookup(self, inode, &state.extents, at)? {
                Mapped::Extent(extent) if !extent.is_unwritten() => {
                    at = extent.end();
                    continue;
                }
                Mapped::Extent(extent) => extent.end(),
                Mapped::Hole { until } => until,
            };
            let start = at.raw() * BLOCK_BYTES;
            // Only inside the file, which does not change its size.
            let stop = (until.min(end).raw() * BLOCK_BYTES).min(size);
            let len = usize::try_from(stop - start)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            let zeros = ZEROS.get(..len).unwrap_or_default();
            let written = self.write_locked(inode, state, zeros, start)?;
            at = FileBlock((start + u64::try_from(written).unwrap_or(0)).div_ceil(BLOCK_BYTES));
        }
        Ok(())
    }
}
