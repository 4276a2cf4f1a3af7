//! Protections that a test build can switch off, to prove that the tests that watch over them would see it.
//!
//! Without `--cfg udax_faults` nothing can be switched off: [`is_injected`] is a constant, and costs nothing. With it,
//! each [`Fault`] is a bit that tests and tools set for the whole process. `ci/faults` runs what must find them.
//!
//! ```text
//! RUSTFLAGS="--cfg udax_faults" CARGO_TARGET_DIR=target/faults cargo test -p udax-test-stress --test faults
//! ```

use std::str::FromStr;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $fault:ident = $name:literal,)*) => {
        /// A protection that can be switched off.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[doc = $doc])+ $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$fault),*];

            /// Its name, as it is given on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }

            /// What it switches off.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$fault => concat!($($doc),+),)*
                }
            }
        }
    };
}

faults! {
    /// A layout is broken without a wait for its pins.
    SkipWait = "skip-wait",
    /// A layout is broken, but its entries stay: pins go on to find the old pages.
    SkipDelete = "skip-delete",
    /// A pin does not keep its file open: an unlinked file is freed while pages of it are pinned.
    EarlyFree = "early-free",
}

/// There is no fault of this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownFault(String);

impl std::fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        write!(
            f,
            "no fault is called '{}': there are {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownFault {}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.iter().find(|fault| fault.name() == name);
        found.copied().ok_or_else(|| UnknownFault(name.to_owned()))
    }
}

/// This program was built with all protections for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotBuilt;

impl std::fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "no fault can be injected into this build; build one with \
             RUSTFLAGS='--cfg udax_faults' CARGO_TARGET_DIR=target/faults cargo build",
        )
    }
}

impl std::error::Error for NotBuilt {}

#[cfg(all(udax_faults, not(any(loom, shuttle))))]
mod injected {
    use super::{Fault, NotBuilt};
    use crate::atomic::{AtomicU64, Ordering};

    /// A bit for each fault. Relaxed: a fault is injected before the threads that it is for start.
    static INJECTED: AtomicU64 = AtomicU64::new(0);

    fn bit(fault: Fault) -> u64 {
        let place = Fault::ALL.iter().position(|other| *other == fault);
        place.map_or(0, |place| 1 << place)
    }

    /// Whether this protection is switched off.
    #[inline]
    pub fn is_injected(fault: Fault) -> bool {
        let injected = INJECTED.load(Ordering::Relaxed);
        injected != 0 && injected & bit(fault) != 0
    }

    /// Switches a protection off, for this process and for good.
    ///
    /// # Errors
    /// Never in this build.
    pub fn inject(fault: Fault) -> Result<(), NotBuilt> {
        INJECTED.fetch_or(bit(fault), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(not(all(udax_faults, not(any(loom, shuttle)))))]
mod injected {
    use super::{Fault, NotBuilt};

    /// Whether this protection is switched off: never, in this build.
    #[inline(always)]
    pub const fn is_injected(_: Fault) -> bool {
        false
    }

    /// Switches a protection off, in a build that can.
    ///
    /// # Errors
    /// Always in this build.
    pub fn inject(_: Fault) -> Result<(), NotBuilt> {
        Err(NotBuilt)
    }
}

pub use injected::{inject, is_injected};

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_found_by_its_name() {
        assert!(Fault::ALL.len() <= 64, "a fault is a bit of a word");
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(*fault));
            assert!(!fault.description().is_empty());
        }
        let error = "no-such".parse::<Fault>().unwrap_err().to_string();
        assert!(
            error.contains("no-such") && error.contains("skip-wait"),
            "{error}"
        );
    }

    #[cfg(not(udax_faults))]
    #[test]
    fn a_shipped_build_cannot_be_made_faulty() {
        assert_eq!(inject(Fault::SkipWait), Err(NotBuilt));
        assert!(!is_injected(Fault::SkipWait));
        assert!(NotBuilt.to_string().contains("--cfg udax_faults"));
    }
}
