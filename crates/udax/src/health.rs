//! What happens when the medium loses metadata, or does not let it be reached: the operation fails, the pool takes no
//! more changes, and says why.
//!
//! Reads of what is not affected go on. The first loss is kept; later ones are told by the operations that meet them.
//! Lost bytes of a file are no concern of this: they are an error of that file alone.

use std::sync::OnceLock;

use udax_media::{ByteOffset, Place};
use udax_pmem::RegionError;
use udax_sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Why a pool takes no more changes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Damage {
    /// What was lost, in words.
    pub what: &'static str,
    /// Where.
    pub place: Place,
    /// The medium has lost it. If not, it could not be reached, since the pool's file was cut short or its filesystem
    /// had no space: all that was durable is there when the pool is opened again where it can be.
    pub is_lost: bool,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match self.is_lost {
            true => "media error in",
            false => "no way to reach",
        };
        write!(formatter, "{how} {}: {}", self.what, self.place)
    }
}

/// Whether an open pool is whole.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Relaxed: whoever misses it might as well have come before.
    is_damaged: AtomicBool,
    first: OnceLock<Damage>,
}

impl Health {
    /// Whether metadata was lost.
    #[inline]
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// The first loss.
    pub(crate) fn damage(&self) -> Option<Damage> {
        self.first.get().cloned()
    }

    /// The result of an access to metadata, which is called `what`.
    #[inline(always)]
    pub(crate) fn note<T>(
        &self,
        what: &'static str,
        result: std::result::Result<T, RegionError>,
    ) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(what, error)),
        }
    }

    #[cold]
    fn failed(&self, what: &'static str, error: RegionError) -> Error {
        match error {
            RegionError::Media { at } => self.lose(what, Place::Block(ByteOffset(at).block())),
            RegionError::Unreachable { at } => {
                let damage = Damage {
                    what,
                    place: Place::Block(ByteOffset(at).block()),
                    is_lost: false,
                };
                self.end(damage);
                Error::Region(error)
            }
            other => Error::Region(other),
        }
    }

    /// The pool takes no more changes.
    fn end(&self, damage: Damage) {
        let told = damage.clone();
        if self.first.set(damage).is_ok() {
            self.is_damaged.store(true, Ordering::Relaxed);
            tracing::error!("{told}: the pool is read-only from now on");
        }
    }

    /// Metadata is lost: the pool takes no more changes.
    #[cold]
    pub(crate) fn lose(&self, what: &'static str, place: Place) -> Error {
        self.end(Damage {
            what,
            place,
            is_lost: true,
        });
        Error::LostMetadata { what, place }
    }
}
