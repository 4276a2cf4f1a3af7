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

use anyhow::Result;
use serde::Serialize;

use crate::failure;
use crate::output::{self, Output, OutputArgs};
use item::{Item, Work};
use place::Place;

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

/// Compares, in `directory`, which should be in memory.
pub(super) fn run(directory: &Path, rounds: u64, format: OutputArgs, output: &mut Output) -> Result<()> {
    let udax = Place::udax(directory)?;
    let mut rows = Vec::new();
    match Place::bindfs(directory) {
        Ok(bindfs) => {
            let work = Work::new(directory)?;
            for item in Item::ALL {
                rows.push(compare(item, &work, (&udax, &bindfs), rounds, GOAL)?);
            }
        }
        Err(error) => skipped("bindfs over tmpfs", &error),
    }
    match Place::ext4(directory) {
        Ok(ext4) => {
            let work = Work::new(directory)?;
            rows.push(compare(
                Item::CreateSynced,
                &work,
                (&udax, &ext4),
                rounds,
                SYNC_GOAL,
            )?);
        }
        Err(error) => skipped("ext4 on a loop device", &error),
    }
    if format.is_json() {
        output.json(&rows)
    } else {
        Ok(print(&rows, output)?)
    }
}

fn skipped(what: &str, error: &anyhow::Error) {
    failure::tell(&format!("not compared with {what}: {}", failure::line(error)));
}

fn compare(item: Item, work: &Work, places: (&Place, &Place), rounds: u64, goal: f64) -> Result<Row> {
    const WARM_UP: u64 = 1;
    let (udax, other) = places;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds + WARM_UP {
        let pair = match round.is_multiple_of(2) {
            true => [(udax, &mut ours), (other, &mut theirs)],
            false => [(other, &mut theirs), (udax, &mut ours)],
        };
        for (place, times) in pair {
            let time = item.time(place.directory(), work)?;
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    Ok(Row {
        item: item.name(),
        beside: other.name(),
        udax_microseconds: ours,
        beside_microseconds: theirs,
        ratio: ours / theirs.max(1e-9),
        goal,
    })
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
