//! Verifying metadata that is in use.
//!
//! A unit that a record has changed since the last checkpoint has an old checksum. So a wrong checksum is believed only
//! after a checkpoint has passed with the unit unchanged since: the caller keeps what protects the unit locked, which
//! the checkpoint does not need. Bitmaps and the roots have no such lock: they are looked at several times, and given
//! up as busy where they change each time.

use std::cell::Cell;

use udax_media::node::{self, NodeIdentity};
use udax_media::{BLOCK_SIZE, BlockNo, FormatError};

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::tree::NodeSource;
use crate::verified::VerifiedBlocks;

/// Looks at a unit that changes all the time.
const MAX_LOOKS: usize = 8;

/// Whether something protects a unit while it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protection {
    Locked,
    Changing,
}

/// The pool's nodes, each verified on the medium when a scrub first meets it.
pub(super) struct Sealed<'p> {
    pool: &'p Pool,
    seen: VerifiedBlocks,
    units: Cell<u64>,
    busy_units: Cell<u64>,
    /// Bytes since the last call of [`Sealed::take_bytes`].
    bytes: Cell<u64>,
}

impl<'p> Sealed<'p> {
    pub(super) fn new(pool: &'p Pool) -> Self {
        Self {
            pool,
            seen: VerifiedBlocks::new(),
            units: Cell::new(0),
            busy_units: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// Units verified.
    pub(super) fn units(&self) -> u64 {
        self.units.get()
    }

    /// Units that could not be.
    pub(super) fn busy_units(&self) -> u64 {
        self.busy_units.get()
    }

    /// Bytes verified since the last call.
    pub(super) fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }

    /// Reads and verifies a unit of `bytes` at `at`, which is called `what`.
    pub(super) fn verify_unit<const N: usize, T>(
        &self,
        (at, what): (u64, &'static str),
        protection: Protection,
        verify: impl Fn(&[u8; N]) -> std::result::Result<T, FormatError>,
    ) -> Result<()> {
        let mut bytes = [0; N];
        self.bytes.set(self.bytes.get() + u64::try_from(N).unwrap_or(0));
        for look in 0..MAX_LOOKS {
            self.pool
                .health
                .note(what, self.pool.region.read(at, &mut bytes))?;
            match verify(&bytes) {
                Ok(_) => {
                    self.units.set(self.units.get() + 1);
                    return Ok(());
                }
                // The checksum is looked at first: nothing else can be wrong by a change.
                Err(FormatError::Checksum { .. }) if self.may_be_old(look, protection) => {
                    self.pool.checkpoint()?;
                }
                Err(FormatError::Checksum { .. }) if self.changes(protection) || self.stays_old() => break,
                Err(error) => return Err(Error::Corrupt(error)),
            }
        }
        self.busy_units.set(self.busy_units.get() + 1);
        Ok(())
    }

    fn may_be_old(&self, look: usize, protection: Protection) -> bool {
        let looks = match protection {
            Protection::Locked => 1,
            Protection::Changing => MAX_LOOKS - 1,
        };
        look < looks && self.pool.check_writable().is_ok()
    }

    /// Whether a wrong checksum may be one that no checkpoint will bring up to date: the pool takes no more changes.
    fn stays_old(&self) -> bool {
        self.pool.check_writable().is_err() && self.pool.journal.is_ahead()
    }

    fn changes(&self, protection: Protection) -> bool {
        protection == Protection::Changing
            && self.pool.check_writable().is_ok()
            && self.pool.journal.is_ahead()
    }
}

impl NodeSource for Sealed<'_> {
    type Error = Error;

    fn word(&self, block: BlockNo, at: usize) -> Result<u64> {
        NodeSource::word(self.pool, block, at)
    }

    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<()> {
        NodeSource::read(self.pool, block, at, to)
    }

    /// The caller has the lock of the tree.
    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        if self.seen.contains(block) {
            return Ok(());
        }
        let (seed, total) = (self.pool.seed, self.pool.total_blocks());
        let place = (block.offset().raw(), "a node of a tree");
        self.verify_unit(place, Protection::Locked, |bytes: &[u8; BLOCK_SIZE]| {
            node::verify(seed, bytes, block, identity, level, total)
        })?;
        self.seen.insert(block);
        Ok(())
    }
}
