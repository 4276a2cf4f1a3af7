//! Pages that are being written back: [`WriteRun`].
//!
//! A run begins with its folios locked: their dirty pages become its own, WRITEBACK is set, and the locks are released.
//! Until it is completed no other write of these folios begins, none of them leaves the cache, and in a stable mapping
//! nobody stores to them.

use std::borrow::Cow;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use smallvec::SmallVec;
use udax_sync::atomic::Ordering;

use crate::bits::{Bits, IsSet};
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::mapping::mark;
use crate::page::{PAGE, in_memory};
use crate::shortage::Shortage;
use crate::{Mapping, Stability};

type Runs = SmallVec<[Range<u64>; 1]>;

#[derive(Debug)]
struct Part {
    folio: Arc<Folio>,
    /// Pages of the file that are written.
    pages: Runs,
    /// Of these, pages that have a reservation.
    reserved: Runs,
    /// Whether the bytes stay as they are until the run is completed.
    is_stable: bool,
}

/// Dirty pages of one file on their way to the medium. A run that is dropped has failed with EIO.
#[derive(Debug)]
pub struct WriteRun {
    mapping: Arc<Mapping>,
    parts: SmallVec<[Part; 4]>,
    pages: u64,
    /// Whether its reservation is used up when it has been written.
    is_spent: bool,
    shortage: Shortage,
}

/// Memory of a run, and where in the file it belongs.
#[derive(Debug)]
pub struct Piece<'r> {
    /// The byte of the file; a multiple of the page size.
    pub at: u64,
    /// How many bytes: whole pages, which may reach beyond the end of the file. What does is zeros.
    pub len: usize,
    part: &'r Part,
}

impl<'r> Piece<'r> {
    /// The bytes: as they are in the cache where nobody can store to them, else a copy of now.
    pub fn bytes(&self) -> Cow<'r, [u8]> {
        let folio = &self.part.folio;
        let from = folio.offset(self.at);
        if self.part.is_stable {
            // SAFETY: the mapping is stable, and nobody reached the folio by address when the write began: until it is
            // completed, which takes the run that is borrowed here, whoever wants to store waits.
            return Cow::Borrowed(unsafe { folio.bytes.stable(from..from + self.len) });
        }
        let mut copy = vec![0; self.len];
        folio.bytes.copy_out(from, &mut copy);
        Cow::Owned(copy)
    }

    /// Lends the bytes: as they are in the cache where nobody can store to them, else a copy of now.
    pub fn with<R>(&self, take: impl FnOnce(&[u8]) -> R) -> R {
        take(&self.bytes())
    }

    /// Where the bytes are, for devices: they stay there until the run is completed.
    pub fn address(&self) -> NonNull<u8> {
        let folio = &self.part.folio;
        let from = folio.offset(self.at);
        folio.bytes.address_of(from, self.len)
    }
}

/// The runs of set bits among all pages of a folio, as the file numbers them.
fn runs_of(folio: &Folio, bits: &Bits) -> Runs {
    let mut runs = Runs::new();
    let mut from = 0;
    while let Some(run) = bits.next_run(from..folio.len(), IsSet::Yes) {
        from = run.end;
        runs.push(run.start + folio.first..run.end + folio.first);
    }
    runs
}

fn count(runs: &Runs) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

impl WriteRun {
    /// Begins to write the dirty pages of locked folios, none of which is being written, and unlocks them.
    pub(crate) fn begin(
        mapping: &Arc<Mapping>,
        folios: SmallVec<[LockedFolio; 4]>,
        size: u64,
        shortage: Shortage,
    ) -> Self {
        let mut parts = SmallVec::<[Part; 4]>::new();
        let mut pages = 0;
        for folio in &folios {
            let part = take_dirty(mapping, folio, size);
            pages += count(&part.pages);
            parts.push(part);
        }
        // First: together they are never seen as fewer than there are.
        mapping
            .cache()
            .counts
            .under_write
            .fetch_add(pages, Ordering::AcqRel);
        mapping.uncount_dirty(pages);
        let mut writer = mapping.index.write();
        for folio in &folios {
            writer.set_mark(folio.first, mark::WRITEBACK);
            writer.clear_mark(folio.first, mark::TOWRITE);
            if !folio.has(flag::DIRTY) {
                writer.clear_mark(folio.first, mark::DIRTY);
            }
        }
        drop(writer);
        // Who stores by address may do so at any time: to be on the safe side, its pages are dirty again at once.
        for (folio, part) in folios.iter().zip(&parts) {
            if folio.pins.write.load(Ordering::Acquire) > 0 {
                for run in &part.pages {
                    folio.make_dirty(run);
                }
            }
        }
        Self {
            mapping: Arc::clone(mapping),
            parts,
            pages,
            is_spent: false,
            shortage,
        }
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Ranges of bytes of the file, ascending, which do not touch each other: whole pages.
    pub fn segments(&self) -> impl Iterator<Item = Range<u64>> {
        let mut runs = self
            .parts
            .iter()
            .flat_map(|part| part.pages.iter().cloned())
            .peekable();
        std::iter::from_fn(move || {
            let mut segment = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.start == segment.end) {
                segment.end = next.end;
            }
            Some(segment.start * PAGE..segment.end * PAGE)
        })
    }

    /// The memory, in ascending order of the file.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.parts.iter().flat_map(|part| {
            part.pages.iter().map(move |run| Piece {
                at: run.start * PAGE,
                len: in_memory((run.end - run.start) * PAGE),
                part,
            })
        })
    }

    /// Blocks that were reserved for it. They are given back when it has been written, but for [`WriteRun::spend`].
    pub fn reserved(&self) -> u64 {
        self.parts.iter().map(|part| count(&part.reserved)).sum()
    }

    /// What was reserved for the run is used: when it is completed, nothing is given back. Should it fail, its pages
    /// have their reservation as before.
    pub fn spend(&mut self) {
        self.is_spent = true;
    }

    /// What was reserved for pages before byte `end` is used, whatever becomes of the rest; gives how much. Should the
    /// run fail, these pages are dirty without a reservation: they have their blocks.
    pub fn spend_to(&mut self, end: u64) -> u64 {
        let end = end / PAGE;
        let mut spent = 0;
        for part in &mut self.parts {
            for run in &mut part.reserved {
                let until = end.clamp(run.start, run.end);
                spent += until - run.start;
                run.start = until;
            }
            part.reserved.retain(|run| !run.is_empty());
        }
        self.mapping.cache().reservations().uncount(spent);
        spent
    }

    /// The run has been written, or why not: then its pages are dirty again, and every open file is told once; of
    /// `ENOMEM`, by the last try of a full pass.
    pub fn complete(mut self, result: Result<(), Errno>) {
        match result {
            Ok(()) if self.is_spent => self.mapping.cache().reservations().uncount(self.reserved()),
            Ok(()) => self.mapping.cache().reservations().give_back(self.reserved()),
            Err(Errno::ENOMEM) if self.shortage == Shortage::TriedAgain => {
                self.take_back();
                self.mapping.note_shortage();
            }
            Err(errno) => {
                self.mapping.note_error(errno);
                self.take_back();
            }
        }
        self.end();
    }

    /// The run could not be written now: its pages are dirty again, and it is nobody's error. The kernel's
    /// `folio_redirty_for_writepage`.
    pub fn redirty(mut self) {
        self.take_back();
        self.end();
    }

    /// Makes the pages dirty again, with their reservations. The folios need no lock for that while they are being
    /// written: they cannot leave, and the bits count for themselves.
    fn take_back(&self) {
        for part in &self.parts {
            for run in &part.reserved {
                part.folio.keep_reserved(run);
            }
            for run in &part.pages {
                let new = part.folio.pages.dirty.set(part.folio.inner(run));
                let is_first = part.folio.raise(flag::DIRTY);
                self.mapping.count_dirty(&part.folio, new, is_first);
            }
        }
    }

    fn end(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return;
        }
        let mut writer = self.mapping.index.write();
        for part in &parts {
            writer.clear_mark(part.folio.first, mark::WRITEBACK);
        }
        drop(writer);
        for part in &parts {
            part.folio.lower(flag::WRITEBACK);
        }
        self.mapping.cache().end_write(self.pages);
        for part in parts {
            self.mapping.drop_behind(&part.folio);
        }
        self.mapping.cache().shrink_to_budget();
        self.mapping.unlist_clean();
    }
}

/// Makes a locked folio's dirty pages those of a write.
fn take_dirty(mapping: &Mapping, folio: &LockedFolio, size: u64) -> Part {
    let part = Part {
        folio: Arc::clone(folio),
        pages: runs_of(folio, &folio.pages.dirty),
        reserved: runs_of(folio, &folio.pages.reserved),
        is_stable: mapping.rules.stability == Stability::Stable
            && folio.pins.write.load(Ordering::Acquire) == 0,
    };
    // Who stores by address may have stored behind the end of the file, which is where a size says that was looked at
    // before, or where a write has ended that has not told the file's size yet.
    let end = size.max(mapping.end.load(Ordering::Acquire));
    folio.zero(&(end..folio.byte_range().end.max(end)));
    folio.raise(flag::WRITEBACK);
    folio.pages.dirty.clear(0..folio.len());
    folio.pages.reserved.clear(0..folio.len());
    folio.clear(flag::DIRTY);
    part
}

impl Drop for WriteRun {
    fn drop(&mut self) {
        if !self.parts.is_empty() {
            self.mapping.note_error(Errno::EIO);
            self.take_back();
            self.end();
        }
    }
}
