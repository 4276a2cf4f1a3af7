//! The time of a clean mount, which must not grow with the number of files.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use udax::{Filesystem, MountOptions, NewInode, OpenFlags};

use crate::failure;

/// Files in each directory.
const PER_DIRECTORY: u64 = 1000;
/// Mounts timed.
const MOUNTS: usize = 9;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mounted {
    /// Files in the pool.
    pub(super) files: u64,
    /// Milliseconds.
    pub(super) median_ms: f64,
}

/// Makes a pool with `files` empty files, and mounts it again and again.
pub(super) fn measure(pool: &Path, files: u64) -> Result<Mounted> {
    fill(pool, files)?;
    let mut times = Vec::new();
    for _ in 0..MOUNTS {
        let started = Instant::now();
        let filesystem = Filesystem::open(pool, &MountOptions::default())
            .map_err(|error| failure::of_pool(pool, failure::OPEN, error))?;
        times.push(started.elapsed());
        ensure!(filesystem.recovery().was_clean, "the pool was not closed cleanly");
        filesystem.close()?;
    }
    times.sort_unstable();
    let median = times.get(MOUNTS / 2).copied().unwrap_or_default();
    Ok(Mounted {
        files,
        median_ms: median.as_secs_f64() * 1e3,
    })
}

fn fill(pool: &Path, files: u64) -> Result<()> {
    let filesystem = super::format(pool)?;
    let new = NewInode::with_permissions(0o755);
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    for number in 0..files {
        let directory = format!("/{}", number / PER_DIRECTORY);
        if number.is_multiple_of(PER_DIRECTORY) {
            filesystem.create_dir(&directory, new)?;
        }
        filesystem.open_file(format!("{directory}/{number}"), flags, new)?;
    }
    filesystem.close()?;
    Ok(())
}
