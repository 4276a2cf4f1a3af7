//! `udax df`: how full pools are.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use udax_media::BLOCK_BYTES;

use crate::failure;
use crate::output::{self, Output, OutputArgs};
use crate::pool;
use crate::pool_path::PoolPath;
use crate::size::Size;

/// Show how full pools are
#[derive(Args, Debug)]
pub(crate) struct Df {
    #[command(flatten)]
    format: OutputArgs,
    /// The pools; paths in them do not matter
    #[arg(required = true, value_name = "POOL")]
    places: Vec<PoolPath>,
}

#[derive(Serialize)]
struct Usage {
    pool: String,
    total_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    available_bytes: u64,
    inodes: u64,
    /// Of the data device, if there is one.
    device_total_bytes: Option<u64>,
    device_free_bytes: Option<u64>,
}

impl Df {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let mut usages = Vec::new();
        let status = failure::for_each(&self.places, |place| {
            let filesystem = pool::open_for_reading(&place.pool)?;
            let stat = filesystem.stat_filesystem();
            pool::close(&place.pool, filesystem)?;
            let has_device = stat.device_blocks > 0;
            usages.push(Usage {
                pool: crate::name::shown(&place.pool),
                total_bytes: stat.total_blocks * BLOCK_BYTES,
                used_bytes: stat.total_blocks.saturating_sub(stat.free_blocks) * BLOCK_BYTES,
                free_bytes: stat.free_blocks * BLOCK_BYTES,
                available_bytes: stat.available_blocks * BLOCK_BYTES,
                inodes: stat.inodes,
                device_total_bytes: has_device.then(|| stat.device_blocks * BLOCK_BYTES),
                device_free_bytes: has_device.then(|| stat.device_free_blocks * BLOCK_BYTES),
            });
            Ok(())
        })?;
        if self.format.is_json() {
            output.json(&usages)?;
            return Ok(status);
        }
        if usages.is_empty() {
            return Ok(status);
        }
        let mut table = output::table(&["Pool", "Size", "Used", "Available", "Used%", "Inodes"], 1);
        for usage in &usages {
            let mut row = |name: String, total: u64, (used, available): (u64, u64), inodes: String| {
                table.add_row([
                    name,
                    Size(total).to_string(),
                    Size(used).to_string(),
                    Size(available).to_string(),
                    format!("{}%", (used * 100).div_ceil(total.max(1))),
                    inodes,
                ]);
            };
            let space = (usage.used_bytes, usage.available_bytes);
            row(
                usage.pool.clone(),
                usage.total_bytes,
                space,
                usage.inodes.to_string(),
            );
            if let Some((total, free)) = usage.device_total_bytes.zip(usage.device_free_bytes) {
                let name = format!("{}, data device", usage.pool);
                row(name, total, (total.saturating_sub(free), free), String::new());
            }
        }
        output.table(&table)?;
        Ok(status)
    }
}
