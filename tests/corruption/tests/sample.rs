//! A sample of every kind of damage, the same each time. Everything: `cargo run --release -p udax-test-corruption --
//! --all`.

use udax_test_corruption::case::Outcome;
use udax_test_corruption::damage::Kind;
use udax_test_corruption::run::{Plan, Samples, run};
use udax_test_corruption::sample::Ending;

/// Cases of each kind and ending: about half a minute on two processors.
const LIMIT: usize = 120;

#[test]
fn damage_is_found_or_harmless_and_mended_without_loss_elsewhere() {
    let samples = Samples::make().expect("the samples are made");
    let plan = Plan {
        kinds: Kind::ALL.to_vec(),
        endings: Ending::ALL.to_vec(),
        limit: Some(LIMIT),
        seed: 1,
        threads: 0,
        interrupted: None,
    };
    let tally = run(&samples, &plan, &|_, _, _| {}).expect("every case ends");
    let shown: Vec<String> = tally
        .failures
        .iter()
        .map(|(case, why)| format!("--case {case}\n{why}"))
        .collect();
    assert!(
        tally.failures.is_empty(),
        "{} failed:\n{}",
        tally.failed,
        shown.join("\n")
    );
    // A judge that sees nothing would find everything harmless.
    let with_loss = tally
        .outcomes
        .iter()
        .filter(|((_, _, outcome), _)| *outcome == Outcome::MendedWithLoss);
    let with_loss: u64 = with_loss.map(|(_, count)| count).sum();
    assert!(with_loss * 3 > tally.cases(), "{with_loss} of {}", tally.cases());
}
