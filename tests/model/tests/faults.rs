//! Protections of files in the page cache that the killed writers miss when they are switched off. Needs a build with
//! `--cfg udax_faults`: `ci/faults` makes one.

#![cfg(udax_faults)]

use std::path::Path;

use udax_sync::fault::Fault;
use udax_test_model::killed::cached::Arena;
use udax_test_model::pool::Files;
use udax_test_model::run::pool_path;

const THREADS: u16 = 4;
/// Killed writers until a missing protection must have been found: each was within a tenth of them.
const MOST: u64 = 1_000;

fn is_found(files: Files, fault: Fault) {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-model"));
    let pool = pool_path(&format!("killed-{}", fault.name()));
    let arena = Arena::new(program, &pool, 1, (THREADS, files)).expect("a pool");
    let mut arena = arena.without(fault);
    let found = (0..MOST).find_map(|seed| Some((seed, arena.kill_one(seed).err()?)));
    let (seed, error) = found.unwrap_or_else(|| panic!("{} is not missed", fault.name()));
    println!("{}: writer {seed}: {:.300}", fault.name(), format!("{error:#}"));
}

#[test]
fn a_sync_that_writes_nothing_is_found() {
    is_found(Files::Cached, Fault::UnwrittenSync);
}

#[test]
fn a_durable_write_that_stays_in_the_cache_is_found() {
    is_found(Files::Tiered, Fault::UnwrittenDsync);
}

#[test]
fn a_size_before_its_data_is_found() {
    is_found(Files::Cached, Fault::EarlyEnd);
}

#[test]
fn a_switch_that_drops_what_is_dirty_is_found() {
    is_found(Files::Switched, Fault::UnsettledSwitch);
}

#[test]
fn bytes_behind_an_old_end_are_found() {
    is_found(Files::Tiered, Fault::StaleTail);
}

#[test]
fn rests_of_new_blocks_are_found() {
    is_found(Files::Cached, Fault::StaleEdges);
}
