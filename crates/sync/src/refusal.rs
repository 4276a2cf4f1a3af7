//! Allocations of blocks that a test build can refuse, one after the other, as a full pool would.
//!
//! The allocator asks [`is_refused`] before it gives anything. Without `--cfg udax_faults` that is a constant. With it,
//! a test plans for its own thread which of the following requests are refused, and learns how many there were: so it
//! meets each place where an operation may find the pool full, also those that no fill level leads to.
//!
//! ```text
//! RUSTFLAGS="--cfg udax_faults" CARGO_TARGET_DIR=target/faults cargo test -p udax --test limits refusals
//! ```

/// Which requests are refused, counted from 1 on from the moment when it was planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refusal {
    /// None.
    #[default]
    None,
    /// This one alone: what tries again succeeds.
    Only(u64),
    /// This one and all after it.
    From(u64),
}

#[cfg(all(udax_faults, not(any(loom, shuttle))))]
mod planned {
    use std::cell::Cell;

    use super::Refusal;
    use crate::fault::NotBuilt;

    thread_local! {
        static PLAN: Cell<(Refusal, u64)> = const { Cell::new((Refusal::None, 0)) };
    }

    /// Whether this request is refused; counts it.
    #[inline]
    pub fn is_refused() -> bool {
        let (refusal, asked) = PLAN.get();
        let asked = asked + 1;
        PLAN.set((refusal, asked));
        match refusal {
            Refusal::None => false,
            Refusal::Only(number) => asked == number,
            Refusal::From(number) => asked >= number,
        }
    }

    /// Plans for this thread, in the place of what was planned; how many requests there were since then.
    ///
    /// # Errors
    /// Never in this build.
    pub fn plan(refusal: Refusal) -> Result<u64, NotBuilt> {
        Ok(PLAN.replace((refusal, 0)).1)
    }
}

#[cfg(not(all(udax_faults, not(any(loom, shuttle)))))]
mod planned {
    use super::Refusal;
    use crate::fault::NotBuilt;

    /// Whether this request is refused: never, in this build.
    #[inline(always)]
    pub const fn is_refused() -> bool {
        false
    }

    /// Plans for this thread, in a build that can.
    ///
    /// # Errors
    /// Always in this build.
    pub fn plan(_: Refusal) -> Result<u64, NotBuilt> {
        Err(NotBuilt)
    }
}

pub use planned::{is_refused, plan};

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[cfg(udax_faults)]
    #[test]
    fn the_planned_requests_are_refused_and_counted() {
        for (refusal, expected) in [
            (Refusal::None, [false; 4]),
            (Refusal::Only(2), [false, true, false, false]),
            (Refusal::From(3), [false, false, true, true]),
        ] {
            plan(refusal).unwrap();
            assert_eq!([(); 4].map(|()| is_refused()), expected);
            assert_eq!(plan(Refusal::None), Ok(4));
        }
    }

    #[cfg(not(udax_faults))]
    #[test]
    fn a_shipped_build_refuses_nothing() {
        assert!(plan(Refusal::From(1)).is_err());
        assert!(!is_refused());
    }
}
