//! A pin: [`Pin`] keeps pages where they are until it is dropped, and [`Piece`] says where that is.
//!
//! A pin gives no reference to its bytes: others may store there. It gives addresses, for devices and system calls, and
//! copies, which survive media errors. [`crate::ReadLease`] gives slices.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;
use udax_pmem::{Region, RegionError};
use udax_sync::fault::{Fault, is_injected};

use crate::fault::{PinnedPage, Which};
use crate::frames::Reach;
use crate::list::{Note, Place};
use crate::wait::{Key, Wake};
use crate::{Access, DaxError, Device, Mapping, PAGE, PageRange, Size};

/// Frames in a row that are counted alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: u64,
    /// In pages.
    len: u64,
    reach: Reach,
}

impl Run {
    fn step(reach: Reach) -> u64 {
        match reach {
            Reach::Page => 1,
            Reach::Huge => Size::Pmd.pages(),
        }
    }

    /// The frames with the counts.
    fn frames(self) -> impl Iterator<Item = u64> {
        let step = Self::step(self.reach);
        (0..self.len / step).map(move |number| self.first + number * step)
    }
}

/// Counts of frames, taken back on drop. The mapping stays as long.
#[derive(Debug)]
pub(crate) struct Held {
    mapping: Arc<Mapping>,
    access: Access,
    /// One for nearly every pin, so that it allocates nothing.
    runs: SmallVec<[Run; 2]>,
    /// Counts in all runs.
    len: u64,
}

impl Held {
    pub(crate) fn new(mapping: Arc<Mapping>, access: Access) -> Self {
        Self {
            mapping,
            access,
            runs: SmallVec::new(),
            len: 0,
        }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// How many counts it has.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Counts a frame; not when it has too many counts, or is none.
    #[inline]
    pub(crate) fn add(&mut self, number: u64, reach: Reach) -> bool {
        let frame = self.mapping.device().frames.make(number);
        if !frame.is_some_and(|frame| frame.pin(reach, self.access)) {
            return false;
        }
        self.len += 1;
        let len = Run::step(reach);
        match self.runs.last_mut() {
            Some(run) if run.reach == reach && run.first + run.len == number => run.len += len,
            _ => self.runs.push(Run {
                first: number,
                len,
                reach,
            }),
        }
        true
    }

    /// Takes the newest counts back until there are `len`.
    #[cold]
    pub(crate) fn shorten(&mut self, len: u64) {
        while self.len > len {
            let Some(run) = self.runs.last_mut() else { return };
            run.len -= Run::step(run.reach);
            let (number, reach, is_gone) = (run.first + run.len, run.reach, run.len == 0);
            if is_gone {
                self.runs.pop();
            }
            self.len -= 1;
            self.uncount(number, reach);
        }
    }

    #[inline]
    fn uncount(&self, number: u64, reach: Reach) {
        let device = self.mapping.device();
        if let Some(frame) = device.frames.get(number)
            && frame.unpin(reach, self.access)
        {
            device.waits.wake(Key::Frame(number), Wake::All);
        }
    }

    /// A page that somebody has pinned for writing; the first of those held is the file's `page`.
    fn first_written(&self, mut page: u64) -> Option<PinnedPage> {
        let device = self.mapping.device();
        for run in &self.runs {
            // A page's own count, and that of the large entry around it.
            let pages = (Which::Writing.of(Reach::Page), run.first, run.len);
            let head = Size::Pmd.start_of(run.first);
            let heads = (Which::Writing.of(Reach::Huge), head, run.first + run.len - head);
            for (kinds, first, len) in [pages, heads] {
                if let Some(frame) = device.frames.first_pinned(first, len, kinds) {
                    // The head of a large entry may be before the run.
                    let page = page + frame.saturating_sub(run.first);
                    return Some(PinnedPage { page, frame, kinds });
                }
            }
            page += run.len;
        }
        None
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        for run in &self.runs {
            for number in run.frames() {
                self.uncount(number, run.reach);
            }
        }
    }
}

/// A part of a pin that lies in a row in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Offset in the device's region: a multiple of 4096.
    pub at: u64,
    /// Bytes: a multiple of 4096.
    pub len: u64,
}

/// Where the pieces of a pin are in memory, and their bytes.
pub type Addresses = SmallVec<[(NonNull<u8>, u64); 2]>;

/// Pages that stay where they are while it lives. See [`Mapping::pin`], and `File::pin` of `udax`.
///
/// Whatever is done to the file meanwhile: truncations, punches and moves of these pages wait, unlinking the file
/// leaves its blocks alone. It may be sent to other threads, and be dropped by any.
#[derive(Debug)]
pub struct Pin {
    place: Place,
    pages: PageRange,
    /// First the counts go, and then what keeps the file.
    held: Held,
    owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl Pin {
    pub(crate) fn new(held: Held, note: Note) -> Self {
        Self {
            place: held.mapping.device().pins.add(note),
            pages: note.pages,
            held,
            owner: None,
        }
    }

    /// Keeps `owner` until the pages are given back: what the filesystem needs to outlive the pin.
    pub fn attach(&mut self, owner: Arc<dyn Any + Send + Sync>) {
        self.owner = Some(owner);
    }

    /// The file's pages.
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.pages.count() * PAGE
    }

    /// Never: a pin has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether its holder may store.
    pub fn access(&self) -> Access {
        self.held.access
    }

    /// The mapping that is pinned.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.held.mapping
    }

    fn device(&self) -> &Arc<Device> {
        self.held.mapping.device()
    }

    fn region(&self) -> &Region {
        self.device().region()
    }

    /// Where the pages are, in the file's order; as few pieces as the blocks allow.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let mut runs = self.held.runs.iter().copied().peekable();
        std::iter::from_fn(move || {
            let run = runs.next()?;
            let mut len = run.len;
            while let Some(next) = runs.next_if(|next| next.first == run.first + len) {
                len += next.len;
            }
            Some(Piece {
                at: run.first * PAGE,
                len: len * PAGE,
            })
        })
    }

    /// Addresses and lengths of the pieces, to be read from by devices and system calls. The address is the piece's as
    /// long as the pin lives.
    ///
    /// # Errors
    /// `Region`: the region has become shorter.
    pub fn addresses(&self) -> Result<Addresses, DaxError> {
        let address = |piece: Piece| Ok((self.region().address(piece.at, piece.len)?, piece.len));
        self.pieces().map(address).collect()
    }

    /// As [`Pin::addresses`], to be written to. Whoever stores there makes it durable: [`Pin::persist`], or a
    /// write-back of the range, as the pages stay dirty while the pin lives.
    ///
    /// # Errors
    /// `ReadOnly`: the pin is for reading; `Region`.
    pub fn addresses_mut(&mut self) -> Result<Addresses, DaxError> {
        self.check_write()?;
        self.addresses()
    }

    fn check_write(&self) -> Result<(), DaxError> {
        match self.held.access {
            Access::Write => Ok(()),
            Access::Read => Err(DaxError::ReadOnly),
        }
    }

    /// Calls `each` with where in the region each part of `len` bytes at `at` lies, and where in those bytes.
    fn for_parts(
        &self,
        at: u64,
        len: u64,
        mut each: impl FnMut(Piece, u64) -> Result<(), RegionError>,
    ) -> Result<(), DaxError> {
        let end = at.checked_add(len).filter(|end| *end <= self.len());
        let end = end.ok_or(DaxError::BadRange)?;
        let mut start = 0;
        for piece in self.pieces() {
            let (from, to) = (at.max(start), end.min(start + piece.len));
            if from < to {
                let part = Piece {
                    at: piece.at + (from - start),
                    len: to - from,
                };
                each(part, from - at)?;
            }
            start += piece.len;
        }
        Ok(())
    }

    /// Copies bytes out, from `at` bytes into the pin.
    ///
    /// # Errors
    /// `BadRange`: beyond the pin; `Region`: a media error.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DaxError> {
        let len = u64::try_from(to.len()).unwrap_or(u64::MAX);
        self.for_parts(at, len, |piece, done| {
            let (start, len) = (to_usize(done), to_usize(piece.len));
            self.region().read(piece.at, &mut to[start..start + len])
        })
    }

    /// Copies bytes in, to `at` bytes into the pin.
    ///
    /// # Durability
    /// None: see [`Pin::persist`].
    ///
    /// # Errors
    /// `ReadOnly`: the pin is for reading; `BadRange`: beyond the pin; `Region`: a media error.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), DaxError> {
        self.check_write()?;
        let len = u64::try_from(from.len()).unwrap_or(u64::MAX);
        self.for_parts(at, len, |piece, done| {
            let (start, len) = (to_usize(done), to_usize(piece.len));
            self.region().store(piece.at, &from[start..start + len])
        })
    }

    /// Makes `len` bytes from `at` bytes into the pin durable.
    ///
    /// # Durability
    /// Everything stored there before, by whoever's processor or coherent device.
    ///
    /// # Errors
    /// `BadRange`: beyond the pin; `Region`: a media error.
    pub fn persist(&self, at: u64, len: u64) -> Result<(), DaxError> {
        if !is_injected(Fault::UnflushedPin) {
            self.for_parts(at, len, |piece, _| self.region().flush(piece.at, piece.len))?;
        }
        Ok(self.region().fence()?)
    }

    /// A page of it that somebody has pinned for writing.
    pub(crate) fn first_written(&self) -> Option<PinnedPage> {
        self.held.first_written(self.pages.first())
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        self.device().pins.remove(self.place);
    }
}

/// Of lengths inside a buffer, which fit.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
