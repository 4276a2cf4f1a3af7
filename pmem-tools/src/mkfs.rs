//! `udax mkfs`: makes a pool.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Parser;
use serde::Serialize;
use udax::{DataSource, Filesystem, FormatOptions, Owner, Timestamp};
use udax_media::{BLOCK_BYTES, MIN_POOL_BYTES, Superblock};
use udax_pmem::RegionError;

use crate::failure;
use crate::output::{Output, OutputArgs};
use crate::plural::lanes;
use crate::pool::WriteArgs;
use crate::size::Size;

/// Make a pool in a file or on a device
///
/// A file that does not exist is created with the given size. What looks like data is not overwritten without
/// --force.
#[derive(Parser, Debug)]
#[command(name = "mkfs.udax", version, max_term_width = 100)]
pub(crate) struct Mkfs {
    /// Size of the pool: 16M, 1G, 1.5GiB, ... Default: all of the existing file or device
    #[arg(long, short)]
    size: Option<Size>,
    /// A name for people, at most 64 bytes
    #[arg(long, short = 'L', default_value = "", hide_default_value = true)]
    label: String,
    /// Overwrite what looks like data
    #[arg(long, short)]
    force: bool,
    /// Checksums of file data, which every read verifies: all files get them, unless 'udax attr -checksum' says
    /// otherwise. A write then never goes in place, and a block of 4096 bytes costs 8 more
    #[arg(long)]
    data_checksum: bool,
    /// A block device or file for the data of files without the DAX flag: then the pool has the metadata and the data
    /// of DAX files. All of it is used, and what looks like data is not overwritten without --force
    #[arg(long, value_name = "DEVICE", conflicts_with = "data_checksum")]
    data: Option<PathBuf>,
    /// The pool's identity. Default: random
    #[arg(long, short = 'U')]
    uuid: Option<uuid::Uuid>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    format: OutputArgs,
    /// The file or device
    pool: PathBuf,
}

#[derive(Serialize)]
struct Made<'p> {
    pool: String,
    uuid: String,
    label: &'p str,
    bytes: u64,
    journal_bytes: u64,
    lanes: u32,
    data_checksums: bool,
    /// Bytes of the data device.
    device_bytes: Option<u64>,
}

impl Mkfs {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let shown = crate::name::shown(&self.pool);
        // A device that is not there has no size to be given: opening it says what to do.
        let is_device = self.pool.parent() == Some(Path::new("/dev"));
        if self.size.is_none() && !is_device && !self.pool.exists() {
            bail!("{shown}: does not exist: give the size of the file to make, for example --size 1G");
        }
        let options = FormatOptions {
            size: self.size.map(|size| size.0),
            label: self.label.clone(),
            force: self.force,
            msync: self.write.msync,
            uuid: self.uuid,
            owner: Owner::current(),
            data_checksums: self.data_checksum,
            data: self.data.clone().map(DataSource::Path),
            recorder: None,
        };
        self.check_plan(&options)?;
        let superblock = Filesystem::format(&self.pool, &options).map_err(|error| match error {
            // What was asked for, not what is there, is wrong: fsck would not help.
            udax::Error::Corrupt(error) | udax::Error::NotPool(error) => self.refused(error),
            udax::Error::Region(RegionError::Media { at }) => anyhow!(
                "{shown}: cannot make a pool: media error at byte {at}, where a store of the whole page does not help: \
                 clear it first (a device: 'ndctl clear-errors'), or make the pool elsewhere"
            ),
            error => self.refused(error),
        })?;
        let made = Made::new(shown, &superblock);
        if self.format.is_json() {
            output.json(&made)?;
        } else {
            made.print(output)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Mkfs {
    /// Refuses an impossible size or label before a file is made for it.
    fn check_plan(&self, options: &FormatOptions) -> anyhow::Result<()> {
        // The length of a device is not known to its metadata.
        let file = std::fs::metadata(&self.pool)
            .ok()
            .filter(std::fs::Metadata::is_file);
        let Some(size) = options.size.or(file.map(|file| file.len())) else {
            return Ok(());
        };
        if size < MIN_POOL_BYTES {
            bail!(
                "{}: {} is too small for a pool of at least {}: give --size {}M or more",
                crate::name::shown(&self.pool),
                Size(size),
                Size(MIN_POOL_BYTES),
                MIN_POOL_BYTES >> 20
            );
        }
        let uuid = options.uuid.unwrap_or_default();
        Superblock::plan(
            size / BLOCK_BYTES,
            uuid,
            [0; 16],
            &options.label,
            Timestamp::default(),
        )
        .map(drop)
        .map_err(|error| self.refused(error))
    }

    fn refused<E: std::error::Error + Send + Sync + 'static>(&self, why: E) -> anyhow::Error {
        failure::of_pool(&self.pool, "cannot make a pool", why)
    }
}

impl<'s> Made<'s> {
    fn new(pool: String, superblock: &'s Superblock) -> Self {
        Self {
            pool,
            uuid: superblock.uuid.to_string(),
            label: &superblock.label,
            bytes: superblock.total_blocks() * BLOCK_BYTES,
            journal_bytes: superblock.journal_blocks().count * BLOCK_BYTES,
            lanes: superblock.lane_count,
            data_checksums: superblock.has_sums(),
            device_bytes: superblock
                .device
                .as_ref()
                .map(|device| device.blocks * BLOCK_BYTES),
        }
    }

    fn print(&self, output: &mut Output) -> std::io::Result<()> {
        let label = match self.label {
            "" => String::new(),
            label => format!(" '{}'", crate::name::escaped(label.as_bytes())),
        };
        writeln!(
            output,
            "{}: pool {}{label} of {}, journal {} in {}{}{}",
            self.pool,
            self.uuid,
            Size(self.bytes),
            Size(self.journal_bytes),
            lanes(self.lanes),
            if self.data_checksums {
                ", with checksums of data"
            } else {
                ""
            },
            match self.device_bytes {
                Some(bytes) => format!(", data device of {}", Size(bytes)),
                None => String::new(),
            }
        )
    }
}
