//! Read leases: [`ReadLease`] gives slices of a file's bytes, as nobody stores there while it lives.
//!
//! A lease is a read pin that excludes write pins of its range, stores through views, and library writes: those hold a
//! [`WriteTicket`]. Both sides count themselves, pass a full fence, and look for the other, so that a write that meets
//! no lease costs one addition and one load. A lease that waits for writes keeps new ones of its range out, and one
//! that waits for a write pin holds new pins back, so it does not starve; a write that waits keeps no lease out, as
//! leases end by themselves and reading is what a file is for.
//!
//! What this cannot see is a store into the region past all of these (`Region::store` at the block's offset): the
//! filesystem stores into a file's blocks only with a ticket or a pin.
//!
//! Lock: a leaf around the lists of leases and of those writes that came while there were leases.

use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering, fence};
use udax_sync::{Mutex, Rank};

use crate::fault::PinnedPage;
use crate::gate::Pending;
use crate::wait::{Key, Wake};
use crate::{Access, DaxError, Extents, Label, Mapping, Mode, PAGE, PageRange, Pin, Request, Term};

#[derive(Debug)]
pub(crate) struct Leases {
    /// Leases, also those that still wait.
    active: AtomicU64,
    /// Writes that found no lease when they began: their ranges are not listed.
    writers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    leases: Vec<(u64, PageRange)>,
    writers: Vec<(u64, PageRange)>,
}

fn overlaps(list: &[(u64, PageRange)], pages: PageRange) -> bool {
    list.iter().any(|(_, other)| other.overlaps(pages))
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self {
            active: AtomicU64::new(0),
            writers: AtomicU64::new(0),
            state: Mutex::new(Rank::Leaf, State::default()),
        }
    }

    fn add(&self, pages: PageRange) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        state.leases.push((number, pages));
        drop(state);
        self.active.fetch_add(1, Ordering::Relaxed);
        // Pairs with those in `overlaps_after_fence`, `Mapping::begin_write` and `Mapping::hold`.
        fence(Ordering::SeqCst);
        number
    }

    fn remove(&self, number: u64) {
        self.state.lock().leases.retain(|(other, _)| *other != number);
        // Release: what was read under the lease comes before the stores of who sees that it is gone.
        self.active.fetch_sub(1, Ordering::Release);
    }

    /// Whether there are leases of the range, for who has just counted a store of its own.
    #[inline]
    pub(crate) fn overlaps_after_fence(&self, pages: PageRange) -> bool {
        fence(Ordering::SeqCst);
        self.overlaps(pages)
    }

    /// The same, for who has passed a full fence since it counted its store.
    #[inline]
    pub(crate) fn overlaps(&self, pages: PageRange) -> bool {
        self.active.load(Ordering::Acquire) != 0 && overlaps(&self.state.lock().leases, pages)
    }

    /// Waits until there are no leases of the range.
    #[inline]
    pub(crate) fn pass(&self, mapping: &Mapping, pages: PageRange, mode: &Mode) -> Result<(), DaxError> {
        if self.active.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let is_leased = || overlaps(&self.state.lock().leases, pages);
        mapping.wait_for(Key::Lease(mapping.id()), mode, is_leased, || {
            DaxError::WouldBlock {
                page: pages.first(),
                what: "it is leased for reading",
            }
        })
    }

    /// Whether a library write may be under way in the range.
    fn is_written(&self, pages: PageRange) -> bool {
        // For the wake: pairs with the fence in the drop of `WriteTicket`.
        fence(Ordering::SeqCst);
        self.writers.load(Ordering::Acquire) != 0 || overlaps(&self.state.lock().writers, pages)
    }
}

/// A lease's place in the list.
#[derive(Debug)]
struct Registered {
    mapping: Arc<Mapping>,
    number: u64,
}

impl Registered {
    fn new(mapping: &Arc<Mapping>, pages: PageRange) -> Self {
        Self {
            number: mapping.leases.add(pages),
            mapping: Arc::clone(mapping),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.mapping.leases.remove(self.number);
        let waits = &self.mapping.device().waits;
        waits.wake(Key::Lease(self.mapping.id()), Wake::All);
    }
}

/// What keeps a lease from being given.
#[derive(Debug)]
enum Blocker {
    /// Library writes under way, which are short: the lease stays registered, so that no new ones come.
    Writes(Registered),
    /// A page that is pinned for writing, for as long as it likes. Its holder may want to write by other ways too: the
    /// lease is not registered meanwhile, but new pins of the range are held back.
    Pin(PinnedPage, Pending),
}

/// A lease that was refused, and what for. It has nothing pinned: who is waited for may want to change other pages of
/// the range first. Keep it until the next attempt.
#[derive(Debug)]
pub struct Refused {
    mapping: Arc<Mapping>,
    pages: PageRange,
    blocker: Blocker,
}

impl Refused {
    /// Waits for what has refused the lease. It may be refused again.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: by `mode`.
    ///
    /// # Locks
    /// None may be held that a holder of a pin could want.
    pub fn wait(&self, mode: &Mode) -> Result<(), DaxError> {
        let mapping = &*self.mapping;
        let page = self.pages.first();
        let busy = |what| move || DaxError::WouldBlock { page, what };
        match &self.blocker {
            Blocker::Writes(_) => {
                let is_written = || mapping.leases.is_written(self.pages);
                let key = Key::Writer(mapping.id());
                mapping.wait_for(key, mode, is_written, busy("it is being written"))
            }
            Blocker::Pin(pinned, _) => {
                let is_pinned = || mapping.awaits_unpin(*pinned);
                let key = Key::Frame(pinned.frame);
                mapping.wait_for(key, mode, is_pinned, busy("it is pinned for writing"))
            }
        }
    }

    /// As [`Mapping::pass_gate`] before the next attempt, which this itself holds nobody back from.
    ///
    /// # Errors
    /// As [`Mapping::pass_gate`].
    pub fn pass_gate(&self, mode: &Mode) -> Result<(), DaxError> {
        match &self.blocker {
            Blocker::Writes(_) => self.mapping.pass_gate(self.pages, mode),
            Blocker::Pin(_, pending) => pending.pass_gate(self.pages, mode),
        }
    }
}

impl ReadLease {
    /// Makes a pin for reading, whose label and term it keeps, a lease, if nobody writes to the range or has it pinned
    /// for writing. Does not wait: a filesystem holds its inode's lock meanwhile. `last` is what has refused the
    /// attempt before.
    ///
    /// # Errors
    /// Somebody does: wait with what is given, pin again, and come back.
    ///
    /// # Locks
    /// As [`Mapping::try_pin`]. A filesystem holds its inode's lock shared, if it writes with that lock alone.
    pub fn try_grant(pin: Pin, last: Option<Refused>) -> Result<Self, Box<Refused>> {
        let mapping = pin.mapping();
        let pages = pin.pages();
        let (registered, _last) = match last.map(|last| last.blocker) {
            Some(Blocker::Writes(registered)) => (registered, None),
            last => (Registered::new(mapping, pages), last),
        };
        mapping.protect_views(pages);
        let blocker = if mapping.leases.is_written(pages) {
            Blocker::Writes(registered)
        } else if let Some(pinned) = pin.first_written() {
            Blocker::Pin(pinned, Pending::new(mapping, &[pages]))
        } else {
            return Ok(Self {
                _registered: registered,
                pin,
            });
        };
        let mapping = Arc::clone(mapping);
        Err(Box::new(Refused {
            mapping,
            pages,
            blocker,
        }))
    }
}

/// Bytes of a file that nobody changes while it lives. Also a pin: the pages stay where they are.
#[derive(Debug)]
pub struct ReadLease {
    _registered: Registered,
    pin: Pin,
}

impl ReadLease {
    /// The pin in it.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// The bytes, in as few pieces as the blocks allow. A page that the medium has lost raises SIGBUS when touched:
    /// [`Pin::read`] gives an error instead.
    ///
    /// # Errors
    /// `Region`: the region has become shorter.
    pub fn slices(&self) -> Result<Vec<&[u8]>, DaxError> {
        let addresses = self.pin.addresses()?;
        let slice = |(address, len): (std::ptr::NonNull<u8>, u64)| {
            let len = usize::try_from(len).map_err(|_| DaxError::BadRange)?;
            // SAFETY: the region maps these bytes while the pin lives; write pins, views and writes of the library are
            // kept out by the lease, and nobody else stores into a file's blocks. The slice borrows the lease.
            Ok(unsafe { std::slice::from_raw_parts(address.as_ptr(), len) })
        };
        addresses.into_iter().map(slice).collect()
    }

    /// The bytes, if they are in one piece.
    ///
    /// # Errors
    /// As [`ReadLease::slices`].
    pub fn slice(&self) -> Result<Option<&[u8]>, DaxError> {
        let slices = self.slices()?;
        Ok(match slices[..] {
            [slice] => Some(slice),
            _ => None,
        })
    }
}

/// A write of the library to a range of the file's bytes in place: while it lives no lease of the range begins.
#[derive(Debug)]
pub struct WriteTicket<'m> {
    mapping: &'m Mapping,
    /// In the list, if it came while there were leases.
    number: Option<u64>,
}

impl Drop for WriteTicket<'_> {
    #[inline]
    fn drop(&mut self) {
        let leases = &self.mapping.leases;
        match self.number {
            // Release: pairs with the Acquire in `Leases::is_written`: what was written comes before what is read.
            None => drop(leases.writers.fetch_sub(1, Ordering::Release)),
            Some(number) => leases.state.lock().writers.retain(|(other, _)| *other != number),
        }
        // Pairs with the fence in `Leases::is_written`: either this sees the lease, or the lease that it is over.
        fence(Ordering::SeqCst);
        if leases.active.load(Ordering::Relaxed) != 0 {
            let key = Key::Writer(self.mapping.id());
            self.mapping.device().waits.wake(key, Wake::All);
        }
    }
}

impl Mapping {
    /// Waits for write pins and library writes of the range to end, and keeps new ones out while the lease lives.
    /// Whoever holds a write pin of the range itself waits for ever, or as `mode` says.
    ///
    /// # Errors
    /// As [`Mapping::pin`]; `WouldBlock`, `Wait`: by `mode`.
    ///
    /// # Locks
    /// As [`Mapping::pin`]; waits without any.
    pub fn lease(
        self: &Arc<Self>,
        pages: PageRange,
        (label, term): (Label, Term),
        mode: &Mode,
        extents: &dyn Extents,
    ) -> Result<ReadLease, DaxError> {
        let request = Request {
            access: Access::Read,
            label,
            term,
        };
        self.pass_gate(pages, mode)?;
        let mut last = None;
        loop {
            let pin = self.pin_past_gate(pages, request, mode, extents)?;
            match ReadLease::try_grant(pin, last.take()) {
                Ok(lease) => return Ok(lease),
                Err(refused) => {
                    refused.wait(mode)?;
                    refused.pass_gate(mode)?;
                    last = Some(*refused);
                }
            }
        }
    }

    /// Takes the views' right to store into the range; the next store faults, and meets the lease.
    fn protect_views(&self, pages: PageRange) {
        if self.views.is_empty() {
            return;
        }
        // A fault that has not seen the lease still holds its entry.
        let mut rest = Some(pages);
        while let Some(pages) = rest {
            let (_, slot) = self.next_unlocked(self.index.write(), pages);
            rest = slot.and_then(|slot| pages.starting_at(slot.pages().last().checked_add(1)));
        }
        self.views.write_protect(pages);
    }

    /// Before a write of the library into the file's blocks: waits for leases of the range, and keeps new ones out
    /// while the ticket lives.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: a lease, by `mode`.
    ///
    /// # Locks
    /// None; the filesystem may hold the inode's, so that leases taken under it should be short.
    #[inline]
    pub fn begin_write(&self, pages: PageRange, mode: &Mode) -> Result<WriteTicket<'_>, DaxError> {
        let leases = &self.leases;
        leases.writers.fetch_add(1, Ordering::Relaxed);
        // Pairs with that in `Leases::add`.
        fence(Ordering::SeqCst);
        let ticket = WriteTicket {
            mapping: self,
            number: None,
        };
        if leases.active.load(Ordering::Acquire) == 0 {
            return Ok(ticket);
        }
        drop(ticket);
        self.begin_listed_write(pages, mode)
    }

    #[cold]
    fn begin_listed_write(&self, pages: PageRange, mode: &Mode) -> Result<WriteTicket<'_>, DaxError> {
        let leases = &self.leases;
        loop {
            leases.pass(self, pages, mode)?;
            let mut state = leases.state.lock();
            if !overlaps(&state.leases, pages) {
                state.last += 1;
                let number = state.last;
                state.writers.push((number, pages));
                return Ok(WriteTicket {
                    mapping: self,
                    number: Some(number),
                });
            }
        }
    }

    /// Waits, as `mode` says, for `is_blocked` to say no.
    pub(crate) fn wait_for(
        &self,
        key: Key,
        mode: &Mode,
        mut is_blocked: impl FnMut() -> bool,
        busy: impl FnOnce() -> DaxError,
    ) -> Result<(), DaxError> {
        match mode {
            Mode::NoWait if is_blocked() => Err(busy()),
            Mode::NoWait => Ok(()),
            Mode::Until(until) => Ok(self.device().waits.wait_while(key, until, is_blocked)?),
        }
    }
}

impl ReadLease {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.pin.pages().count() * PAGE
    }

    /// Never: a lease has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }
}
