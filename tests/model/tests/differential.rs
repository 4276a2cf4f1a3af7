//! 100,000 random operations per seed on a pool and on the model, with remounts, crashes and checks in between.

use udax_test_model::pool::Files;
use udax_test_model::run::{Plan, pool_path};

fn agree(seed: u64, operations: usize, mib: u64, files: Files) {
    let plan = Plan {
        pool: pool_path(&format!("differential-{seed}-{mib}")),
        pool_bytes: mib << 20,
        files,
        seed,
        operations,
    };
    let summary = plan.run().unwrap_or_else(|failure| {
        panic!(
            "seed {seed}: {}\nreplay and cut down: \
             cargo run -p udax-test-model -- --seed {seed} --ops {operations} --mib {mib} --files {}",
            failure.difference,
            format!("{files:?}").to_lowercase()
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
    agree(1, 100_000, 1024, Files::Plain);
}

#[test]
fn pool_and_model_agree_on_seed_2() {
    agree(2, 100_000, 1024, Files::Plain);
}

#[test]
fn pool_and_model_agree_on_seed_3() {
    agree(3, 100_000, 1024, Files::Plain);
}

#[test]
fn pool_and_model_agree_on_seed_4() {
    agree(4, 100_000, 1024, Files::Plain);
}

#[test]
fn a_full_pool_changes_nothing_when_it_refuses() {
    agree(5, 40_000, 16, Files::Plain);
}

#[test]
fn pool_and_model_agree_with_checksums_of_data() {
    agree(6, 100_000, 1024, Files::Summed);
}

#[test]
fn a_full_pool_with_checksums_of_data_changes_nothing_when_it_refuses() {
    agree(7, 40_000, 16, Files::Summed);
}

#[test]
fn pool_and_model_agree_on_files_without_dax() {
    agree(8, 100_000, 1024, Files::Cached);
}

#[test]
fn a_full_pool_of_files_without_dax_changes_nothing_when_it_refuses() {
    agree(9, 40_000, 16, Files::Cached);
}

#[test]
fn pool_and_model_agree_on_files_on_a_data_device() {
    agree(10, 60_000, 256, Files::Tiered);
}

#[test]
fn a_full_data_device_changes_nothing_when_it_refuses() {
    agree(13, 40_000, 16, Files::Tiered);
}
