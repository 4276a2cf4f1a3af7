//! The last things that happened to a file or to a block of the pool, for the report of a failure.
//!
//! [`Ring`]s are written by many threads without locks: an event that is read while it is replaced may be nonsense,
//! which costs a line in a report and nothing else.

use std::fmt;

use udax_sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::stamp::Owner;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Pinned,
    Stored,
    Unpinned,
    Wrote,
    Truncated,
    Punched,
    Zeroed,
    Collapsed,
    Inserted,
    Cloned,
    Exchanged,
    Copied,
    Removed,
    Read,
}

const WHATS: [(What, &str); 14] = [
    (What::Pinned, "pinned"),
    (What::Stored, "stored to by DMA"),
    (What::Unpinned, "unpinned"),
    (What::Wrote, "written"),
    (What::Truncated, "truncated"),
    (What::Punched, "punched"),
    (What::Zeroed, "zeroed"),
    (What::Collapsed, "collapsed"),
    (What::Inserted, "moved by an insertion"),
    (What::Cloned, "replaced by a clone"),
    (What::Exchanged, "exchanged"),
    (What::Copied, "copied to"),
    (What::Removed, "its file replaced or unlinked"),
    (What::Read, "read and found wrong"),
];

impl What {
    fn number(self) -> u64 {
        let place = WHATS.iter().position(|(what, _)| *what == self);
        u64::try_from(place.unwrap_or(0)).unwrap_or(0)
    }
}

/// Something that happened to some blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) micros: u64,
    pub(crate) what: What,
    pub(crate) actor: u64,
    /// Whose the first block was then.
    pub(crate) owner: Owner,
    /// The first block, of the file or the pool.
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Event {
    fn pack(self) -> [u64; 3] {
        [
            self.micros << 16 | (self.actor & 0xFF) << 8 | self.what.number(),
            self.owner.raw() | (self.count.min(0xFFFF)) << 40,
            self.first + 1,
        ]
    }

    fn unpack([one, two, three]: [u64; 3]) -> Option<Self> {
        let (what, _) = WHATS.get(usize::try_from(one & 0xFF).ok()?)?;
        Some(Self {
            micros: one >> 16,
            what: *what,
            actor: one >> 8 & 0xFF,
            owner: Owner::from_raw(two),
            first: three.checked_sub(1)?,
            count: two >> 40 & 0xFFFF,
        })
    }

    /// Whether it happened to this block.
    pub(crate) fn concerns(&self, block: u64) -> bool {
        (self.first..self.first + self.count).contains(&block)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = WHATS
            .iter()
            .find(|(what, _)| *what == self.what)
            .map_or("", |(_, said)| *said);
        let (seconds, micros) = (self.micros / 1_000_000, self.micros % 1_000_000);
        write!(
            f,
            "{seconds}.{micros:06} s: blocks {}..{} {said} by thread {} ({})",
            self.first,
            self.first + self.count,
            self.actor,
            self.owner
        )
    }
}

/// The last `N` events.
#[derive(Debug)]
pub(crate) struct Ring<const N: usize> {
    next: AtomicUsize,
    events: [[AtomicU64; 3]; N],
}

impl<const N: usize> Ring<N> {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicUsize::new(0),
            events: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    /// Relaxed throughout: events order nothing.
    pub(crate) fn note(&self, event: Event) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % N;
        if let Some(to) = self.events.get(place) {
            for (to, from) in to.iter().zip(event.pack()) {
                to.store(from, Ordering::Relaxed);
            }
        }
    }

    /// The events, the oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        let load = |words: &[AtomicU64; 3]| {
            Event::unpack([0, 1, 2].map(|at: usize| words[at].load(Ordering::Relaxed)))
        };
        let mut events: Vec<Event> = self.events.iter().filter_map(load).collect();
        events.sort_by_key(|event| event.micros);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_events_in_order() {
        let ring = Ring::<4>::new();
        assert!(ring.events().is_empty());
        for number in 0..10 {
            ring.note(Event {
                micros: number,
                what: What::Punched,
                actor: 3,
                owner: Owner::new(1, 2, 3),
                first: number,
                count: 2,
            });
        }
        let events = ring.events();
        assert_eq!(
            events.iter().map(|event| event.micros).collect::<Vec<_>>(),
            [6, 7, 8, 9]
        );
        assert!(events[0].concerns(7) && !events[0].concerns(8));
        let said = events[3].to_string();
        assert!(
            said.contains("9..11 punched by thread 3 (file 1 block 3 epoch 2)"),
            "{said}"
        );
    }
}
