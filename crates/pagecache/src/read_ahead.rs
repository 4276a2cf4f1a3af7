//! Which pages a reader will want next: [`ReadAhead`], one for each open file. After the kernel's `mm/readahead.c`.

use std::ops::Range;

use udax_sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::fill::Window;

/// The first window of who reads from the beginning, in pages.
const FIRST: u64 = 4;

/// The largest window: 2 MiB.
const LARGEST: u64 = 512;

/// How an open file will be read (posix_fadvise(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Advice {
    /// It is found out by looking.
    #[default]
    Normal,
    /// From front to back: windows are large from the start.
    Sequential,
    /// Here and there: only what is asked for is read.
    Random,
}

impl From<Advice> for u8 {
    fn from(advice: Advice) -> Self {
        match advice {
            Advice::Normal => 0,
            Advice::Sequential => 1,
            Advice::Random => 2,
        }
    }
}

impl Advice {
    /// That of a number, as it was made from one.
    fn of(number: u8) -> Self {
        let all = [Self::Sequential, Self::Random];
        all.into_iter()
            .find(|advice| u8::from(*advice) == number)
            .unwrap_or_default()
    }
}

/// What one open file has read lately.
#[derive(Clone, Debug, Default)]
pub struct ReadAhead {
    advice: Advice,
    /// The window that was read last.
    window: Range<u64>,
    /// The page after the last one that was asked for.
    next: u64,
}

/// A [`ReadAhead`] of an open file that several threads read at once. Each goes on from what it finds; what two of them
/// store at once may be of both, which costs a window and nothing else. No lock: a hit would pay for it.
#[derive(Debug, Default)]
pub struct SharedReadAhead {
    advice: AtomicU8,
    start: AtomicU64,
    end: AtomicU64,
    next: AtomicU64,
}

impl SharedReadAhead {
    /// A reader of whom nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, how the file will be read.
    pub fn advise(&self, advice: Advice) {
        self.advice.store(advice.into(), Ordering::Relaxed);
        self.start.store(0, Ordering::Relaxed);
        self.end.store(0, Ordering::Relaxed);
    }

    /// What is known of the reader.
    pub fn load(&self) -> ReadAhead {
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        ReadAhead {
            advice: Advice::of(self.advice.load(Ordering::Relaxed)),
            window: start.min(end)..end,
            next: self.next.load(Ordering::Relaxed),
        }
    }

    /// What is known after a read. The advice stays: somebody may have given another one meanwhile.
    pub fn store(&self, ahead: &ReadAhead) {
        self.start.store(ahead.window.start, Ordering::Relaxed);
        self.end.store(ahead.window.end, Ordering::Relaxed);
        self.next.store(ahead.next, Ordering::Relaxed);
    }
}

impl ReadAhead {
    /// A reader of whom nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, how the file will be read.
    pub fn advise(&mut self, advice: Advice) {
        self.advice = advice;
        self.window = 0..0;
    }

    /// Whether the last page read is one of these: then they are read on, not again.
    pub(crate) fn is_reading_on(&self, pages: &Range<u64>) -> bool {
        self.next > 0 && pages.contains(&(self.next - 1))
    }

    /// Notes that pages up to `end` were read.
    pub(crate) fn note(&mut self, end: u64) {
        self.next = end;
    }

    /// What to read, as the first of the wanted pages is not cached. The file has `size` pages.
    ///
    /// It is at most `most` pages, also if more is wanted: the rest is missed next.
    pub(crate) fn on_miss(&mut self, wanted: &Range<u64>, size: u64, most: u64) -> Window {
        let most = most.clamp(1, LARGEST);
        let wanted_len = (wanted.end - wanted.start).min(most);
        let is_sequential = match self.advice {
            Advice::Random => false,
            Advice::Sequential => true,
            Advice::Normal => {
                wanted.start == 0
                    || wanted.start == self.next
                    || self.is_reading_on(&(wanted.start..wanted.start + 1))
                    || (!self.window.is_empty() && wanted.start == self.window.end)
            }
        };
        if !is_sequential {
            self.window = 0..0;
            return window(wanted.start..(wanted.start + wanted_len).min(size), None);
        }
        let before = self.window.end - self.window.start;
        let len = match self.advice {
            Advice::Sequential => LARGEST,
            _ if before == 0 => (wanted_len * 2).max(FIRST),
            _ => before * 2,
        };
        self.window = wanted.start..(wanted.start + len.clamp(wanted_len, most)).min(size);
        // Whoever comes to the second half has the next window read, before it is needed.
        let marker = self.window.start + wanted_len.max((self.window.end - self.window.start) / 2);
        window(self.window.clone(), Some(marker))
    }

    /// What to read, as a reader has come to the marker of the last window; nothing at the end of the file.
    pub(crate) fn on_marker(&mut self, size: u64, most: u64) -> Option<Window> {
        let before = self.window.end - self.window.start;
        if before == 0 || self.window.end >= size || self.advice == Advice::Random {
            return None;
        }
        let start = self.window.end;
        self.window = start..(start + (before * 2).min(most.clamp(1, LARGEST))).min(size);
        Some(window(self.window.clone(), Some(start)))
    }
}

/// Pages that somebody has asked for, and no more.
pub(crate) fn asked(pages: Range<u64>) -> Window {
    window(pages, None)
}

/// A window; its folios are at most half as large as itself, so that a marker in its middle means its middle.
fn window(pages: Range<u64>, marker: Option<u64>) -> Window {
    let len = (pages.end - pages.start).max(1);
    let order = u8::try_from(len.ilog2().saturating_sub(1)).unwrap_or(0);
    Window { pages, order, marker }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_sequential_reader_double_up_to_the_largest_and_stop_at_the_end() {
        let mut ahead = ReadAhead::new();
        let first = ahead.on_miss(&(0..1), 2000, 512);
        assert_eq!((first.pages, first.marker), (0..4, Some(2)));
        let mut sizes = Vec::new();
        while let Some(next) = ahead.on_marker(2000, 512) {
            assert_eq!(next.marker, Some(next.pages.start));
            sizes.push(next.pages.end - next.pages.start);
        }
        assert_eq!(sizes, [8, 16, 32, 64, 128, 256, 512, 512, 468]);
    }

    #[test]
    fn what_is_shared_is_what_was_stored_and_the_advice_given_last() {
        let shared = SharedReadAhead::new();
        let mut ahead = shared.load();
        ahead.on_miss(&(0..1), 2000, 512);
        ahead.note(1);
        shared.advise(Advice::Random);
        shared.store(&ahead);
        let loaded = shared.load();
        assert_eq!(
            (loaded.advice, loaded.window, loaded.next),
            (Advice::Random, 0..4, 1)
        );
        for advice in [Advice::Sequential, Advice::Normal] {
            shared.advise(advice);
            assert_eq!((shared.load().advice, shared.load().window), (advice, 0..0));
        }
    }

    #[test]
    fn a_random_reader_gets_what_it_asks_for() {
        let mut ahead = ReadAhead::new();
        assert_eq!(ahead.on_miss(&(77..79), 2000, 512).pages, 77..79);
        assert_eq!(ahead.on_marker(2000, 512), None);
        ahead.advise(Advice::Random);
        assert_eq!(ahead.on_miss(&(0..1), 2000, 512).pages, 0..1);
    }

    #[test]
    fn a_reader_that_goes_on_where_it_was_is_sequential_wherever_it_began() {
        let mut ahead = ReadAhead::new();
        ahead.on_miss(&(100..101), 2000, 512);
        ahead.note(101);
        assert_eq!(ahead.on_miss(&(101..102), 2000, 512).pages, 101..105);
    }

    #[test]
    fn no_window_is_larger_than_what_the_cache_can_hold_whatever_is_wanted() {
        let mut ahead = ReadAhead::new();
        assert_eq!(ahead.on_miss(&(0..5000), 9000, 8).pages, 0..8);
        assert_eq!(ahead.on_marker(9000, 8).unwrap().pages, 8..16);
        assert_eq!(ahead.on_miss(&(7000..9000), 9000, 8).pages, 7000..7008);
        assert_eq!(ahead.on_miss(&(3000..4000), 9000, 1 << 20).pages, 3000..3512);
    }
}
