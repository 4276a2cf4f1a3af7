//! Breaking the layouts of two files at once: exchange, clone and dedupe.
//!
//! Invalidate locks are taken by ascending number. The first file is broken as one alone, then the second is looked at
//! without waiting: when it is busy, both locks are released, its page is waited for without any, and all begins anew,
//! as the first file may have new pins then. So the same two files the other way round do not deadlock.

use std::sync::Arc;

use crate::breaking::{Claim, busy, insist};
use crate::{Attempt, Broken, DaxError, Fate, Mapping, Mode, PageRange};

/// A range of a file whose layout is broken together with that of another.
#[derive(Clone, Copy, Debug)]
pub struct Target<'m> {
    /// The file.
    pub mapping: &'m Arc<Mapping>,
    /// Its pages.
    pub pages: PageRange,
    /// What becomes of their bytes.
    pub fate: Fate,
}

impl Target<'_> {
    fn ranges(&self) -> [(PageRange, Fate); 1] {
        [(self.pages, self.fate)]
    }
}

/// Proof for two ranges, of one file or of two.
#[derive(Debug)]
pub struct BrokenPair<'m> {
    lower: Broken<'m>,
    higher: Option<Broken<'m>>,
}

impl BrokenPair<'_> {
    /// Whether it is a proof for this range of this mapping.
    pub fn covers(&self, mapping: &Mapping, pages: PageRange) -> bool {
        let mut proofs = std::iter::once(&self.lower).chain(&self.higher);
        proofs.any(|broken| broken.covers(mapping, pages))
    }
}

/// Breaks both layouts if no page of them is pinned.
///
/// # Errors
/// `NotAPair`: the files are of different devices, or different but with one number; `Region`: dirty bytes could not be
/// made durable. No entry is deleted.
///
/// # Locks
/// Takes the invalidate locks by ascending number.
pub fn try_break_two<'m>(one: Target<'m>, other: Target<'m>) -> Result<Attempt<BrokenPair<'m>>, DaxError> {
    if Arc::ptr_eq(one.mapping, other.mapping) {
        let ranges = [(one.pages, one.fate), (other.pages, other.fate)];
        return Ok(match one.mapping.try_break_all(&ranges)? {
            Attempt::Busy(busy) => Attempt::Busy(busy),
            Attempt::Broken(lower) => Attempt::Broken(BrokenPair { lower, higher: None }),
        });
    }
    let is_pair = Arc::ptr_eq(one.mapping.device(), other.mapping.device())
        && one.mapping.number() != other.mapping.number();
    if !is_pair {
        return Err(DaxError::NotAPair);
    }
    let (first, second) = if one.mapping.number() < other.mapping.number() {
        (one, other)
    } else {
        (other, one)
    };
    first.mapping.save_before(&first.ranges())?;
    second.mapping.save_before(&second.ranges())?;
    let lower = Claim::new(first.mapping, &first.ranges());
    if let Some(pinned) = lower.first_busy() {
        return Ok(Attempt::Busy(busy(first.mapping, &first.ranges(), pinned)));
    }
    let higher = Claim::new(second.mapping, &second.ranges());
    if let Some(pinned) = higher.first_busy() {
        return Ok(Attempt::Busy(busy(second.mapping, &second.ranges(), pinned)));
    }
    lower.save()?;
    higher.save()?;
    Ok(Attempt::Broken(BrokenPair {
        lower: lower.finish(),
        higher: Some(higher.finish()),
    }))
}

/// Breaks both layouts, waiting for pins as `mode` says.
///
/// # Errors
/// As [`try_break_two`]; `WouldBlock`, `Wait`: a page stays pinned.
///
/// # Locks
/// As [`try_break_two`], but waits with none: nor may the caller hold one that a holder of a pin could want.
pub fn break_two<'m>(one: Target<'m>, other: Target<'m>, mode: &Mode) -> Result<BrokenPair<'m>, DaxError> {
    insist(mode, || try_break_two(one, other))
}
