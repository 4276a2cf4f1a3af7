//! Protections that a test build can switch off, to prove that the tests that watch over them would see it.
//!
//! Without `--cfg udax_faults` nothing can be switched off: [`is_injected`] is a constant, and costs nothing. With it,
//! each [`Fault`] is a bit that tests and tools set for the whole process. `ci/faults` runs what must find them. So it
//! is under shuttle (`ci/shuttle`), for what only some schedules show.
//!
//! ```text
//! RUSTFLAGS="--cfg udax_faults" CARGO_TARGET_DIR=target/faults cargo test -p udax-test-stress --test faults
//! ```

use std::str::FromStr;

macro_rules! faults {
    ($($(#[doc = $about:literal])+ $list:ident { $($(#[doc = $doc:literal])+ $fault:ident = $name:literal,)* })*) => {
        /// A protection that can be switched off.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Fault {
            $($($(#[doc = $doc])+ $fault,)*)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$fault,)*)*];

            $($(#[doc = $about])+ pub const $list: &[Self] = &[$(Self::$fault),*];)*

            /// Its name, as it is given on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$fault => $name,)*)*
                }
            }

            /// What it switches off.
            pub const fn description(self) -> &'static str {
                match self {
                    $($(Self::$fault => concat!($($doc),+),)*)*
                }
            }
        }
    };
}

faults! {
    /// Those that the contest of truncations against DMA finds.
    DMA {
        /// A layout is broken without a wait for its pins.
        SkipWait = "skip-wait",
        /// A layout is broken, but its entries stay: pins go on to find the old pages.
        SkipDelete = "skip-delete",
        /// A pin does not keep its file open: an unlinked file is freed while pages of it are pinned.
        EarlyFree = "early-free",
    }
    /// Those that the power failures of files on a data device find.
    DEVICE {
        /// New data is published without the flush that makes it durable on the data device.
        UnflushedDevice = "unflushed-device",
        /// A sync does not flush the data device.
        UnflushedDeviceSync = "unflushed-device-sync",
        /// What was overwritten on the data device is not flushed before its blocks are given to another file.
        UnflushedSettle = "unflushed-settle",
    }
    /// Those that schedules of the page cache find: each is a look less when bytes are stored to pages that are dirty.
    OVERWRITE {
        /// It is not looked whether the pages are dirty.
        OverwriteClean = "overwrite-clean",
        /// It is not looked again with the folio locked whether the pages are dirty.
        OverwriteUnseen = "overwrite-unseen",
        /// The folio is not locked.
        OverwriteUnlocked = "overwrite-unlocked",
        /// It is not looked whether the bytes end behind all that was written before.
        OverwriteBehind = "overwrite-behind",
        /// The folio leaves the cache when it is clean, although the write did not ask for that.
        OverwriteDropped = "overwrite-dropped",
    }
    /// Those that power failures during a repair find.
    MEND {
        /// A step of a repair is made without the fence that makes its record durable.
        UnfencedMend = "unfenced-mend",
        /// A step of a repair is made before its record is stored.
        EarlyMend = "early-mend",
        /// A repair begins without a checkpoint that says so.
        UnmarkedMend = "unmarked-mend",
    }
    /// Those that the crash tests find.
    CRASH {
        /// A record is applied without the fence that makes it durable.
        UnfencedRecord = "unfenced-record",
        /// A record is stored through the cache and not flushed.
        UnflushedRecord = "unflushed-record",
        /// A record is applied in place before it is stored.
        EarlyApply = "early-apply",
        /// Recovery takes a record without looking at its checksum.
        UncheckedRecord = "unchecked-record",
        /// A record does not say how many blocks and inodes it takes and frees.
        UncountedRecord = "uncounted-record",
        /// A checkpoint does not flush what it passes.
        UnflushedCheckpoint = "unflushed-checkpoint",
        /// A checkpoint is published without a fence after what it passes.
        UnfencedCheckpoint = "unfenced-checkpoint",
        /// A checkpoint does not seal what it passes.
        UnsealedCheckpoint = "unsealed-checkpoint",
        /// A half of a lane is overwritten before a checkpoint has passed it.
        EarlyLane = "early-lane",
        /// Recovery replays the newest record first.
        ReversedReplay = "reversed-replay",
        /// Recovery publishes a checkpoint without flushing what it replayed.
        UnflushedReplay = "unflushed-replay",
        /// Recovery forgets the last record.
        ShortReplay = "short-replay",
        /// A freed metadata block is used again before a checkpoint has passed its last record.
        EarlyReuse = "early-reuse",
        /// Freed blocks of data are available before the record that frees them is durable.
        EarlyDataReuse = "early-data-reuse",
        /// New data is published without the fence that makes it durable.
        UnfencedData = "unfenced-data",
        /// New data is stored through the cache and not flushed.
        UnflushedData = "unflushed-data",
        /// An overwrite in place returns without a fence.
        UnfencedOverwrite = "unfenced-overwrite",
        /// A sync does not flush what was stored through pins.
        UnflushedPin = "unflushed-pin",
        /// A file becomes longer, and what its last block holds behind the old end is not zeroed.
        StaleTail = "stale-tail",
        /// A part of a new block is written, and the rest is not zeroed.
        StaleEdges = "stale-edges",
        /// A write that is to be atomic goes to written blocks in place.
        TornAtomic = "torn-atomic",
        /// The size of a file is published before its data.
        EarlySize = "early-size",
        /// A truncation frees blocks in one record, and sets the size in another.
        LateSize = "late-size",
        /// A truncation that takes several records is not noted as an orphan.
        LostCut = "lost-cut",
        /// The edges of a punched hole are zeroed in place before the record.
        EarlyPunch = "early-punch",
        /// An unlinked file that is open is not noted as an orphan.
        LostOrphan = "lost-orphan",
        /// A name is removed in one record, and its inode changed in another.
        SplitUnlink = "split-unlink",
        /// A name is moved in one record, and what it replaces is removed in another.
        SplitRename = "split-rename",
        /// The blocks of new data are not marked as used in the record that publishes them.
        UnmarkedData = "unmarked-data",
        /// Shared blocks are given up without their count.
        UncountedShare = "uncounted-share",
        /// The checksums of new data are recorded after the record that publishes it.
        SplitSum = "split-sum",
        /// Data that has a checksum is stored to in place.
        InPlaceSum = "in-place-sum",
        /// A pin for writing leaves their checksums to the blocks that are stored to through it.
        PinnedSum = "pinned-sum",
        /// Zeros behind the end of a file are stored into a block that has a checksum.
        TailSum = "tail-sum",
        /// A sync of a file in the page cache does not write its dirty pages.
        UnwrittenSync = "unwritten-sync",
        /// A write that is to be durable (`DSYNC`) stays in the page cache.
        UnwrittenDsync = "unwritten-dsync",
        /// Dirty pages behind the end are written before those nearer to it, and the size covers both.
        EarlyEnd = "early-end",
        /// A file's dirty pages are dropped when it is switched to memory access.
        UnsettledSwitch = "unsettled-switch",
        /// A collapse or an insertion moves extents in one record, and gives the file its size in another.
        SplitShift = "split-shift",
        /// New trees of extents are published without the fence that makes their nodes durable.
        UnfencedRebuild = "unfenced-rebuild",
        /// A pool grows without a fence after the bitmaps of what is added.
        UnfencedGrowth = "unfenced-growth",
    }
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

#[cfg(any(shuttle, all(udax_faults, not(loom))))]
mod injected {
    // Not shuttle's: whether a fault is injected is no part of a schedule.
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Fault, NotBuilt};

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

#[cfg(not(any(shuttle, all(udax_faults, not(loom)))))]
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
        let lists = [
            Fault::DMA,
            Fault::DEVICE,
            Fault::OVERWRITE,
            Fault::MEND,
            Fault::CRASH,
        ];
        assert_eq!(Fault::ALL.len(), lists.map(<[Fault]>::len).iter().sum());
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
