//! A pool in memory for contests, and the independent check of what they leave.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use udax::{DataSource, Disk, Filesystem, FormatOptions, MountOptions};
use udax_check::{CheckOptions, Silent};
use udax_disk::{MemoryMedium, Unreliable};
use udax_pmem::{Region, RegionOptions};
use udax_stress::{Options, Report, Stop};

/// A formatted pool in a directory of its own, removed with it.
#[derive(Debug)]
pub struct StressPool {
    _directory: TempDir,
    path: PathBuf,
    device: Option<Arc<Unreliable>>,
}

impl StressPool {
    /// Makes one of `bytes`.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn new(bytes: u64) -> anyhow::Result<Self> {
        Self::make(bytes, None)
    }

    /// Makes one of `bytes` with a data device of as many, in memory.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn tiered(bytes: u64, seed: u64) -> anyhow::Result<Self> {
        let medium = Arc::new(MemoryMedium::new(bytes));
        Self::make(bytes, Some(Arc::new(Unreliable::new(medium, seed))))
    }

    fn make(bytes: u64, device: Option<Arc<Unreliable>>) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)?
        } else {
            tempfile::tempdir()?
        };
        let path = directory.path().join("stress.pool");
        let options = FormatOptions {
            size: Some(bytes),
            data: device.as_ref().map(source),
            ..FormatOptions::default()
        };
        Filesystem::format(&path, &options).context("format")?;
        Ok(Self {
            _directory: directory,
            path,
            device,
        })
    }

    /// Holds a contest. Where files are switched, the page cache is so small that it is always full.
    ///
    /// # Errors
    /// When there can be none, or the pool cannot be closed after one without findings.
    pub fn contest(&self, options: &Options) -> anyhow::Result<Report> {
        let mount = options.ways.mount(MountOptions {
            data: self.device.as_ref().map(source),
            ..MountOptions::default()
        });
        let filesystem = Filesystem::open(&self.path, &mount).context("open")?;
        let report = udax_stress::run(&filesystem, options, &Stop::default())?;
        if report.is_clean() {
            filesystem.close().context("close")?;
        }
        Ok(report)
    }

    /// Its data device, which fails when it is told to.
    pub fn device(&self) -> Option<&Arc<Unreliable>> {
        self.device.as_ref()
    }

    /// Checks the pool, which is closed.
    ///
    /// # Errors
    /// When the check finds a problem.
    pub fn check(&self) -> anyhow::Result<()> {
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = Region::open(&self.path, options).context("open for the check")?;
        let report = udax_check::check(&region, &CheckOptions::default(), &Silent).context("check")?;
        ensure!(
            report.problems.is_empty(),
            "the check finds {:#?}",
            report.problems
        );
        Ok(())
    }
}

fn source(device: &Arc<Unreliable>) -> DataSource {
    let medium = Arc::clone(device);
    DataSource::Disk(Arc::new(Disk::new(medium)))
}
