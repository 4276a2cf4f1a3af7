//! `udax info`: what a pool is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use udax_media::BLOCK_BYTES;
use udax_pmem::{Medium, Persistence};

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
    data_checksums: bool,
    /// The data device, if there is one.
    device: Option<DeviceFacts>,
    persistence: &'static str,
    medium: Found,
    was_clean: bool,
    replayed_records: u64,
    /// What is wrong with copies of superblock and checkpoint: then what is left is the only one.
    damaged_copies: Vec<String>,
}

/// What the kernel tells of the memory.
#[derive(Serialize)]
struct Found {
    device: Option<String>,
    is_persistent_memory: Option<bool>,
    alignment: Option<u64>,
    namespace: Option<String>,
    region: Option<String>,
    persistence_domain: Option<String>,
    bad_bytes: u64,
}

impl Found {
    fn of(pool: &Path) -> Self {
        // What cannot be told is left out: the pool was opened.
        let medium = Medium::of(pool).unwrap_or_default();
        Self {
            device: medium.device,
            is_persistent_memory: medium.is_persistent_memory,
            alignment: medium.alignment,
            namespace: medium.namespace,
            region: medium.region,
            persistence_domain: medium.persistence_domain,
            bad_bytes: medium.bad_bytes,
        }
    }

    /// A line for people; nothing of what is no memory.
    fn line(&self) -> Option<(&'static str, String)> {
        let what = match self.is_persistent_memory? {
            true => "Persistent memory",
            false => "Volatile memory",
        };
        let mut parts: Vec<String> = self.region.iter().cloned().collect();
        parts.extend(self.namespace.clone());
        parts.extend(self.device.clone());
        parts.extend(self.alignment.map(|bytes| format!("mapped by {}", Size(bytes))));
        parts.extend(
            self.persistence_domain
                .as_ref()
                .map(|domain| format!("domain {domain}")),
        );
        if self.bad_bytes > 0 {
            parts.push(format!("{} lost", Size(self.bad_bytes)));
        }
        Some((what, parts.join(", ")))
    }
}

/// What is known of a pool's data device.
#[derive(Serialize)]
struct DeviceFacts {
    /// Where it was when the pool was made.
    path: String,
    uuid: String,
    bytes: u64,
    free_bytes: u64,
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
            data_checksums: superblock.has_sums(),
            device: superblock.device.as_ref().map(|device| DeviceFacts {
                path: crate::name::escaped(&device.path),
                uuid: device.uuid.to_string(),
                bytes: usage.device_blocks * BLOCK_BYTES,
                free_bytes: usage.device_free_blocks * BLOCK_BYTES,
            }),
            persistence: promise(filesystem.persistence()),
            medium: Found::of(&self.pool),
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
pub(crate) fn promise(persistence: Persistence) -> &'static str {
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
        let device = self.device.as_ref().map(|device| {
            let (bytes, free) = (Size(device.bytes), Size(device.free_bytes));
            ("Data device", format!("{} {bytes}, {free} free", device.path))
        });
        let facts = [
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
            (
                "Checksums of data",
                if self.data_checksums { "yes" } else { "no" }.to_owned(),
            ),
            ("Superblock generation", self.generation.to_string()),
            ("Features (compat, ro, incompat)", features),
        ];
        for (what, value) in facts.into_iter().chain(device) {
            table.add_row([what.to_owned(), value]);
        }
        if let Some((what, memory)) = self.medium.line() {
            table.add_row([what.to_owned(), memory]);
        }
        output.table(&table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(is_persistent_memory: Option<bool>, region: Option<&str>) -> Found {
        Found {
            device: Some("dax0.0".to_owned()),
            is_persistent_memory,
            alignment: Some(2 << 20),
            namespace: None,
            region: region.map(str::to_owned),
            persistence_domain: None,
            bad_bytes: 4096,
        }
    }

    #[test]
    fn memory_is_told_by_what_it_is_and_a_disk_not_at_all() {
        let parts = "dax0.0, mapped by 2 MiB, 4 KiB lost".to_owned();
        let volatile = found(Some(false), None).line();
        assert_eq!(volatile, Some(("Volatile memory", parts.clone())));
        let persistent = found(Some(true), Some("region0")).line();
        assert_eq!(
            persistent,
            Some(("Persistent memory", format!("region0, {parts}")))
        );
        assert_eq!(found(None, None).line(), None);
    }
}
