//! `udax bench --mount`: what operations cost through a mount, beside other filesystems in the same run.
//!
//! * [`place`]: a directory with something mounted on it, which is unmounted at the end: udax, bindfs over tmpfs,
//!   ext4 on a loop device over tmpfs.
//! * [`item`]: what is timed.
//!
//! Rounds alternate between both places, and who begins alternates too, so that both see the same machine; what is
//! compared are medians. A ratio below 1 says that udax is faster. What is durable when it returns differs: all of
//! udax, nothing of bindfs over tmpfs; beside ext4 each file is synced.

mod item;
mod place;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure;
use crate::output::{self, Output, OutputArgs};
use item::{Item, Work};
use place::{Place, Syncs};

/// Ratio to ext4 that is wanted: at most.
const SYNC_GOAL: f64 = 1.0 / 3.0;
/// Ratio to bindfs that is wanted.
const GOAL: f64 = 1.0;

/// One item of the comparison; times are of one operation, medians of rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    item: &'static str,
    beside: &'static str,
    udax_microseconds: f64,
    beside_microseconds: f64,
    ratio: f64,
    goal: f64,
}

/// Compares, in `directory`, which should be in memory. A signal ends it between two rounds, so that nothing stays
/// mounted.
pub(super) fn run(directory: &Path, rounds: u64, format: OutputArgs, output: &mut Output) -> Result<()> {
    let mut contest = Contest {
        rounds,
        signals: Signals::new([SIGTERM, SIGINT, SIGHUP])?,
        rows: Vec::new(),
    };
    let work = Work::new(directory)?;
    {
        let udax = Place::udax(directory, Syncs::Caller)?;
        match Place::bindfs(directory) {
            Ok(bindfs) => {
                for item in Item::ALL {
                    contest.compare(item, &work, (&udax, &bindfs), GOAL)?;
                }
            }
            Err(error) => skipped("bindfs over tmpfs", &error),
        }
    }
    for (item, syncs) in [
        (Item::CreateSynced, Syncs::Caller),
        (Item::CreateWritten, Syncs::Mount),
    ] {
        match Place::ext4(directory, syncs) {
            Ok(ext4) => {
                let parent = directory.join("beside-ext4");
                std::fs::create_dir_all(&parent)?;
                let udax = Place::udax(&parent, syncs)?;
                contest.compare(item, &work, (&udax, &ext4), SYNC_GOAL)?;
            }
            Err(error) => skipped("ext4 on a loop device", &error),
        }
    }
    if format.is_json() {
        output.json(&contest.rows)
    } else {
        Ok(print(&contest.rows, output)?)
    }
}

fn skipped(what: &str, error: &anyhow::Error) {
    failure::tell(&format!("not compared with {what}: {}", failure::line(error)));
}

struct Contest {
    rounds: u64,
    signals: Signals,
    rows: Vec<Row>,
}

impl Contest {
    fn compare(&mut self, item: Item, work: &Work, places: (&Place, &Place), goal: f64) -> Result<()> {
        const WARM_UP: u64 = 1;
        let (udax, other) = places;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.rounds + WARM_UP {
            let pair = match round.is_multiple_of(2) {
                true => [(udax, &mut ours), (other, &mut theirs)],
                false => [(other, &mut theirs), (udax, &mut ours)],
            };
            for (place, times) in pair {
                ensure!(self.signals.pending().next().is_none(), "ended by a signal");
                let time = item.time(place.directory(), work)?;
                if round >= WARM_UP {
                    times.push(time);
                }
            }
        }
        let (ours, theirs) = (median(ours), median(theirs));
        self.rows.push(Row {
            item: item.name(),
            beside: other.name(),
            udax_microseconds: ours,
            beside_microseconds: theirs,
            ratio: ours / theirs.max(1e-9),
            goal,
        });
        Ok(())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

fn print(rows: &[Row], output: &mut Output) -> std::io::Result<()> {
    writeln!(
        output,
        "Medians through a mount, one thread, microseconds for each; a ratio below 1 says that udax is faster\n"
    )?;
    let header = ["Operation", "Beside", "udax", "Beside", "Ratio", "Goal"];
    let mut table = output::table(&header, 2);
    for row in rows {
        table.add_row([
            row.item.to_owned(),
            row.beside.to_owned(),
            format!("{:.1}", row.udax_microseconds),
            format!("{:.1}", row.beside_microseconds),
            format!("{:.2}", row.ratio),
            format!("{:.2}", row.goal),
        ]);
    }
    output.table(&table)
}
