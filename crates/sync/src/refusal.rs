//! Allocations that a test build can refuse, one after the other: of blocks, as a full pool would, and of memory.
//!
//! Who gives a [`Resource`] asks [`is_refused`] before. Without `--cfg udax_faults` that is a constant. With it,
//! a test plans for its own thread which of the following requests are refused, and learns how many there were: so it
//! meets each place where an operation may find the pool full, also those that no fill level leads to.
//!
//! ```text
//! RUSTFLAGS="--cfg udax_faults" CARGO_TARGET_DIR=target/faults cargo test -p udax --test limits refusals
//! ```

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Blocks of a pool or its data device, or that some will be there.
    Blocks,
    /// Memory of the page cache.
    Memory,
}

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

    use super::{Refusal, Resource};
    use crate::fault::NotBuilt;

    type Plan = Cell<(Refusal, u64)>;

    thread_local! {
        static BLOCKS: Plan = const { Cell::new((Refusal::None, 0)) };
        static MEMORY: Plan = const { Cell::new((Refusal::None, 0)) };
    }

    fn replace(resource: Resource, with: impl FnOnce((Refusal, u64)) -> (Refusal, u64)) -> (Refusal, u64) {
        let replaced = |plan: &Plan| plan.replace(with(plan.get()));
        match resource {
            Resource::Blocks => BLOCKS.with(replaced),
            Resource::Memory => MEMORY.with(replaced),
        }
    }

    /// Whether this request is refused; counts it.
    #[inline]
    pub fn is_refused(resource: Resource) -> bool {
        let (refusal, before) = replace(resource, |(refusal, asked)| (refusal, asked + 1));
        let asked = before + 1;
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
    pub fn plan(resource: Resource, refusal: Refusal) -> Result<u64, NotBuilt> {
        Ok(replace(resource, |_| (refusal, 0)).1)
    }
}

#[cfg(not(all(udax_faults, not(any(loom, shuttle)))))]
mod planned {
    use super::{Refusal, Resource};
    use crate::fault::NotBuilt;

    /// Whether this request is refused: never, in this build.
    #[inline(always)]
    pub const fn is_refused(_: Resource) -> bool {
        false
    }

    /// Plans for this thread, in a build that can.
    ///
    /// # Errors
    /// Always in this build.
    pub fn plan(_: Resource, _: Refusal) -> Result<u64, NotBuilt> {
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
            plan(Resource::Memory, refusal).unwrap();
            assert!(!is_refused(Resource::Blocks), "each has its own plan");
            assert_eq!([(); 4].map(|()| is_refused(Resource::Memory)), expected);
            assert_eq!(plan(Resource::Memory, Refusal::None), Ok(4));
        }
    }

    #[cfg(not(udax_faults))]
    #[test]
    fn a_shipped_build_refuses_nothing() {
        assert!(plan(Resource::Blocks, Refusal::From(1)).is_err());
        assert!(!is_refused(Resource::Blocks));
    }
}
