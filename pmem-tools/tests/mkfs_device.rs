//! Making pools with data devices that cannot be: what is there stays as it is.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest")]
mod command;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use command::Place;

const MIB: u64 = 1 << 20;

/// A file of zeros with a word far behind its start.
fn file(place: &Place, name: &str, bytes: u64) {
    let file = File::create(place.path(name)).unwrap();
    file.set_len(bytes).unwrap();
    file.write_all_at(b"hello", bytes / 10 * 9).unwrap();
}

fn is_whole(place: &Place, name: &str, bytes: u64) {
    let file = File::open(place.path(name)).unwrap();
    let mut word = [0; 5];
    file.read_exact_at(&mut word, bytes / 10 * 9).unwrap();
    assert_eq!((file.metadata().unwrap().len(), &word), (bytes, b"hello"));
}

#[test]
fn what_cannot_be_made_with_a_device_leaves_the_pools_file_as_it_is() {
    let place = Place::new();
    file(&place, "pool", 100 * MIB);
    fs::write(place.path("small"), [0; 8192]).unwrap();
    let refused = |data: &str, words: &[&str]| {
        let make = ["mkfs", "--force", "--size", "64M", "--data", data, "pool"];
        place.run(make).fails_with(words);
        is_whole(&place, "pool", 100 * MIB);
    };
    refused("missing", &["missing", "No such file"]);
    refused("small", &["small", "8192 bytes", "1 MiB"]);
    refused("pool", &["the data device is the pool itself"]);
    // A new one is not there afterwards.
    place
        .run(["mkfs", "--size", "64M", "--data", "missing", "new"])
        .fails_with(&["missing"]);
    assert!(!place.path("new").exists());
}

#[test]
fn a_data_device_that_is_given_as_a_pool_is_told_as_what_it_is() {
    let place = Place::new();
    File::create(place.path("device"))
        .unwrap()
        .set_len(8 * MIB)
        .unwrap();
    place
        .run(["mkfs", "--size", "16M", "--data", "device", "pool"])
        .success();
    for command in ["info", "fsck", "ls"] {
        let what = if command == "ls" { "device:/" } else { "device" };
        place
            .run([command, what])
            .fails_with(&["is the data device of a pool"]);
    }
}
