//! Poison: pages whose bytes the medium does not give.
//!
//! A page becomes known as bad when the kernel says so as the region is mapped (`badblocks` in sysfs) or by a signal,
//! when an access meets it, or by [`Region::poison`]. From then on nothing touches it: loads give the media error at
//! once, and so do stores that cover only a part of it. A store that covers the whole page makes it good again, in
//! this order: the medium clears it; the bytes are stored, on a device also made durable; only then the page is
//! forgotten (the kernel's `pmem_recovery_write`). So readers fail until what they read is valid.
//!
//! Who stores a page keeps others from storing there meanwhile, as with any store; readers need no care.

use std::ops::Range;

use super::Region;
use crate::bad::{Origin, PAGE};
use crate::domain;
use crate::source::{Kind, Source};
use crate::{RegionError, Result};

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Region {
    /// Makes every page that the range touches bad, as if the medium had lost it: a door for tests and drills. The
    /// medium itself stays as it is: a page is good again once it is stored as a whole, or the region opened anew.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn poison(&self, at: u64, len: u64) -> Result<()> {
        self.place(at, to_usize(len))?;
        self.bad.insert(at..at + len, Origin::Injected);
        Ok(())
    }

    /// As [`Region::poison`], but as if it was the medium that told: only the medium can make the pages good again. The
    /// one of a file can; anonymous memory has none.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn poison_medium(&self, at: u64, len: u64) -> Result<()> {
        self.place(at, to_usize(len))?;
        self.bad.insert(at..at + len, Origin::Medium);
        Ok(())
    }

    /// The pages that are known to be bad, as ascending ranges of bytes that do not touch.
    pub fn bad_ranges(&self) -> Vec<Range<u64>> {
        self.bad.ranges()
    }

    /// The first byte of the range that is known to be bad. Loads from it fail without touching the medium.
    #[inline]
    pub fn first_bad(&self, at: u64, len: u64) -> Option<u64> {
        if !self.bad.is_any() {
            return None;
        }
        self.bad.first_in(at..at.saturating_add(len))
    }

    /// The first byte of the range that a store of all of it would fail at: in a page that is known to be bad and that
    /// the range covers only partly.
    #[inline]
    pub fn first_unstorable(&self, at: u64, len: u64) -> Option<u64> {
        if !self.bad.is_any() {
            return None;
        }
        let end = at.saturating_add(len);
        let mut from = at;
        while let Some(byte) = self.bad.first_in(from..end) {
            let page = byte - byte % PAGE;
            if page < at || page + PAGE > end {
                return Some(byte);
            }
            from = page + PAGE;
        }
        None
    }

    /// How many bytes at `at` may be loaded: `len`, or those before the first bad page.
    #[inline(always)]
    pub(super) fn good_len(&self, at: u64, len: usize) -> usize {
        if self.bad.is_any() {
            self.good_len_among_bad(at, len)
        } else {
            len
        }
    }

    #[cold]
    fn good_len_among_bad(&self, at: u64, len: usize) -> usize {
        let bad = self.bad.first_in(at..at.saturating_add(to_u64(len)));
        bad.map_or(len, |bad| to_usize(bad - at))
    }

    /// Fails where a load stopped before a bad page.
    #[inline(always)]
    pub(super) fn check_all_good(&self, at: u64, good: usize, len: usize) -> Result<()> {
        if good == len {
            return Ok(());
        }
        Err(self.known_bad(at + to_u64(good)))
    }

    /// Fails when the word is in a bad page.
    #[inline(always)]
    pub(super) fn check_good_word(&self, at: u64) -> Result<()> {
        if self.bad.is_any() && self.bad.first_in(at..at + 8).is_some() {
            return Err(self.known_bad(at));
        }
        Ok(())
    }

    /// Stores by `store`, in a region with bad pages: those that are stored as a whole become good.
    #[cold]
    pub(super) fn store_among_bad(
        &self,
        at: u64,
        bytes: &[u8],
        store: impl Fn(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let end = at + to_u64(bytes.len());
        let part = |from: u64, to: u64| &bytes[to_usize(from - at)..to_usize(to - at)];
        let mut from = at;
        while from < end {
            let Some(bad) = self.bad.first_in(from..end) else {
                return store(from, part(from, end));
            };
            let page = bad - bad % PAGE;
            if from < page {
                store(from, part(from, page))?;
            }
            if page < at || page + PAGE > end {
                return Err(self.known_bad(bad));
            }
            let is_of_medium = self.bad.is_of_medium(page);
            self.clear_medium(page)?;
            store(page, part(page, page + PAGE))?;
            let is_lost_by_device = is_of_medium && self.is_device();
            if is_lost_by_device {
                self.flush(page, PAGE)?;
                self.fence()?;
            }
            // Last: until here it holds nothing valid.
            self.bad.forget(page);
            if is_lost_by_device {
                self.verify_cleared(page, part(page, page + PAGE))?;
            }
            self.failures.lock().remove(&page);
            from = page + PAGE;
        }
        Ok(())
    }

    /// Lets the medium give up a page's poison. A page that another access met meanwhile stays bad.
    fn clear_medium(&self, page: u64) -> Result<()> {
        if !self.bad.is_of_medium(page) {
            return Ok(());
        }
        let cleared = match self.mapping.source() {
            Some(source) if !self.is_private => source.clear_page(page),
            _ => false,
        };
        if cleared {
            Ok(())
        } else {
            Err(self.known_bad(page))
        }
    }

    fn is_device(&self) -> bool {
        let kind = self.mapping.source().map(Source::kind);
        matches!(kind, Some(Kind::Device(_)))
    }

    /// Looks whether the medium gives back what was stored on a page that it had lost: of a device only that tells. If
    /// not, the page is bad again.
    fn verify_cleared(&self, page: u64, bytes: &[u8]) -> Result<()> {
        if self.compare(page, bytes)? {
            Ok(())
        } else {
            Err(self.media_error(page))
        }
    }

    /// The error of an access that was not even tried.
    #[cold]
    fn known_bad(&self, at: u64) -> RegionError {
        self.note_failure(at);
        RegionError::Media { at }
    }

    /// Takes over what the kernel knows of the device.
    pub(super) fn learn_bad_pages(&self) {
        if let Some(Kind::Device(device)) = self.mapping.source().map(Source::kind) {
            for range in domain::known_bad_ranges(device) {
                self.bad.insert(range, Origin::Medium);
            }
        }
    }

    /// Whether a page that could not be accessed is one the medium has lost. One behind the end of a file that was cut
    /// short, or a hole for which the filesystem has no space, is none: it may be there the next time.
    pub(super) fn is_lost(&self, page: u64) -> bool {
        match self.mapping.source() {
            Some(source) => source.has_data_at(page),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegionOptions;

    #[test]
    fn a_page_that_a_file_has_lost_is_cleared_there_and_stored() {
        for directory in ["/dev/shm", env!("CARGO_MANIFEST_DIR")] {
            let file = tempfile::NamedTempFile::new_in(directory).unwrap();
            let region = Region::create(file.path(), 4 * PAGE, RegionOptions::default()).unwrap();
            region.store(0, &[7; 4 * 4096]).unwrap();
            region.bad.insert(PAGE..2 * PAGE, Origin::Medium);
            assert!(matches!(
                region.read_u64(PAGE),
                Err(RegionError::Media { at: PAGE })
            ));
            region.store_nontemporal(PAGE, &[9; 4096]).unwrap();
            region.fence().unwrap();
            assert_eq!(region.bad_ranges(), []);
            assert!(region.compare(PAGE, &[9; 4096]).unwrap(), "{directory}");
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(bytes[..4096].iter().all(|byte| *byte == 7));
            assert!(bytes[4096..8192].iter().all(|byte| *byte == 9), "{directory}");
            assert!(bytes[8192..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn what_cannot_be_cleared_stays_bad() {
        let memory = Region::anonymous(4 * PAGE, None).unwrap();
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        drop(Region::create(file.path(), 4 * PAGE, RegionOptions::default()).unwrap());
        let private = RegionOptions {
            private: true,
            ..RegionOptions::default()
        };
        let private = Region::open(file.path(), private).unwrap();
        for region in [memory, private] {
            region.bad.insert(0..PAGE, Origin::Medium);
            let stored = region.store_nontemporal(0, &[9; 4096]);
            assert!(matches!(stored, Err(RegionError::Media { at: 0 })));
            assert_eq!(region.bad_ranges().first(), Some(&(0..PAGE)));
        }
    }

    #[test]
    fn a_file_that_was_cut_short_is_not_made_longer_by_clearing() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let region = Region::create(file.path(), 4 * PAGE, RegionOptions::default()).unwrap();
        file.as_file().set_len(PAGE).unwrap();
        region.bad.insert(PAGE..2 * PAGE, Origin::Medium);
        assert!(region.store_nontemporal(PAGE, &[9; 4096]).is_err());
        assert_eq!(file.as_file().metadata().unwrap().len(), PAGE);
    }
}
