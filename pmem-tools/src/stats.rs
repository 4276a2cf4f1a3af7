//! `udax stats`: what a pool is doing, once.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::live::find::{self, Found};
use crate::live::{Snapshot, Source};
use crate::output::{self, Output, OutputArgs};
use crate::plural::{counted, records};
use crate::pool;
use crate::size::{Size, short_time};

/// Show what a pool is doing: space, journal, page cache, pins, and the requests of its mount
///
/// Of a mounted pool its daemon tells; one that nobody has open is opened for reading.
#[derive(Args, Debug)]
pub(crate) struct Stats {
    #[command(flatten)]
    format: OutputArgs,
    /// A directory where a pool is mounted, or the pool's file or device
    #[arg(value_name = "DIR|POOL")]
    place: PathBuf,
}

impl Stats {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let snapshot = match find::find(&self.place)? {
            Found::Live(mut connection) => connection.next()?,
            Found::Nobody => {
                let filesystem = pool::open_for_reading(&self.place)?;
                let snapshot = Source::new(&self.place, &filesystem).snapshot();
                pool::close(&self.place, filesystem)?;
                snapshot
            }
        };
        if self.format.is_json() {
            output.json(&snapshot)?;
        } else {
            print(&snapshot, output)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(snapshot: &Snapshot, output: &mut Output) -> std::io::Result<()> {
    let (space, journal, cache, pins) = (snapshot.space, snapshot.journal, snapshot.cache, &snapshot.pins);
    let mut table = output::table(&[], 0);
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_owned(), value]);
    };
    row("Pool", snapshot.pool.path.clone());
    row("In use", in_use(snapshot));
    if let Some(damage) = &snapshot.damage {
        row("Damage", damage.clone());
    }
    let (free, total) = (Size(space.available_bytes), Size(space.total_bytes));
    row("Available", format!("{free} of {total}, {} inodes", space.inodes));
    if let Some(device) = space.device {
        let (free, total) = (Size(device.free_bytes), Size(device.total_bytes));
        row("Data device", format!("{free} of {total} available"));
    }
    let (used, capacity) = (Size(journal.used_bytes), Size(journal.capacity_bytes));
    let since = records(journal.records);
    let checkpoints = counted(to_usize(journal.checkpoints), "checkpoint", "checkpoints");
    row(
        "Journal",
        format!("{used} of {capacity}, {since} since the last of {checkpoints}"),
    );
    let (cached, dirty) = (Size(cache.cached_bytes), Size(cache.dirty_bytes));
    let budget = Size(cache.budget_bytes);
    row("Page cache", format!("{cached} of {budget}, {dirty} dirty"));
    row(
        "Cache looks",
        format!("{} found, {} not", cache.hits, cache.misses),
    );
    row(
        "Pins",
        format!(
            "{} held, {}; {} made",
            pins.held,
            Size(pins.held_bytes),
            pins.made
        ),
    );
    row("Waiting for pins", snapshot.waiters.len().to_string());
    output.table(&table)?;
    if snapshot.operations.is_empty() {
        return Ok(());
    }
    let mut table = output::table(
        &[
            "Request", "Count", "Errors", "p50", "p99", "p99.9", "Max", "Bytes",
        ],
        1,
    );
    for operation in &snapshot.operations {
        table.add_row([
            operation.operation.clone(),
            operation.count.to_string(),
            operation.errors.to_string(),
            short_time(operation.p50_nanoseconds),
            short_time(operation.p99_nanoseconds),
            short_time(operation.p999_nanoseconds),
            short_time(operation.longest_nanoseconds),
            Size(operation.bytes).to_string(),
        ]);
    }
    writeln!(output)?;
    output.table(&table)
}

fn in_use(snapshot: &Snapshot) -> String {
    let open = short_time(snapshot.open_nanoseconds);
    match (snapshot.process, &snapshot.mount) {
        (Some(process), Some(mount)) => {
            let how = if mount.is_read_only { ", read-only" } else { "" };
            format!("on {}{how}, by process {process}, for {open}", mount.directory)
        }
        (Some(process), None) => format!("by process {process}, for {open}"),
        (None, _) => "by nobody".to_owned(),
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
