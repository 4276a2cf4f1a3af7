//! `udax tier`: moves files between a pool and its data device.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use udax::Dax;

use crate::live::find;
use crate::pool::{self, WriteArgs};
use crate::pool_path::PoolPath;
use crate::{dax_flag, failure};

/// Why nothing can be moved out of the pool.
const NO_DEVICE: &str = "the pool has no data device ('udax mkfs --data' gives a new one its own); for a page cache \
    instead of memory access, 'udax attr -dax'";

/// Move files between the pool and its data device
///
/// To 'dax' gives a file the DAX flag and moves its data into the pool, to 'data' takes the flag away and moves its
/// data to the data device. A file on a mount is moved while it is in use; pins of it are waited for. What is
/// interrupted leaves a part here and a part there; the same command goes on with it.
#[derive(Args, Debug)]
pub(crate) struct Tier {
    #[command(flatten)]
    write: WriteArgs,
    /// Where to
    #[arg(long, value_enum)]
    to: To,
    /// The files: paths on a mount, or in a pool that is not mounted
    #[arg(required = true, value_name = "PATH|POOL:/PATH")]
    places: Vec<PoolPath>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum To {
    /// Into the pool, reached by memory access
    Dax,
    /// To the data device, through the page cache
    Data,
}

impl Tier {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        failure::for_each(&self.places, |place| {
            if let Some(path) = dax_flag::host_path(place) {
                return self.to.on_mount(&path);
            }
            pool::change(&place.pool, self.write, |filesystem| {
                if self.to == To::Data && filesystem.superblock().device.is_none() {
                    bail!("{place}: {NO_DEVICE}");
                }
                filesystem
                    .set_dax(&place.path, self.to.dax())
                    .with_context(|| format!("{place}: cannot move"))
            })
        })
    }
}

impl To {
    fn dax(self) -> Dax {
        match self {
            Self::Dax => Dax::On,
            Self::Data => Dax::Off,
        }
    }

    /// Sets the flag of a file on a mount, which moves it.
    fn on_mount(self, path: &Path) -> Result<()> {
        let file = dax_flag::open(path)?;
        // Of a mount of somebody else's nobody tells, and the flag is all there is.
        let device = rustix::fs::fstat(&file)?.st_dev;
        if self == Self::Data && find::mounted(device)?.is_some_and(|pool| pool.space.device.is_none()) {
            bail!("{}: {NO_DEVICE}", crate::name::shown(path));
        }
        dax_flag::set(&file, path, self.dax())
    }
}
