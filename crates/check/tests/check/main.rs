//! The checker against pools made by hand: sound ones, wrong ones, damaged ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod flips;
mod image;
mod interrupted;
mod scale;
mod sound;
mod table;
mod wrong;

use udax_check::{CheckOptions, Report, Silent, check};
use udax_pmem::Region;

/// Checks the pool, or mends it, with two threads.
fn run(region: &Region, repair: bool) -> Report {
    run_with(region, repair, 2)
}

/// The same in the order of the pool.
fn run_alone(region: &Region, repair: bool) -> Report {
    run_with(region, repair, 1)
}

fn run_with(region: &Region, repair: bool, threads: usize) -> Report {
    let options = CheckOptions {
        repair,
        threads,
        ..CheckOptions::default()
    };
    check(region, &options, &Silent).unwrap()
}
