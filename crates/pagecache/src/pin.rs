//! Reaching cached bytes by address: [`FolioPin`].
//!
//! A pinned folio stays in memory, and in the cache but for truncation: who has it then has memory that is no file's
//! any more, as with the kernel's pinned pages. Whoever pins to store makes the page dirty when the pin begins and
//! again when it ends; write-back in between writes what is there, and the page is dirty still.

use std::ptr::NonNull;
use std::sync::Arc;

use udax_sync::atomic::Ordering;
use udax_sync::wait::{Until, WaitError};

use crate::backing::Reserving;
use crate::fill::Stay;
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::page::{PAGE, in_memory};
use crate::{Backing, CacheError, Mapping, ReadAhead, Stability};

/// What a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Its memory is read.
    Read,
    /// It is stored to.
    Write,
}

/// One page in memory, which stays where it is as long as this value.
#[derive(Debug)]
pub struct FolioPin {
    folio: Arc<Folio>,
    page: u64,
    access: Access,
}

impl Mapping {
    /// Pins a page of the file, which is read first if it is not cached.
    ///
    /// # Errors
    /// `BadRange` beyond the end of the file; as [`Mapping::read`]; to store, as [`Mapping::write`].
    ///
    /// # Durability
    /// What is stored through a pin is durable after a sync that follows its end.
    pub fn pin(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        page: u64,
        access: Access,
    ) -> Result<FolioPin, CacheError> {
        if page.checked_mul(PAGE).is_none_or(|at| at >= backing.size()) {
            return Err(CacheError::BadRange);
        }
        loop {
            let folio = match self.folio(page) {
                Some(folio) => folio,
                None => {
                    let window = ReadAhead::new().on_miss(&(page..page + 1), page + 1, 1);
                    match self.fill(backing, &window, page, Stay::Cached)? {
                        Some(folio) => folio,
                        None => continue,
                    }
                }
            };
            let _invalidate = self.invalidate.read();
            let locked = LockedFolio::lock(folio);
            if locked.is_removed() {
                continue;
            }
            if locked.order() > 0 {
                locked.wait_written();
                self.split(&locked)?;
                continue;
            }
            self.bring(backing, &locked, &(page..page + 1))?;
            if access == Access::Write {
                self.prepare_to_store(backing, &locked, page)?;
            }
            return Ok(FolioPin::new(&locked, page, access));
        }
    }

    fn prepare_to_store(
        &self,
        backing: &mut dyn Backing,
        folio: &LockedFolio,
        page: u64,
    ) -> Result<(), CacheError> {
        if self.rules.stability == Stability::Stable {
            folio.wait_written();
        }
        if folio.next_clean(&(page..page + 1)).is_some() {
            backing.reserve(page..page + 1, &mut Reserving::new(folio))?;
        }
        folio.make_dirty(&(page..page + 1));
        self.cache().ring_if_over();
        Ok(())
    }

    /// Waits until no page of the file is pinned.
    ///
    /// # Errors
    /// The caller's patience ended first.
    ///
    /// # Locks
    /// None may be held that whoever has a pin could want. New pins may come meanwhile: the caller looks again.
    pub fn wait_unpinned(&self, until: &Until) -> Result<(), WaitError> {
        for folio in self.pinned_folios(&(0..u64::MAX)) {
            folio.wait_while(until, |_| folio.pins.any.load(Ordering::Acquire) > 0)?;
        }
        Ok(())
    }

    /// Whether a page of the file is pinned.
    pub fn is_pinned(&self) -> bool {
        !self.pinned_folios(&(0..u64::MAX)).is_empty()
    }
}

impl FolioPin {
    fn new(folio: &LockedFolio, page: u64, access: Access) -> Self {
        folio.clear(flag::DROPBEHIND);
        folio.pins.any.fetch_add(1, Ordering::AcqRel);
        if access == Access::Write {
            folio.pins.write.fetch_add(1, Ordering::AcqRel);
        }
        Self {
            folio: Arc::clone(folio),
            page,
            access,
        }
    }

    /// The page.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Where its 4096 bytes are.
    pub fn address(&self) -> NonNull<u8> {
        let from = self.folio.offset(self.page * PAGE);
        self.folio.bytes.address_of(from, in_memory(PAGE))
    }

    /// Copies bytes of the page, from `at` of it on.
    ///
    /// # Errors
    /// `BadRange` if they are not all in the page.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<(), CacheError> {
        let from = self.place(at, to.len())?;
        self.folio.bytes.copy_out(from, to);
        Ok(())
    }

    /// Stores bytes to the page, from `at` of it on.
    ///
    /// # Errors
    /// `BadRange` if they are not all in the page, or the pin is for reading.
    pub fn store(&self, at: usize, from: &[u8]) -> Result<(), CacheError> {
        if self.access == Access::Read {
            return Err(CacheError::BadRange);
        }
        let to = self.place(at, from.len())?;
        self.folio.bytes.copy_in(to, from);
        Ok(())
    }

    fn place(&self, at: usize, len: usize) -> Result<usize, CacheError> {
        let end = at.checked_add(len).filter(|end| *end <= in_memory(PAGE));
        end.ok_or(CacheError::BadRange)?;
        Ok(self.folio.offset(self.page * PAGE) + at)
    }
}

impl Drop for FolioPin {
    fn drop(&mut self) {
        if self.access == Access::Write {
            let locked = LockedFolio::lock(Arc::clone(&self.folio));
            if !locked.is_removed() {
                locked.make_dirty(&(self.page..self.page + 1));
            }
            self.folio.pins.write.fetch_sub(1, Ordering::AcqRel);
        }
        if self.folio.pins.any.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.folio.wake();
            self.folio.cache.shrink_to_budget();
        }
    }
}
