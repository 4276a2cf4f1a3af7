//! The machine's own primitives: what no filesystem can be faster than.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use udax_pmem::{Region, RegionOptions};

use super::BATCH;
use crate::failure;

/// Bytes of the mapping: more than the caches hold of it at a time.
const BYTES: u64 = 128 << 20;
const BLOCK: u64 = 4096;
const LINE: u64 = 64;

/// Something the machine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Primitive {
    /// Copies 4 KiB out of the mapping.
    Copy,
    /// Copies 4 KiB past the cache into the mapping, and fences.
    Persist,
    /// Stores a line, flushes it, and fences.
    Line,
}

impl Primitive {
    /// For the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Copy => "memcpy 4 KiB",
            Self::Persist => "non-temporal 4 KiB + fence",
            Self::Line => "one line persisted",
        }
    }
}

/// A mapping of the same kind as the pool's.
pub(super) struct Machine {
    region: Region,
}

impl Machine {
    /// Makes the file `path` and maps it.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let region = Region::create(path, BYTES, RegionOptions::default())
            .map_err(|error| failure::of_pool(path, "cannot map", error))?;
        // Every page is there before anything is timed.
        region.zero_nontemporal(0, BYTES)?;
        region.fence()?;
        Ok(Self { region })
    }

    /// The time of a batch.
    pub(super) fn batch(&self, primitive: Primitive, batch: u64) -> Result<Duration> {
        let mut block = [0_u8; 4096];
        let started = Instant::now();
        for index in 0..BATCH {
            let at = place(batch * BATCH + index);
            match primitive {
                Primitive::Copy => {
                    self.region.read(at, black_box(&mut block))?;
                }
                Primitive::Persist => {
                    self.region.store_nontemporal(at, black_box(&block))?;
                    self.region.fence()?;
                }
                Primitive::Line => {
                    self.region.store(at, black_box(&block[..64]))?;
                    self.region.flush(at, LINE)?;
                    self.region.fence()?;
                }
            }
        }
        Ok(started.elapsed())
    }
}

/// Scattered blocks, the same ones in every run. Those of a file of the same size are chosen alike.
fn place(index: u64) -> u64 {
    scattered(index, BYTES / BLOCK) * BLOCK
}

/// The number below `count` (a power of two) that comes at `index` in a fixed scattered order.
pub(super) fn scattered(index: u64, count: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) & (count - 1)
}
