//! What is beneath a file's cache: [`Beneath`], its extents in the pool.

use std::borrow::Cow;
use std::ops::Range;

use udax_media::{BLOCK_BYTES, FileBlock};
use udax_pagecache::{Backing, BackingError, Mapping, ReadRun, Reserving, WriteRun};
use udax_sync::fault::{Fault, is_injected};

use super::into_backing_error;
use super::together::{self, KEPT_PAGES};
use crate::error::{Error, Result};
use crate::extents::{self, Mapping as Mapped};
use crate::file::Cause;
use crate::inode::hold::Hold;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;

/// How the inode's lock is held.
#[derive(Debug)]
enum Held<'s> {
    Shared(&'s InodeState),
    Alone(&'s mut dyn Hold),
}

/// A file's extents, with its inode's lock and the extents loaded.
#[derive(Debug)]
pub(crate) struct Beneath<'s> {
    pool: &'s Pool,
    inode: &'s Inode,
    state: Held<'s>,
    /// Bytes of the file, written or not.
    size: u64,
    /// Runs for the data device, to be written together; and their pages.
    kept: Vec<WriteRun>,
    kept_pages: u64,
}

impl<'s> Beneath<'s> {
    /// To be read from.
    pub(crate) fn shared(pool: &'s Pool, inode: &'s Inode, state: &'s InodeState) -> Result<Self> {
        let size = state.size(pool.inode_size(inode)?);
        Ok(Self {
            pool,
            inode,
            state: Held::Shared(state),
            size,
            kept: Vec::new(),
            kept_pages: 0,
        })
    }

    /// To be read from and written to.
    pub(crate) fn alone(pool: &'s Pool, inode: &'s Inode, hold: &'s mut dyn Hold) -> Result<Self> {
        extents::load(pool, inode, hold.state_mut())?;
        let size = hold.state().size(pool.inode_size(inode)?);
        Ok(Self {
            pool,
            inode,
            state: Held::Alone(hold),
            size,
            kept: Vec::new(),
            kept_pages: 0,
        })
    }

    fn state(&self) -> &InodeState {
        match &self.state {
            Held::Shared(state) => state,
            Held::Alone(hold) => hold.state(),
        }
    }

    fn read_run(&self, mut run: ReadRun) -> Result<()> {
        let written = self.pool.inode_size(self.inode)?;
        run.fill(|at, to| {
            let there = usize::try_from(written.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = to.len().min(there);
            let to = to.get_mut(..wanted).unwrap_or_default();
            self.pool.read_all_locked(self.inode, self.state(), to, at)
        })?;
        run.complete();
        Ok(())
    }

    /// How many blocks writing these pages will take, told page by page.
    fn needed(&self, pages: &Range<u64>, mut take: impl FnMut(Range<u64>)) -> Result<u64> {
        let is_summed = self.pool.is_summed(self.inode)?;
        let mut needed = 0;
        let mut at = pages.start;
        while at < pages.end {
            let mapped = extents::lookup(self.pool, self.inode, &self.state().extents, FileBlock(at))?;
            let (end, is_needed) = match mapped {
                // Blocks with sums, or with other owners, are replaced.
                Mapped::Extent(extent) => {
                    let is_replaced = extent.is_shared() || extent.is_summed() || is_summed;
                    (extent.end().raw(), is_replaced)
                }
                Mapped::Hole { until } => (until.raw(), true),
            };
            let end = end.min(pages.end);
            if is_needed {
                needed += end - at;
                take(at..end);
            }
            at = end;
        }
        Ok(needed)
    }

    /// Whether there is space for all of `bytes`, of which nobody has reserved any but for a first page that is dirty.
    pub(super) fn check_space(&self, mapping: &Mapping, bytes: &Range<u64>) -> Result<()> {
        let mut pages = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
        if mapping.is_dirty(pages.start) {
            pages.start += 1;
        }
        let needed = self.needed(&pages, |_| {})?;
        let has_nodes = || self.pool.space.has_room(0, needed);
        let has_room = || self.pool.cached_space().has_room(needed, needed) && has_nodes();
        if needed == 0 || has_room() {
            return Ok(());
        }
        self.pool.reclaim_space()?;
        match has_room() {
            true => Ok(()),
            false => Err(self.no_space(needed)),
        }
    }

    fn no_space(&self, needed: u64) -> Error {
        Error::NoSpace {
            needed,
            free: self.pool.cached_space().available(),
            on_device: self.pool.device_space.is_some(),
        }
    }

    fn reserve_pages(&self, pages: &Range<u64>, reserving: &mut Reserving<'_>) -> Result<()> {
        let needed = self.needed(pages, |_| {})?;
        if needed == 0 {
            return Ok(());
        }
        let reservations = self.pool.cache.reservations();
        let take = || {
            let kept = self.pool.cached_space().kept_with(needed);
            if !reservations.take(needed, kept) {
                return false;
            }
            // Others may have reserved some at once, or data is elsewhere: now that these are counted, nobody takes the
            // blocks for the nodes any more.
            let has_nodes = self.pool.space.has_room(0, 0);
            if !has_nodes {
                reservations.give_back(needed);
            }
            has_nodes
        };
        if !take() {
            self.pool.reclaim_space()?;
            if !take() {
                return Err(self.no_space(needed));
            }
        }
        self.needed(pages, |pages| reserving.took(pages))?;
        Ok(())
    }

    /// Writes a run; whether it was written, or must wait until what is before it is. `done` becomes the end of the
    /// bytes that have been written, also should the rest fail.
    fn write_run(&mut self, run: &WriteRun, done: &mut u64) -> Result<bool> {
        let (pool, inode, size) = (self.pool, self.inode, self.size);
        let Held::Alone(hold) = &mut self.state else {
            return Err(Error::Invalid("a file is written back with its lock held alone"));
        };
        let state = hold.state_mut();
        let mapping = inode.cached().map(|part| &part.mapping);
        for segment in run.segments() {
            let written = pool.inode_size(inode)?;
            // Bytes that are dirty still end what the file's size in the pool may cover.
            let covered = mapping
                .filter(|_| !is_injected(Fault::EarlyEnd))
                .and_then(|mapping| first_dirty(mapping, written));
            if covered.is_some_and(|covered| covered < segment.start && written < segment.start) {
                return Ok(false);
            }
            let bytes = segment.start..segment.end.min(size);
            if bytes.is_empty() {
                continue;
            }
            let cause = Cause::WriteBack {
                end: covered.unwrap_or(u64::MAX),
            };
            write_segment(run, &bytes, |at, part| {
                let count = pool.store(inode, state, part, at, cause)?;
                *done = at + u64::try_from(count).unwrap_or(0);
                Ok(count)
            })?;
            *done = segment.end;
        }
        Ok(true)
    }
}

/// The first byte, from `written` on, of a page that is dirty.
fn first_dirty(mapping: &Mapping, written: u64) -> Option<u64> {
    let page = mapping.next_dirty(written / BLOCK_BYTES)?;
    Some(page.saturating_mul(BLOCK_BYTES))
}

/// Gives the bytes of a segment to `store`, together: copied, if they are in several folios.
fn write_segment(
    run: &WriteRun,
    bytes: &Range<u64>,
    mut store: impl FnMut(u64, &[u8]) -> Result<usize>,
) -> Result<()> {
    let end_of = |piece: &udax_pagecache::Piece<'_>| piece.at + u64::try_from(piece.len).unwrap_or(0);
    let mut pieces = run
        .pieces()
        .filter(|piece| piece.at < bytes.end && end_of(piece) > bytes.start)
        .peekable();
    let Some(first) = pieces.next() else {
        return Ok(());
    };
    let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
    first.with(|part| {
        let whole = if pieces.peek().is_none() {
            Cow::Borrowed(part.get(..length).unwrap_or(part))
        } else {
            let mut whole = part.to_vec();
            for piece in pieces {
                piece.with(|part| whole.extend_from_slice(part));
            }
            whole.truncate(length);
            Cow::Owned(whole)
        };
        let mut rest = &*whole;
        let mut at = bytes.start;
        while !rest.is_empty() {
            let count = store(at, rest)?;
            rest = rest.get(count..).unwrap_or_default();
            at += u64::try_from(count).unwrap_or(0);
        }
        Ok(())
    })
}

impl Backing for Beneath<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, run: ReadRun) -> std::result::Result<(), BackingError> {
        self.read_run(run).map_err(into_backing_error)
    }

    fn reserve(
        &mut self,
        pages: Range<u64>,
        reserving: &mut Reserving<'_>,
    ) -> std::result::Result<(), BackingError> {
        self.reserve_pages(&pages, reserving).map_err(into_backing_error)
    }

    fn write(&mut self, run: WriteRun) -> std::result::Result<(), BackingError> {
        if self.pool.device_space.is_none() {
            return self.write_now(run);
        }
        self.kept_pages += run.pages();
        self.kept.push(run);
        match self.kept_pages < KEPT_PAGES {
            true => Ok(()),
            false => self.finish(),
        }
    }

    fn finish(&mut self) -> std::result::Result<(), BackingError> {
        self.kept_pages = 0;
        let runs = std::mem::take(&mut self.kept);
        let reserved = runs.iter().map(WriteRun::reserved).sum();
        let conversion = self.pool.cached_space().convert(reserved);
        match self.write_together(&runs) {
            Ok(true) => {
                conversion.used();
                for mut run in runs {
                    run.spend();
                    run.complete(Ok(()));
                }
                return Ok(());
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "runs are written one by one"),
        }
        drop(conversion);
        let mut result = Ok(());
        for run in runs {
            result = result.and(self.write_now(run));
        }
        result
    }
}

impl Beneath<'_> {
    /// Writes runs at once; whether it could be done so, else nothing has changed.
    fn write_together(&mut self, runs: &[WriteRun]) -> Result<bool> {
        let (pool, inode) = (self.pool, self.inode);
        let Held::Alone(hold) = &mut self.state else {
            return Ok(false);
        };
        let segments = together::segments(runs, self.size);
        let Some(last) = segments.last() else {
            return Ok(true);
        };
        let written = pool.inode_size(inode)?;
        let mapping = inode.cached().map(|part| &part.mapping);
        let covered = mapping.and_then(|mapping| first_dirty(mapping, written));
        // What is dirty in a gap comes first.
        if covered.is_some_and(|covered| covered < last.start() && written < last.start()) {
            return Ok(false);
        }
        pool.store_together(inode, *hold, &segments, covered.unwrap_or(u64::MAX))
    }

    fn write_now(&mut self, mut run: WriteRun) -> std::result::Result<(), BackingError> {
        let conversion = self.pool.cached_space().convert(run.reserved());
        let mut done = 0;
        let written = self.write_run(&run, &mut done);
        if !matches!(written, Ok(true)) {
            // What has its blocks needs none when it is written again, unless it goes to new ones each time.
            let spent = match self.pool.is_summed(self.inode) {
                Ok(false) => run.spend_to(done),
                _ => 0,
            };
            conversion.used_partly(spent);
            return match written {
                Err(error) => {
                    run.complete(Err(error.errno()));
                    Err(into_backing_error(error))
                }
                Ok(_) => {
                    run.redirty();
                    Ok(())
                }
            };
        }
        conversion.used();
        run.spend();
        run.complete(Ok(()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use udax_pmem::Region;

    use crate::options::{DaxMode, MountOptions};
    use crate::{File, Filesystem, FormatOptions, NewInode, OpenFlags};

    const PAGE: u64 = 4096;

    fn open(fs: &Filesystem, path: &str) -> File {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        fs.open_file(path, flags, NewInode::with_permissions(0o600))
            .unwrap()
    }

    #[test]
    fn a_run_that_fails_half_way_promises_no_block_twice() {
        let region = Region::anonymous(16 << 20, None).unwrap();
        Filesystem::format_region(&region, &FormatOptions::default()).unwrap();
        let options = MountOptions {
            dax: DaxMode::Never,
            no_flusher: true,
            dirty_bytes: 64 << 20,
            ..MountOptions::default()
        };
        let fs = Filesystem::open_region(region, &options).unwrap();
        let file = open(&fs, "/file");
        file.write_at(&[1; 4096], 255 * PAGE).unwrap();
        file.sync().unwrap();
        let place = file.extents(255 * PAGE, 1).unwrap()[0].pool_offset;
        // One folio, of which all but the last page is a hole.
        file.dont_need(0, u64::MAX);
        file.will_need(0, 256 * PAGE).unwrap();
        // For good: it can be stored to no more.
        fs.pool().region.poison_medium(place, PAGE).unwrap();
        file.write_at(&vec![2; 200 << 12], 0).unwrap();
        file.write_at(&[3; 4096], 255 * PAGE).unwrap();
        let full = open(&fs, "/full");
        while full.write_at(&[4; 4096], full.stat().unwrap().size).is_ok() {}
        full.sync().unwrap();
        let count = || {
            let stat = fs.stat_filesystem();
            let reserved = fs.cache_statistics().reserved;
            assert!(
                stat.available_blocks + reserved <= stat.free_blocks,
                "{reserved} reserved, {stat:?}"
            );
        };
        count();
        for _ in 0..3 {
            file.sync().unwrap_err();
            count();
        }
    }
}
