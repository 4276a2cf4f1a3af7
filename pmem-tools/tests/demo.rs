//! The demo and the benchmark, small.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod command;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod odd_tree;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use command::Place;

#[test]
fn demo_shows_it_all_and_leaves_nothing_behind() {
    let place = Place::new();
    odd_tree::make(&place.path("source"));
    let ran = place.run(["demo", "--pool", "demo.pool", "source"]);
    let text = ran.success();
    for row in [
        "put",
        "recover after kill",
        "fsck",
        "verify promised",
        "read back",
        "compare with source",
        "create",
        "rename",
        "append 4 KiB",
    ] {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(row)),
            "{row} is not in\n{text}"
        );
    }
    assert!(text.contains("Everything durable is there"), "{text}");
    assert!(!place.path("demo.pool").exists());
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 1);
}

#[test]
fn demo_counts_one_fence_for_each_metadata_operation() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source/file"), "content").unwrap();
    let json = place
        .run(["demo", "--json", "--pool", "demo.pool", "source"])
        .json();
    for cost in json["fences"].as_array().unwrap() {
        let fences = cost["fences"].as_f64().unwrap();
        // Checkpoints add two now and then.
        let allowed = match cost["operation"].as_str().unwrap() {
            "read 4 KiB" => 0.0..=0.0,
            "append 4 KiB" => 2.0..=2.1,
            _ => 1.0..=1.1,
        };
        assert!(allowed.contains(&fences), "{cost}");
    }
    assert!(json["promised"].as_u64().unwrap() >= 2000, "{json}");
}

#[test]
fn demo_refuses_a_file_that_exists_and_a_source_that_does_not() {
    let place = Place::new();
    fs::write(place.path("precious"), "content").unwrap();
    place
        .run(["demo", "--pool", "precious", "."])
        .fails_with(&["precious", "exists"]);
    assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "content");
    place
        .run(["demo", "--pool", "new", "missing"])
        .fails_with(&["missing"]);
    assert!(!place.path("new").exists());
}

#[test]
fn bench_measures_every_operation() {
    let place = Place::new();
    let json = place
        .run([
            "bench",
            "--json",
            "--directory",
            ".",
            "--batches",
            "3",
            "--files",
            "100",
        ])
        .json();
    let operations = json["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 9);
    for row in operations {
        assert!(row["median_ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["reference_median_ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(json["mount"]["files"], 100);
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 0);
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let place = Place::new();
    let mut bench = place
        .command()
        .args(["bench", "--directory", ".", "--batches", "1000000"])
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    while fs::read_dir(place.path("")).unwrap().count() == 0 {
        assert!(begin.elapsed().as_secs() < 60, "no file has come");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&bench);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = bench.wait().unwrap();
    assert_eq!(status.signal(), Some(2), "{status}");
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 0);
}
