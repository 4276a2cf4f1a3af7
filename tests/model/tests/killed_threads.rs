//! Writers with several threads, files that stay pinned and a sync all the time, killed at random moments; some of the
//! processes that recover the pool too.

use std::path::Path;
use std::process::Command;

use udax_test_model::killed::threads::Arena;
use udax_test_model::pool::Pool;
use udax_test_model::run::pool_path;

const LOOPS: u64 = 240;
const STARVED: u64 = 40;
const THREADS: u16 = 4;
/// Blocks that stay in use when everything was removed: nodes of the tree of inodes.
const KEPT_BLOCKS: u64 = 4;

#[test]
fn nothing_that_threads_with_pins_reported_is_lost_and_no_block_leaks() {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-model"));
    let mut arena = Arena::new(program, &pool_path("killed-threads"), 1, THREADS).unwrap();
    for seed in 0..LOOPS {
        if let Err(error) = arena.kill_one(seed) {
            panic!(
                "writer {seed} of this test (each takes the pool of the one before): {error:#}\nmore of them: \
                 cargo run -p udax-test-model -- --kills 10000 --threads {THREADS}"
            );
        }
    }
    let tally = arena.tally();
    println!("{tally:?}");
    assert!(
        tally.operations > 20_000,
        "the writers were killed too early: {tally:?}"
    );
    assert!(
        tally.done > 0 && tally.torn > 0,
        "no kill came in the middle: {tally:?}"
    );
    assert!(
        tally.cut_recoveries > 0,
        "no recovery was killed in the middle: {tally:?}"
    );
    let kept = arena.empty().unwrap();
    assert!(kept <= KEPT_BLOCKS, "{kept} blocks are gone");
}

#[test]
fn nothing_is_lost_by_writers_that_run_out_of_memory() {
    let program = Path::new(env!("CARGO_BIN_EXE_udax-test-model"));
    let mut arena = Arena::new(program, &pool_path("starved"), 2, THREADS).unwrap();
    for seed in 0..STARVED {
        if let Err(error) = arena.starve_one(seed) {
            panic!("writer {seed} of this test (each takes the pool of the one before): {error:#}");
        }
    }
    let tally = arena.tally();
    println!("{tally:?}");
    assert!(tally.operations > 1_000, "the writers died too early: {tally:?}");
    let kept = arena.empty().unwrap();
    assert!(kept <= KEPT_BLOCKS, "{kept} blocks are gone");
}

#[test]
fn a_pool_that_cannot_be_mapped_is_an_error_and_stays_as_it_is() {
    let path = pool_path("unmapped");
    Pool::create(&path, 64 << 20).unwrap().close().unwrap();
    let before = std::fs::read(&path).unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_udax-test-model"))
        .arg("--recover")
        .arg(&path)
        .args(["--memory", "30000"])
        // As for victims: a backtrace takes memory.
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let after = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("memory"), "{said}");
    assert!(before == after);
}
