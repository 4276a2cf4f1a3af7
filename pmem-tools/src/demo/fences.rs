//! Fences per operation, counted, not timed.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use udax::{Filesystem, MountOptions, NewInode, OpenFlags, RenameMode};
use udax_pmem::{CountingRecorder, Recorder};

use crate::failure;
use crate::size::float;

/// Operations of each kind.
const COUNT: u64 = 512;
const DIRECTORY: &str = "/fences";

/// What an operation costs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    /// The operation.
    pub(super) operation: &'static str,
    /// Fences of one, on average: checkpoints add a little.
    pub(super) fences: f64,
}

struct Meter<'m> {
    filesystem: &'m Filesystem,
    recorder: &'m CountingRecorder,
    costs: Vec<Cost>,
}

impl Meter<'_> {
    fn count(
        &mut self,
        operation: &'static str,
        each: impl Fn(&Filesystem, u64) -> udax::Result<()>,
    ) -> Result<()> {
        let before = self.recorder.snapshot().fences;
        for index in 0..COUNT {
            each(self.filesystem, index)?;
        }
        let fences = self.recorder.snapshot().fences - before;
        self.costs.push(Cost {
            operation,
            fences: float(fences) / float(COUNT),
        });
        Ok(())
    }
}

/// Counts the fences of each kind of operation on `pool`.
pub(super) fn measure(pool: &Path) -> Result<Vec<Cost>> {
    let recorder = Arc::new(CountingRecorder::new());
    let seen: Arc<dyn Recorder> = recorder.clone();
    let options = MountOptions {
        recorder: Some(seen),
        ..MountOptions::default()
    };
    let filesystem =
        Filesystem::open(pool, &options).map_err(|error| failure::of_pool(pool, failure::OPEN, error))?;
    let new = NewInode::with_permissions(0o755);
    filesystem.create_dir(DIRECTORY, new)?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = filesystem.open_file(format!("{DIRECTORY}/data"), flags, new)?;
    let block = [7; 4096];
    let name = |prefix: &str, index: u64| format!("{DIRECTORY}/{prefix}{index}");
    let mut meter = Meter {
        filesystem: &filesystem,
        recorder: &recorder,
        costs: Vec::new(),
    };
    meter.count("create", |filesystem, index| {
        let exclusive = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        filesystem.open_file(name("f", index), exclusive, new).map(drop)
    })?;
    meter.count("mkdir", |filesystem, index| {
        filesystem.create_dir(name("d", index), new).map(drop)
    })?;
    meter.count("rename", |filesystem, index| {
        filesystem.rename(name("f", index), name("g", index), RenameMode::Replace)
    })?;
    meter.count("unlink", |filesystem, index| filesystem.unlink(name("g", index)))?;
    meter.count("rmdir", |filesystem, index| {
        filesystem.remove_dir(name("d", index))
    })?;
    meter.count("append 4 KiB", |_, _| file.append(&block).map(drop))?;
    meter.count("overwrite 4 KiB", |_, index| {
        file.write_at(&block, index * 4096).map(drop)
    })?;
    meter.count("read 4 KiB", |_, index| {
        file.read_at(&mut [0; 4096], index * 4096).map(drop)
    })?;
    let costs = meter.costs;
    drop(file);
    filesystem.close()?;
    Ok(costs)
}
