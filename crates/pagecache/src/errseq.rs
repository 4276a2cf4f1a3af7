//! Errors of write-back, each told once to every open file: [`ErrSeq`], after the kernel's `lib/errseq.c`.
//!
//! One word has the last errno, whether anybody has been told, and a number that grows with each error that is told. An
//! open file remembers the word as it was when it last looked; when the word differs, there is something to tell.

use nix::errno::Errno;
use udax_sync::atomic::{AtomicU32, Ordering};

const ERRNO: u32 = 0xFFF;
const SEEN: u32 = 0x1000;
const STEP: u32 = 0x2000;

/// The errors of one file, or of one filesystem.
#[derive(Debug, Default)]
pub struct ErrSeq {
    // A single word orders itself; nothing else is published by it.
    word: AtomicU32,
}

/// What an open file has been told: a place in the sequence of errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ErrorCursor(u32);

impl ErrSeq {
    /// No error yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an error. A later one takes the place of one that nobody has been told.
    pub fn set(&self, errno: Errno) {
        let number = u32::try_from(errno_number(errno)).unwrap_or(0) & ERRNO;
        let next = |word: u32| {
            let counted = if word & SEEN == 0 {
                word & !ERRNO
            } else {
                word.wrapping_add(STEP) & !(ERRNO | SEEN)
            };
            let next = counted | number;
            (next != word).then_some(next)
        };
        // It fails only if the word would not change.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Where a new open file begins: errors that nobody has been told are still to be told to it.
    pub fn sample(&self) -> ErrorCursor {
        let word = self.word.load(Ordering::Acquire);
        ErrorCursor(if word & SEEN == 0 { 0 } else { word })
    }

    /// The error since the cursor, if there is one, without telling it.
    pub fn check(&self, cursor: ErrorCursor) -> Option<Errno> {
        let word = self.word.load(Ordering::Acquire);
        (word != cursor.0).then(|| errno_of(word))
    }

    /// The error since the cursor, if there is one; from now on the cursor has been told.
    ///
    /// A cursor is advanced by one thread at a time: the caller locks it.
    pub fn check_and_advance(&self, cursor: &mut ErrorCursor) -> Option<Errno> {
        let mut told = None;
        let next = |word: u32| {
            told = (word != cursor.0).then_some(word | SEEN);
            told.filter(|seen| *seen != word)
        };
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let told = told?;
        cursor.0 = told;
        Some(errno_of(told))
    }
}

#[expect(
    clippy::as_conversions,
    reason = "a fieldless enum has no other way to its number"
)]
fn errno_number(errno: Errno) -> i32 {
    errno as i32
}

fn errno_of(word: u32) -> Errno {
    Errno::from_raw(i32::try_from(word & ERRNO).unwrap_or(0))
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn inv_102_each_cursor_is_told_once() {
        let errors = ErrSeq::new();
        let mut cursors = [errors.sample(); 3];
        errors.set(Errno::EIO);
        for cursor in &mut cursors {
            assert_eq!(errors.check(*cursor), Some(Errno::EIO));
            assert_eq!(errors.check_and_advance(cursor), Some(Errno::EIO));
            assert_eq!(errors.check_and_advance(cursor), None);
        }
    }

    #[test]
    fn inv_103_an_error_that_nobody_was_told_is_told_to_who_comes_later_and_only_then() {
        let errors = ErrSeq::new();
        errors.set(Errno::ENOSPC);
        let mut later = errors.sample();
        assert_eq!(errors.check_and_advance(&mut later), Some(Errno::ENOSPC));
        let mut latest = errors.sample();
        assert_eq!(errors.check_and_advance(&mut latest), None);
    }

    #[test]
    fn inv_104_of_two_errors_the_latest_is_told_unless_somebody_looked_in_between() {
        let errors = ErrSeq::new();
        let mut one = errors.sample();
        let mut other = errors.sample();
        errors.set(Errno::EIO);
        errors.set(Errno::ENOSPC);
        assert_eq!(errors.check_and_advance(&mut one), Some(Errno::ENOSPC));
        errors.set(Errno::ENOSPC);
        assert_eq!(errors.check_and_advance(&mut one), Some(Errno::ENOSPC));
        assert_eq!(errors.check_and_advance(&mut other), Some(Errno::ENOSPC));
        assert_eq!(errors.check_and_advance(&mut other), None);
    }

    #[test]
    fn the_number_wraps_without_reaching_what_it_protects() {
        let errors = ErrSeq::new();
        let mut cursor = errors.sample();
        for _ in 0..1 << 20 {
            errors.set(Errno::EIO);
            assert_eq!(errors.check_and_advance(&mut cursor), Some(Errno::EIO));
        }
    }
}
