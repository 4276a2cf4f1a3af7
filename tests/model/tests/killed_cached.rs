//! Writers whose files are in the page cache, killed at random moments: what a sync promised is there, and nothing that
//! a file never held; no block is lost, in the pool or on its data device.

use std::path::Path;

use anyhow::{Context, ensure};
use udax_test_model::killed::cached::Arena;
use udax_test_model::pool::Files;
use udax_test_model::run::pool_path;

const LOOPS: u64 = 200;
const THREADS: u16 = 4;
/// Blocks that stay in use when everything was removed: nodes of the tree of inodes.
const KEPT_BLOCKS: u64 = 4;

fn kill_writers(files: Files) -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-model"));
    let name = files.name();
    let pool = pool_path(&format!("killed-{name}"));
    let mut arena = Arena::new(program, &pool, 1, (THREADS, files))?;
    for seed in 0..LOOPS {
        arena.kill_one(seed).with_context(|| {
            format!(
                "writer {seed} of this test (each takes the pool of the one before); more of them: \
                 cargo run -p udax-test-model -- --kills 10000 --threads {THREADS} --files {name}"
            )
        })?;
    }
    let tally = arena.tally();
    println!("{name}: {tally:?}");
    ensure!(
        tally.operations > 5_000,
        "the writers were killed too early: {tally:?}"
    );
    ensure!(tally.syncs > 20, "hardly any sync has ended: {tally:?}");
    ensure!(
        tally.behind > 100,
        "hardly anything was in the cache only: {tally:?}"
    );
    ensure!(
        tally.cut_recoveries > 0,
        "no recovery was killed in the middle: {tally:?}"
    );
    let kept = arena.empty()?;
    ensure!(kept <= KEPT_BLOCKS, "{kept} blocks are gone");
    Ok(())
}

#[test]
fn what_was_synced_from_the_page_cache_outlives_its_writer() {
    kill_writers(Files::Cached).unwrap();
}

#[test]
fn what_was_synced_of_files_that_are_switched_to_memory_access_and_back_outlives_its_writer() {
    kill_writers(Files::Switched).unwrap();
}

#[test]
fn what_was_synced_of_files_that_move_between_the_pool_and_a_data_device_outlives_its_writer() {
    kill_writers(Files::Tiered).unwrap();
}
