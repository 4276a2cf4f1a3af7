//! Pages of which the kernel says by a signal that their bytes are lost, before anybody has loaded them.
//!
//! `BUS_MCEERR_AO` comes to each process that has such a page mapped, at any instruction: the kernel has taken the page
//! away, and nothing of the process is wrong yet. The handler may neither lock nor allocate, so it leaves the page in
//! the place of its region, and raises the flag that every access looks at. The next access takes it from there.
//!
//! # Invariants
//! A place belongs to one region from `Told::new` until the `Told` is dropped; `end` is 0 while it belongs to none, and
//! is set last and unset first.

use std::ops::Range;

use udax_sync::OnceLock;
use udax_sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::bad::PAGE;

/// Regions of a process that can be told; further ones take such a signal as they would without us. Few have two.
const PLACES: usize = 64;
/// Pages of a region between two accesses. What is beyond is met by an access, as a fault.
const PAGES: usize = 32;

/// The bits of an address inside a page. Of a larger mapping the kernel does not say which page it is: nearly all of
/// it is well, and who loads the page that is not meets a fault.
const PAGE_LSB: i16 = 12;

/// What the handler and a region share.
#[derive(Debug, Default)]
struct Place {
    is_taken: AtomicBool,
    /// Release after `end` was unset, Acquire in `tell`: who sees the start of a later region sees that the end
    /// changed.
    start: AtomicUsize,
    /// Release after `start`, Acquire before it in `tell`: who sees the end sees the start that goes with it, or a
    /// later one, and looks at the end again.
    end: AtomicUsize,
    /// Offsets of pages plus one, so that 0 is none. Each is written by Release and taken by Acquire.
    pages: [AtomicUsize; PAGES],
    is_any: AtomicBool,
}

static ALL: OnceLock<Vec<Place>> = OnceLock::new();

/// The place of one region, if there was one left.
#[derive(Debug)]
pub(crate) struct Told(Option<&'static Place>);

impl Told {
    /// Of the region whose bytes are at `addresses`.
    pub(crate) fn new(addresses: Range<usize>) -> Self {
        // Models have no signals, and their atomics cannot be static.
        if cfg!(any(loom, shuttle)) {
            return Self(None);
        }
        let all = ALL.get_or_init(|| (0..PLACES).map(|_| Place::default()).collect());
        let free = all
            .iter()
            .find(|place| !place.is_taken.swap(true, Ordering::AcqRel));
        if let Some(place) = free {
            place.start.store(addresses.start, Ordering::Release);
            place.end.store(addresses.end, Ordering::Release);
        }
        Self(free)
    }

    /// Whether pages wait to be taken.
    #[inline(always)]
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_some_and(|place| place.is_any.load(Ordering::Relaxed))
    }

    /// Takes what was told: offsets of pages.
    #[cold]
    pub(crate) fn take(&self) -> Vec<u64> {
        let Some(place) = self.0 else { return Vec::new() };
        // First: what is told from here on raises it again.
        place.is_any.swap(false, Ordering::AcqRel);
        place
            .pages
            .iter()
            .filter_map(|page| page.swap(0, Ordering::AcqRel).checked_sub(1))
            .filter_map(|page| u64::try_from(page).ok())
            .collect()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.end.store(0, Ordering::Release);
            for page in &place.pages {
                page.store(0, Ordering::Relaxed);
            }
            place.is_any.store(false, Ordering::Relaxed);
            place.is_taken.store(false, Ordering::Release);
        }
    }
}

/// In the handler: some of the two to the power of `lsb` bytes around `address` are lost. Whether they are a region's.
pub(crate) fn tell(address: usize, lsb: i16) -> bool {
    let offset_in = |place: &Place| {
        let end = place.end.load(Ordering::Acquire);
        let offset = address.checked_sub(place.start.load(Ordering::Acquire))?;
        // Both of the same region: the place may be given to another one meanwhile.
        (address < end && place.end.load(Ordering::Acquire) == end).then_some(offset)
    };
    let mut places = ALL.get().into_iter().flatten();
    let Some((place, offset)) = places.find_map(|place| Some((place, offset_in(place)?))) else {
        return false;
    };
    if lsb > PAGE_LSB {
        return true;
    }
    let page = offset - offset % usize::try_from(PAGE).unwrap_or(1);
    for slot in &place.pages {
        let put = slot.compare_exchange(0, page + 1, Ordering::Release, Ordering::Relaxed);
        if put.is_ok() || put == Err(page + 1) {
            break;
        }
    }
    place.is_any.store(true, Ordering::Release);
    true
}
