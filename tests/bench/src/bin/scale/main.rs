//! What operations cost in a small directory and a huge one, in a file of few extents and of very many.
//!
//! ```text
//! cargo run --release -p udax-test-bench --bin scale -- --names 10000000 --extents 1000000
//! ```
//! Each kind of pool is made at a hundredth, at a tenth and at the full size, in memory. The table gives the processor
//! time of one operation, which other programs disturb less than the clock does, and the ratio of the full size to the
//! smallest. Trees grow by a level and processor caches overflow, so that a ratio of two or three is what to expect of
//! a good structure; ten or more is a cost that grows with the size.

mod extents;
mod names;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use udax::{Filesystem, FormatOptions, MountOptions};
use udax_check::{CheckOptions, Silent, check};
use udax_pmem::{Region, RegionOptions};
use udax_test_bench::memory_path;

use table::Table;

/// Makes a pool of so many, measures and removes it.
type Measure = fn(&mut Table, u64) -> Result<()>;

/// The sizes at which each kind of pool is made, as divisors of the one that is asked for.
const DIVISORS: [u64; 3] = [100, 10, 1];
/// Operations of those that are only sampled.
const SAMPLES: u64 = 100_000;

fn main() -> Result<()> {
    let (mut names, mut extents) = (0, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a number"))?
            .parse()?;
        match argument.as_str() {
            "--names" => names = value,
            "--extents" => extents = value,
            other => bail!("no option {other}: --names N and --extents N"),
        }
    }
    let kinds: [(u64, Measure); 2] = [(names, names::measure), (extents, extents::measure)];
    for (count, measure) in kinds {
        if count == 0 {
            continue;
        }
        let sizes = DIVISORS.map(|divisor| (count / divisor).max(1));
        let mut table = Table::new(&sizes);
        for size in sizes {
            table.begin(size);
            measure(&mut table, size)?;
            // So that a run that is ended early has shown something.
            println!("{table}");
        }
    }
    Ok(())
}

/// A pool in a file in memory, which is removed at the end.
struct Pool {
    path: PathBuf,
}

impl Pool {
    fn make(bytes: u64) -> Result<Self> {
        let pool = Self {
            path: memory_path("scale"),
        };
        let options = FormatOptions {
            size: Some(bytes),
            force: true,
            ..FormatOptions::default()
        };
        Filesystem::format(&pool.path, &options)?;
        Ok(pool)
    }

    fn open(&self) -> Result<Filesystem> {
        Ok(Filesystem::open(&self.path, &MountOptions::default())?)
    }

    /// Checks the closed pool, which must be faultless.
    fn check(&self) -> Result<()> {
        let region = open_for_reading(&self.path)?;
        let report = check(&region, &CheckOptions::default(), &Silent)?;
        match report.problems.first() {
            None => Ok(()),
            Some(problem) => bail!("{} problems, the first: {problem:?}", report.problems.len()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // One that is gone already needs no removal.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open_for_reading(path: &Path) -> Result<Region> {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    Ok(Region::open(path, options)?)
}

/// The member of `0..count` that is looked at as number `index` of a sample: the same in each run, in no order.
fn scattered(index: u64, count: u64) -> u64 {
    let mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) % count
}
