//! 100,000 random operations per seed on a pool and on the model, with remounts, crashes and checks in between.

use udax_test_model::run::{Plan, pool_path};

fn agree(seed: u64, operations: usize, mib: u64) {
    let plan = Plan {
        pool: pool_path(&format!("differential-{seed}-{mib}")),
        pool_bytes: mib << 20,
        seed,
        operations,
    };
    let summary = plan.run().unwrap_or_else(|failure| {
        panic!(
            "seed {seed}: {}\nreplay and cut down: \
             cargo run -p udax-test-model -- --seed {seed} --ops {operations} --mib {mib}",
            failure.difference
        )
    });
    assert_eq!(summary.operations, operations);
    // A sequence in which little succeeds compares little.
    assert!(
        summary.successes > operations / 3,
        "only {} operations succeeded",
        summary.successes
    );
    let is_small = mib <= 64;
    assert!(
        !is_small || summary.full > operations / 1000,
        "the small pool was full {} times",
        summary.full
    );
}

#[test]
fn pool_and_model_agree_on_seed_1() {
    agree(1, 100_000, 1024);
}

#[test]
fn pool_and_model_agree_on_seed_2() {
    agree(2, 100_000, 1024);
}

#[test]
fn pool_and_model_agree_on_seed_3() {
    agree(3, 100_000, 1024);
}

#[test]
fn pool_and_model_agree_on_seed_4() {
    agree(4, 100_000, 1024);
}

#[test]
fn a_full_pool_changes_nothing_when_it_refuses() {
    agree(5, 40_000, 16);
}
