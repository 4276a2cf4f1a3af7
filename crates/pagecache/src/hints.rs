//! Where a page probably is in memory: [`Hints`].
//!
//! A hit looks at the index, then at the folio, then at its bytes, and each tells where the next is: of pages all over
//! a large cache, the last two are not in the processor's caches, and are waited for one after the other. From a hint
//! the processor fetches both at once, while its caller takes locks and looks at the index.
//!
//! A hint is never believed: one that is old or of another page has bytes fetched that nobody wants, and nothing else.
//! So a place is neither locked nor cleared.

use std::fmt;
use std::ops::Range;

use udax_sync::atomic::Ordering;
use udax_sync::atomic::unmodelled::{AtomicU64, AtomicUsize};
use zerocopy::FromZeros;

use crate::page::{PAGE, in_file, in_memory};

/// Spreads the numbers of files: 2^64 by the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A table that is looked up directly: each page of a file has one place, which it shares with others.
pub(crate) struct Hints {
    /// A power of two of them, or none.
    places: Box<[Place]>,
}

/// Of one page. All zeros: of none.
#[derive(FromZeros)]
struct Place {
    /// The address of its bytes, and below that some bits of its name.
    bytes: AtomicU64,
    /// The address of its folio.
    folio: AtomicUsize,
}

/// Addresses at which a page may be, or anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hint {
    /// Of its bytes: a multiple of their number.
    pub(crate) bytes: usize,
    /// Of its folio.
    pub(crate) folio: usize,
}

impl Hints {
    /// For a cache of so many pages: 16 bytes for each, and for as many as make a power of two, of which memory is
    /// taken as they are used (of large tables: the allocator maps those); none of them if there is no memory.
    pub(crate) fn new(pages: u64) -> Self {
        let len = in_memory(pages.next_power_of_two());
        let places = <[Place]>::new_box_zeroed_with_elems(len);
        Self {
            places: places.unwrap_or_default(),
        }
    }

    /// Notes where a folio of this file is that has these pages, one after the other in memory.
    pub(crate) fn note(&self, file: u64, pages: Range<u64>, hint: Hint) {
        for (page, bytes) in pages.zip((hint.bytes..).step_by(in_memory(PAGE))) {
            let Some((place, name)) = self.place(file, page) else {
                return;
            };
            place.bytes.store(in_file(bytes) | name, Ordering::Relaxed);
            place.folio.store(hint.folio, Ordering::Relaxed);
        }
    }

    /// Where the page probably is.
    #[inline]
    pub(crate) fn find(&self, file: u64, page: u64) -> Option<Hint> {
        let (place, name) = self.place(file, page)?;
        let bytes = place.bytes.load(Ordering::Relaxed);
        (bytes % PAGE == name && bytes != name).then(|| Hint {
            bytes: in_memory(bytes - name),
            folio: place.folio.load(Ordering::Relaxed),
        })
    }

    /// The place of a page, and what of its name the place does not tell.
    #[inline]
    fn place(&self, file: u64, page: u64) -> Option<(&Place, u64)> {
        let file = file.wrapping_mul(SPREAD);
        // Pages of a file have places one after the other: a node of the index, and one or a few lines here.
        let number = page.wrapping_add(file >> 32);
        let len = in_file(self.places.len());
        let place = self.places.get(in_memory(number & len.wrapping_sub(1)))?;
        let above = number.checked_shr(len.trailing_zeros()).unwrap_or(0);
        Some((place, (above ^ file) % PAGE))
    }
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints")
            .field("places", &self.places.len())
            .finish()
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::folio::Folio;
    use crate::locked::LockedFolio;
    use crate::{Cache, CacheError, CacheOptions, Control, Mapping, Owner, Reservations, Stability, Written};

    const HINT: Hint = Hint {
        bytes: 0x7f00_0000_2000,
        folio: 0x5500_0000_0040,
    };

    #[test]
    fn each_page_of_a_folio_is_found_and_no_other() {
        let hints = Hints::new(16);
        hints.note(3, 8..12, HINT);
        for (page, at) in (8..12).zip(0..) {
            let bytes = HINT.bytes + at * 4096;
            assert_eq!(hints.find(3, page), Some(Hint { bytes, ..HINT }), "page {page}");
        }
        for other in [7, 12, 8 + 16, 11 + 16 * 5] {
            assert_eq!(hints.find(3, other), None, "page {other}");
        }
        for file in [0, 1, 2, 4] {
            assert_eq!(hints.find(file, 8), None, "file {file}");
        }
    }

    /// A file that is not written back.
    struct File(Arc<Mapping>);

    impl Owner for File {
        fn mapping(&self) -> &Arc<Mapping> {
            &self.0
        }

        fn write_back(&self, _: Control) -> Result<Written, CacheError> {
            Ok(Written::default())
        }
    }

    fn check(mapping: &Mapping, folio: &Folio) {
        for page in folio.range() {
            let bytes = folio.bytes.address_of(folio.offset(page * PAGE), 1);
            let hint = Hint {
                bytes: bytes.addr().get(),
                folio: std::ptr::from_ref(folio).addr(),
            };
            assert_eq!(mapping.cache().hints.find(7, page), Some(hint), "page {page}");
        }
    }

    #[test]
    fn folios_are_where_the_hints_say_also_when_others_have_taken_their_place() {
        let options = CacheOptions {
            bytes: 64 << 20,
            ..CacheOptions::default()
        };
        let cache = Cache::new(&options, Reservations::default());
        let file = Arc::new_cyclic(|weak: &Weak<File>| {
            let owner: Weak<dyn Owner> = Weak::<File>::clone(weak);
            File(Mapping::new(&cache, 7, owner, Stability::Loose))
        });
        let folio = file.0.add(4, 2).unwrap();
        check(&file.0, &folio);
        folio.pages.uptodate.set(0..4);
        file.0.split(&folio).unwrap();
        drop(folio);
        let small = |page| file.0.folio(page).unwrap();
        for page in 4..8 {
            assert_eq!(small(page).order(), 0);
            check(&file.0, &small(page));
        }
        assert!(file.0.collapse(4 * PAGE, 2));
        let folio = LockedFolio::lock(file.0.folio(4).unwrap());
        assert_eq!(folio.order(), 2);
        check(&file.0, &folio);
    }

    #[test]
    fn what_comes_later_takes_the_place() {
        let hints = Hints::new(16);
        hints.note(3, 8..9, HINT);
        hints.note(3, 24..25, HINT);
        assert_eq!(hints.find(3, 8), None);
        assert_eq!(hints.find(3, 24), Some(HINT));
    }

    #[test]
    fn a_table_without_memory_has_nothing() {
        let hints = Hints {
            places: Box::default(),
        };
        hints.note(3, 8..9, HINT);
        assert_eq!(hints.find(3, 8), None);
    }
}
