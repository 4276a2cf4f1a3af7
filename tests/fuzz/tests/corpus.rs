//! The corpus, and some changes of it.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_test_fuzz::mutate::mutate;
use udax_test_fuzz::{TARGETS, corpus, target};

/// Runs on changes of the corpus: a parser takes microseconds, a pool ten milliseconds.
const PARSER_RUNS: usize = 20_000;
const POOL_RUNS: usize = 200;
/// The most bytes of the corpus in the repository.
const MAX_CORPUS: usize = 1 << 20;

fn run(name: &str, runs: usize) {
    let inputs = corpus::read(name).expect("the corpus can be read");
    let target = target(name);
    inputs.iter().for_each(|input| target(input));
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..runs {
        target(&mutate(
            &inputs[random.random_range(0..inputs.len())],
            &mut random,
        ));
    }
}

#[test]
fn parsers_survive() {
    for (name, _) in TARGETS {
        if !["journal", "image", "operations"].contains(&name) {
            run(name, PARSER_RUNS);
        }
    }
}

#[test]
fn journals_survive() {
    run("journal", POOL_RUNS);
}

#[test]
fn images_survive() {
    run("image", POOL_RUNS);
}

#[test]
fn operations_agree_with_the_model() {
    run("operations", POOL_RUNS / 4);
}

#[test]
fn corpus_is_small() {
    let files = TARGETS
        .iter()
        .flat_map(|(name, _)| corpus::read(name).expect("the corpus can be read"));
    let bytes: usize = files.map(|file| file.len()).sum();
    assert!(bytes < MAX_CORPUS, "{bytes} bytes");
}
