//! Costs of operations, each beside the primitive that bounds it, as ratios in one run.
//!
//! [`Bench`] has a pool in memory and a bare region of the same kind. [`Ratios`] keeps the fastest round of each
//! measured operation, so that a run can end with a table: numbers are for people, no test depends on them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use udax::{Checksums, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags, Owner};
use udax_pmem::{Region, RegionOptions};

/// What new inodes are given.
pub const NEW: NewInode = NewInode {
    permissions: 0o644,
    owner: Owner { uid: 0, gid: 0 },
};
/// For reading and writing a file that may be new.
pub const CREATE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::CREATE);

const POOL_BYTES: u64 = 1 << 30;
const REGION_BYTES: u64 = 256 << 20;

/// A pool, and a region without one, both in files in memory that are removed at the end.
#[derive(Debug)]
pub struct Bench {
    pool: PathBuf,
    bare: PathBuf,
    /// The open pool.
    pub filesystem: Filesystem,
    /// A region to measure primitives on.
    pub region: Region,
}

impl Bench {
    /// Makes both.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let pool = memory_path("pool");
        let bare = memory_path("bare");
        make_pool(&pool)?;
        // Pages are there before anything is measured.
        let options = MountOptions {
            populate: true,
            ..MountOptions::default()
        };
        let filesystem = Filesystem::open(&pool, &options)?;
        let region = Region::create(&bare, REGION_BYTES, RegionOptions::default())?;
        region.populate()?;
        Ok(Self {
            pool,
            bare,
            filesystem,
            region,
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Files that are gone already need no removal.
        let _ = std::fs::remove_file(&self.pool);
        let _ = std::fs::remove_file(&self.bare);
    }
}

/// A file in memory where that is possible.
pub fn memory_path(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    directory.join(format!("udax-bench-{name}-{}", std::process::id()))
}

/// Makes a pool of 1 GiB in `path`, with room for checksums of data.
///
/// # Errors
/// What formatting says.
pub fn make_pool(path: &Path) -> anyhow::Result<()> {
    let options = FormatOptions {
        size: Some(POOL_BYTES),
        force: true,
        data_checksums: true,
        ..FormatOptions::default()
    };
    Filesystem::format(path, &options)?;
    // Only the files that are measured with checksums have some.
    let filesystem = Filesystem::open(path, &MountOptions::default())?;
    filesystem.set_checksums("/", Checksums::Off)?;
    Ok(filesystem.close()?)
}

/// The cost of each operation that was measured, and what it is compared with.
#[derive(Debug, Default)]
pub struct Ratios {
    costs: BTreeMap<&'static str, Duration>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    operation: &'static str,
    reference: &'static str,
    budget: f64,
}

impl Ratios {
    /// Does `operation` `count` times and gives how long that took; keeps the lowest cost of one.
    pub fn time(&mut self, name: &'static str, count: u64, mut operation: impl FnMut(u64)) -> Duration {
        let start = Instant::now();
        for index in 0..count {
            operation(index);
        }
        let elapsed = start.elapsed();
        self.keep(name, count, elapsed);
        elapsed
    }

    /// Keeps the lowest cost of one, from `count` of them that took `elapsed`.
    pub fn keep(&mut self, name: &'static str, count: u64, elapsed: Duration) {
        let Some(each) = u32::try_from(count)
            .ok()
            .and_then(|count| elapsed.checked_div(count))
        else {
            return;
        };
        let lowest = self.costs.entry(name).or_insert(each);
        *lowest = each.min(*lowest);
    }

    /// The table is to compare `operation` with `reference`; the design allows `budget` times its cost.
    pub fn compare(&mut self, operation: &'static str, reference: &'static str, budget: f64) {
        self.rows.push(Row {
            operation,
            reference,
            budget,
        });
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "operation                     cost  reference                     cost   ratio  budget\n",
        );
        for row in &self.rows {
            let (Some(cost), Some(reference)) =
                (self.costs.get(row.operation), self.costs.get(row.reference))
            else {
                continue;
            };
            let (cost, reference) = (cost.as_secs_f64() * 1e9, reference.as_secs_f64() * 1e9);
            table += &format!(
                "{:<24} {:>6.0} ns  {:<24} {:>6.0} ns  {:>6.2}  {:>6.2}\n",
                row.operation,
                cost,
                row.reference,
                reference,
                cost / reference.max(f64::MIN_POSITIVE),
                row.budget
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_ratio_of_the_lowest_costs() {
        let mut ratios = Ratios::default();
        ratios.keep("slow", 10, Duration::from_micros(50));
        ratios.keep("slow", 10, Duration::from_micros(30));
        ratios.keep("fast", 1, Duration::from_micros(2));
        ratios.compare("slow", "fast", 4.0);
        ratios.compare("never measured", "fast", 1.0);
        let table = ratios.table();
        assert!(table.contains("  1.50    4.00"), "{table}");
        assert!(!table.contains("never measured"), "{table}");
    }
}
