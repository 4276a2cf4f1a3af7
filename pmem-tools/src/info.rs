//! `udax info`: what a pool is.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use udax_media::BLOCK_BYTES;
use udax_pmem::Persistence;

use crate::output::{self, Output, OutputArgs};
use crate::plural::{counted, lanes, records};
use crate::pool;
use crate::size::Size;
use crate::time::iso;

/// Show what a pool is: identity, size, layout, and what its medium promises
#[derive(Args, Debug)]
pub(crate) struct Info {
    #[command(flatten)]
    format: OutputArgs,
    /// The file or device
    pool: PathBuf,
}

#[derive(Serialize)]
struct Facts {
    pool: String,
    uuid: String,
    label: String,
    created: String,
    bytes: u64,
    free_bytes: u64,
    available_bytes: u64,
    inodes: u64,
    block_size: u32,
    segments: usize,
    lanes: u32,
    journal_bytes: u64,
    generation: u64,
    compat: u64,
    ro_compat: u64,
    incompat: u64,
    persistence: &'static str,
    was_clean: bool,
    replayed_records: u64,
    /// What is wrong with copies of superblock and checkpoint: then what is left is the only one.
    damaged_copies: Vec<String>,
}

impl Info {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let filesystem = pool::open_for_reading(&self.pool)?;
        let superblock = filesystem.superblock();
        let usage = filesystem.stat_filesystem();
        let recovery = filesystem.recovery();
        let facts = Facts {
            pool: crate::name::shown(&self.pool),
            uuid: superblock.uuid.to_string(),
            label: superblock.label.clone(),
            created: iso(superblock.created),
            bytes: usage.total_blocks * BLOCK_BYTES,
            free_bytes: usage.free_blocks * BLOCK_BYTES,
            available_bytes: usage.available_blocks * BLOCK_BYTES,
            inodes: usage.inodes,
            block_size: usage.block_size,
            segments: superblock.segments.len(),
            lanes: superblock.lane_count,
            journal_bytes: superblock.journal_blocks().count * BLOCK_BYTES,
            generation: superblock.generation,
            compat: superblock.compat,
            ro_compat: superblock.ro_compat,
            incompat: superblock.incompat,
            persistence: promise(filesystem.persistence()),
            was_clean: recovery.was_clean,
            replayed_records: recovery.records,
            damaged_copies: pool::find_damaged_copies(&self.pool),
        };
        pool::close(&self.pool, filesystem)?;
        if self.format.is_json() {
            output.json(&facts)?;
        } else {
            facts.print(output)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the pool's medium does with what is durable.
fn promise(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Eadr => "survives power failure; caches are protected (eADR)",
        Persistence::Flush => "survives power failure; caches are flushed",
        Persistence::Msync => "survives power failure by msync",
        Persistence::ProcessOnly => "survives a killed process, not a power failure",
    }
}

impl Facts {
    fn print(&self, output: &mut Output) -> std::io::Result<()> {
        let mut table = output::table(&[], 0);
        let features = format!("{:#x} {:#x} {:#x}", self.compat, self.ro_compat, self.incompat);
        let state = match (self.was_clean, self.replayed_records) {
            (true, _) => "closed cleanly".to_owned(),
            (false, count) => format!("not closed cleanly, {} to replay", records(count)),
        };
        for (what, value) in [
            ("Pool", self.pool.clone()),
            ("UUID", self.uuid.clone()),
            ("Label", crate::name::escaped(self.label.as_bytes())),
            ("Created", self.created.clone()),
            ("State", state),
            ("Durable data", self.persistence.to_owned()),
            (
                "Size",
                format!(
                    "{} in {}",
                    Size(self.bytes),
                    counted(self.segments, "segment", "segments")
                ),
            ),
            ("Free", Size(self.free_bytes).to_string()),
            ("Available", Size(self.available_bytes).to_string()),
            ("Inodes", self.inodes.to_string()),
            ("Block size", Size(u64::from(self.block_size)).to_string()),
            (
                "Journal",
                format!("{} in {}", Size(self.journal_bytes), lanes(self.lanes)),
            ),
            ("Superblock generation", self.generation.to_string()),
            ("Features (compat, ro, incompat)", features),
        ] {
            table.add_row([what.to_owned(), value]);
        }
        output.table(&table)
    }
}
