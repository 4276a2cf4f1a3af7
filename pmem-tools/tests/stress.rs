//! The contest as a command, short.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod command;

use command::Place;

#[test]
fn a_contest_on_a_pool_is_clean_and_leaves_nothing_in_it() {
    let place = Place::with_pool("64M");
    let ran = place.run([
        "stress",
        "truncate-dma",
        "--pool",
        "pool",
        "--seconds",
        "1",
        "--seed",
        "7",
        "--json",
    ]);
    ran.success();
    let told = ran.json();
    assert_eq!(told["seed"], 7);
    assert_eq!(told["findings"].as_array().unwrap().len(), 0);
    assert!(told["dma"]["transfers"].as_u64().unwrap() > 0, "{told}");
    assert!(told["dax"]["breaks"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(place.run(["ls", "pool:/"]).success(), "");
}

#[test]
fn files_are_switched_between_memory_access_and_the_page_cache_and_between_pool_and_device() {
    for how in ["--switched", "--tiered"] {
        let place = Place::new();
        let seconds = ["--seconds", "2", "--seed", "8", "--json"];
        let ran = place.run(
            ["stress", "truncate-dma", "--size", "64M", how]
                .into_iter()
                .chain(seconds),
        );
        ran.success();
        let told = ran.json();
        assert_eq!(told["findings"].as_array().unwrap().len(), 0);
        let replay = told["replay"].as_str().unwrap();
        assert!(replay.contains(&format!(" {how} ")), "{told}");
        assert_eq!(told["cache"]["budget"], 512, "{told}");
        assert!(told["cache"]["most_dirty"].as_u64().unwrap() > 0, "{told}");
    }
}

#[test]
fn a_protection_cannot_be_switched_off_in_this_build() {
    let place = Place::new();
    place
        .run(["stress", "truncate-dma", "--fault", "skip-wait"])
        .fails_with(&["--cfg udax_faults"]);
    let ran = place.run(["stress", "truncate-dma", "--fault", "no-such"]);
    ran.status(2);
    assert!(
        ran.stderr().contains("skip-wait, skip-delete, early-free"),
        "{}",
        ran.stderr()
    );
}
