//! A writer process is killed at a random moment, 200 times: nothing that it reported is lost, nothing else is there.

use std::path::Path;

use udax_test_model::killed::Arena;
use udax_test_model::run::pool_path;

const LOOPS: u64 = 200;

#[test]
fn nothing_that_a_killed_writer_reported_is_lost() {
    let writer = Path::new(env!("CARGO_BIN_EXE_udax-test-model"));
    let mut arena = Arena::new(writer, &pool_path("killed"), 1).unwrap();
    for seed in 0..LOOPS {
        if let Err(error) = arena.kill_one(seed) {
            panic!("writer {seed} of this test (each takes the pool of the one before): {error:#}");
        }
    }
    let tally = arena.tally();
    println!("{tally:?}");
    assert!(
        tally.operations > 10_000,
        "the writers were killed too early: {tally:?}"
    );
    assert!(
        tally.replayed > 0,
        "no recovery had anything to replay: {tally:?}"
    );
}
