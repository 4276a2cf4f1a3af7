//! Frames: the device's pages, with their counts of pins and who has them in an entry.
//!
//! [`FrameTable`] makes frames in chunks of 512, when one of a chunk is first asked for, and never gives them back: a
//! frame is found without a lock. A [`Frame`] is two words. `pins` counts four kinds of pins, so that 2 MiB pinned as a
//! whole count once, on the first frame, and the same frame still tells a pin of its own page. `owner` says which entry
//! has the frame, or how many.

use udax_sync::OnceLock;
use udax_sync::atomic::{AtomicU64, Ordering};

/// Frames of a chunk: 2 MiB.
const CHUNK: u64 = if cfg!(loom) { 4 } else { 512 };
/// Chunks of a section: 1 GiB.
const SECTION: u64 = if cfg!(loom) { 4 } else { 512 };

/// Pins of one kind on one frame. The field is twice as large: threads that look at once may all still add theirs.
const MAX_PINS: u64 = 1 << 14;
const FIELD: u64 = (1 << 15) - 1;
const WAITERS: u64 = 1 << 63;

/// Whether the holder of a pin may store through it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It reads.
    Read,
    /// It reads and stores.
    Write,
}

/// What a pin on a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// The frame itself.
    Page,
    /// The frame and those after it that make up a 2 MiB entry.
    Huge,
}

/// A choice of kinds of pins: a bit pattern of the fields of [`Frame::pins`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kinds(u64);

impl Kinds {
    pub(crate) const PAGE: Self = Self(FIELD | FIELD << 15);
    pub(crate) const HUGE: Self = Self(FIELD << 30 | FIELD << 45);
    const ANY_WRITE: Self = Self(FIELD << 15 | FIELD << 45);

    /// Only the kinds that store.
    pub(crate) fn writes(self) -> Self {
        Self(self.0 & Self::ANY_WRITE.0)
    }
}

fn shift(reach: Reach, access: Access) -> u32 {
    match (reach, access) {
        (Reach::Page, Access::Read) => 0,
        (Reach::Page, Access::Write) => 15,
        (Reach::Huge, Access::Read) => 30,
        (Reach::Huge, Access::Write) => 45,
    }
}

/// Who has a frame in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody.
    None,
    /// One entry.
    Single {
        /// [`crate::Mapping::id`].
        mapping: u64,
        /// First page of the entry.
        page: u64,
    },
    /// So many entries; one, where the numbers of the single one are too large to be kept.
    Shared(u64),
}

const TAG_SHIFT: u32 = 62;
const SINGLE: u64 = 1;
const SHARED: u64 = 2;
const PAGE_BITS: u32 = 36;
const MAPPING_BITS: u32 = 26;

impl Owner {
    fn pack(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Single { mapping, page } if mapping >> MAPPING_BITS == 0 && page >> PAGE_BITS == 0 => {
                SINGLE << TAG_SHIFT | mapping << PAGE_BITS | page
            }
            Self::Single { .. } => SHARED << TAG_SHIFT | 1,
            Self::Shared(count) => SHARED << TAG_SHIFT | count,
        }
    }

    fn unpack(word: u64) -> Self {
        match word >> TAG_SHIFT {
            SINGLE => Self::Single {
                mapping: word >> PAGE_BITS & ((1 << MAPPING_BITS) - 1),
                page: word & ((1 << PAGE_BITS) - 1),
            },
            SHARED => Self::Shared(word & ((1 << TAG_SHIFT) - 1)),
            _ => Self::None,
        }
    }
}

/// A page of the device.
#[derive(Debug)]
pub(crate) struct Frame {
    pins: AtomicU64,
    owner: AtomicU64,
}

impl Frame {
    fn new() -> Self {
        Self {
            pins: AtomicU64::new(0),
            owner: AtomicU64::new(0),
        }
    }

    /// Counts a pin; not when there are too many already.
    pub(crate) fn pin(&self, reach: Reach, access: Access) -> bool {
        let shift = shift(reach, access);
        if self.pins.load(Ordering::Relaxed) >> shift & FIELD >= MAX_PINS {
            return false;
        }
        // Pairs with the Acquire in `Frame::pinned` only through the fences beside both: see `pin`.
        self.pins.fetch_add(1 << shift, Ordering::AcqRel);
        true
    }

    /// Takes a pin off; whether somebody waits for that.
    #[must_use]
    pub(crate) fn unpin(&self, reach: Reach, access: Access) -> bool {
        // Pairs with the Acquire in `Frame::pinned`: what was done under the pin comes before the block's next use.
        let before = self.pins.fetch_sub(1 << shift(reach, access), Ordering::AcqRel);
        if before & WAITERS == 0 {
            return false;
        }
        // Cleared before the wake: who comes to wait in between sets it again, and looks again after that.
        self.pins.fetch_and(!WAITERS, Ordering::AcqRel);
        true
    }

    /// Whether there are pins of these kinds.
    pub(crate) fn pinned(&self, kinds: Kinds) -> bool {
        // Pairs with the Release in `Frame::unpin`.
        self.pins.load(Ordering::Acquire) & kinds.0 != 0
    }

    /// Asks to be woken when a pin goes; whether there are pins of these kinds.
    pub(crate) fn await_unpin(&self, kinds: Kinds) -> bool {
        // One word: either the unpin sees the flag, or this sees the unpin.
        self.pins.fetch_or(WAITERS, Ordering::AcqRel) & kinds.0 != 0
    }

    /// Who has it.
    pub(crate) fn owner(&self) -> Owner {
        // Pairs with the Release in `Frame::change_owner`.
        Owner::unpack(self.owner.load(Ordering::Acquire))
    }

    /// Notes one entry more; gives who had it before.
    pub(crate) fn associate(&self, mapping: u64, page: u64) -> Owner {
        self.change_owner(|owner| match owner {
            Owner::None => Owner::Single { mapping, page },
            Owner::Single { .. } => Owner::Shared(2),
            Owner::Shared(count) => Owner::Shared(count + 1),
        })
    }

    /// Notes one entry less.
    pub(crate) fn disassociate(&self) {
        let before = self.change_owner(|owner| match owner {
            Owner::None | Owner::Single { .. } | Owner::Shared(0 | 1) => Owner::None,
            Owner::Shared(count) => Owner::Shared(count - 1),
        });
        debug_assert!(before != Owner::None, "an entry goes that the frame never had");
    }

    /// By exchange, not by store: mappings that share the frame hold different index locks.
    fn change_owner(&self, change: impl Fn(Owner) -> Owner) -> Owner {
        let mut word = self.owner.load(Ordering::Acquire);
        loop {
            let next = change(Owner::unpack(word)).pack();
            // Pairs with the Acquire in `Frame::owner`.
            match self
                .owner
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Owner::unpack(word),
                Err(found) => word = found,
            }
        }
    }
}

type Chunk = Box<[Frame]>;
type Section = Box<[OnceLock<Chunk>]>;

/// All frames of a device.
#[derive(Debug)]
pub(crate) struct FrameTable {
    sections: Box<[OnceLock<Section>]>,
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl FrameTable {
    /// For frames 0 to `frames - 1`.
    pub(crate) fn new(frames: u64) -> Self {
        let sections = frames.div_ceil(CHUNK * SECTION);
        Self {
            sections: (0..sections).map(|_| OnceLock::new()).collect(),
        }
    }

    #[inline]
    fn chunk(&self, frame: u64) -> Option<&[Frame]> {
        let section = self.sections.get(place(frame / (CHUNK * SECTION)))?.get()?;
        section
            .get(place(frame / CHUNK % SECTION))?
            .get()
            .map(|chunk| &**chunk)
    }

    /// The frame, if it or one near it was ever asked for by [`FrameTable::make`].
    #[inline]
    pub(crate) fn get(&self, frame: u64) -> Option<&Frame> {
        self.chunk(frame)?.get(place(frame % CHUNK))
    }

    /// The frame; none beyond the device.
    pub(crate) fn make(&self, frame: u64) -> Option<&Frame> {
        let section = self.sections.get(place(frame / (CHUNK * SECTION)))?;
        let section = section.get_or_init(|| (0..SECTION).map(|_| OnceLock::new()).collect());
        let chunk = section.get(place(frame / CHUNK % SECTION))?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| Frame::new()).collect());
        chunk.get(place(frame % CHUNK))
    }

    /// The first of `pages` frames from `first` that has pins of these kinds.
    pub(crate) fn first_pinned(&self, first: u64, pages: u64, kinds: Kinds) -> Option<u64> {
        let end = first.saturating_add(pages);
        let mut at = first;
        while at < end {
            let next = (at - at % CHUNK).saturating_add(CHUNK).min(end);
            let frames = place(at % CHUNK)..place(at % CHUNK + (next - at));
            let frames = self.chunk(at).and_then(|chunk| chunk.get(frames)).unwrap_or(&[]);
            if let Some((_, number)) = frames.iter().zip(at..).find(|(frame, _)| frame.pinned(kinds)) {
                return Some(number);
            }
            at = next;
        }
        None
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_two_words() {
        assert_eq!(size_of::<Frame>(), 16);
    }

    #[test]
    fn pins_of_one_kind_have_a_limit_that_leaves_the_others_alone() {
        let frame = Frame::new();
        for _ in 0..MAX_PINS {
            assert!(frame.pin(Reach::Page, Access::Read));
        }
        assert!(!frame.pin(Reach::Page, Access::Read));
        assert!(!frame.pinned(Kinds::ANY_WRITE) && !frame.pinned(Kinds::HUGE));
        assert!(frame.pin(Reach::Page, Access::Write));
    }

    #[test]
    fn an_owner_too_large_to_be_kept_is_counted() {
        let frame = Frame::new();
        frame.associate(1 << MAPPING_BITS, 0);
        assert_eq!(frame.owner(), Owner::Shared(1));
        frame.associate(1, 1);
        assert_eq!(frame.owner(), Owner::Shared(2));
        frame.disassociate();
        frame.disassociate();
        assert_eq!(frame.owner(), Owner::None);
    }

    #[test]
    fn a_search_for_pins_goes_over_chunks_and_keeps_to_its_range() {
        let table = FrameTable::new(4096);
        for number in [511, 1500] {
            assert!(table.make(number).unwrap().pin(Reach::Page, Access::Write));
        }
        let find = |first, pages| table.first_pinned(first, pages, Kinds::PAGE);
        assert_eq!(find(0, 4096), Some(511));
        assert_eq!(find(511, 1), Some(511));
        assert_eq!(
            (find(0, 511), find(512, 988), find(1501, 9999)),
            (None, None, None)
        );
        assert_eq!(find(512, 989), Some(1500));
        assert_eq!(table.first_pinned(0, 4096, Kinds::HUGE), None);
    }

    #[test]
    fn frames_beyond_the_device_are_none() {
        let table = FrameTable::new(512);
        assert!(table.get(0).is_none());
        assert!(table.make(0).is_some() && table.get(511).is_some());
        assert!(table.make(u64::MAX).is_none());
    }
}
