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
}

impl Df {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let mut usages = Vec::new();
        let status = failure::for_each(&self.places, |place| {
            let filesystem = pool::open_for_reading(&place.pool)?;
            let stat = filesystem.stat_filesystem();
            pool::close(&place.pool, filesystem)?;
            usages.push(Usage {
                pool: crate::name::shown(&place.pool),
                total_bytes: stat.total_blocks * BLOCK_BYTES,
                used_bytes: stat.total_blocks.saturating_sub(stat.free_blocks) * BLOCK_BYTES,
                free_bytes: stat.free_blocks * BLOCK_BYTES,
                available_bytes: stat.available_blocks * BLOCK_BYTES,
                inodes: stat.inodes,
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
            let percent = (usage.used_bytes * 100).div_ceil(usage.total_bytes.max(1));
            table.add_row([
                usage.pool.clone(),
                Size(usage.total_bytes).to_string(),
                Size(usage.used_bytes).to_string(),
                Size(usage.available_bytes).to_string(),
                format!("{percent}%"),
                usage.inodes.to_string(),
            ]);
        }
        output.table(&table)?;
        Ok(status)
    }
}
