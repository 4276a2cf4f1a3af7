//! Repairs that a power failure interrupts, of some damages of each kind.

use std::thread;

use udax_crash::Domain;
use udax_test_corruption::case::Bench;
use udax_test_corruption::damage::{Kind, cases};
use udax_test_corruption::image::Scratch;
use udax_test_corruption::run::Samples;
use udax_test_corruption::sample::Ending;

/// Damages of each kind and ending.
const CASES: usize = 1;
/// Images of each moment of a repair.
const IMAGES: usize = 4;

#[test]
fn a_repair_that_is_interrupted_can_be_done_again() {
    let samples = Samples::make().expect("the samples are made");
    let judge = |ending: Ending| {
        let scratch = Scratch::new(&format!("interrupted-{}", ending.name())).expect("there is memory");
        let (sample, places) = samples.of(ending);
        let bench = Bench {
            sample,
            places,
            scratch: &scratch,
        };
        let mut images = 0;
        for (kind, domain) in Kind::ALL.into_iter().zip(Domain::ALL.into_iter().cycle()) {
            // Both superblocks at once leave nothing to mend with.
            let all = cases(kind, sample, places, 1).into_iter();
            let step = (all.len() / CASES).max(1);
            for damage in all.skip(step / 2).step_by(step).take(CASES) {
                let judged = bench.judge_interrupted(damage, domain, (IMAGES, 1));
                images += judged
                    .unwrap_or_else(|error| panic!("{},{damage}, {domain:?}: {error:#}", ending.name()));
            }
        }
        images
    };
    let images: u64 = thread::scope(|scope| {
        let threads: Vec<_> = Ending::ALL
            .into_iter()
            .map(|ending| scope.spawn(move || judge(ending)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no image is wrong"))
            .sum()
    });
    assert!(images > 100, "{images} images");
}
