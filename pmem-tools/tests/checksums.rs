//! Checksums of data, from the command line.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

mod command;

use std::fs;

use command::Place;

/// A byte of the only block that holds these bytes changes.
fn change(place: &Place, bytes: &[u8]) {
    let mut pool = fs::read(place.path("pool")).unwrap();
    let mut found = pool
        .chunks(4096)
        .enumerate()
        .filter(|(_, block)| block.starts_with(bytes))
        .map(|(index, _)| index * 4096);
    let at = found.next().unwrap();
    assert_eq!(found.next(), None);
    pool[at] ^= 1;
    fs::write(place.path("pool"), pool).unwrap();
}

/// That what helps is told, and a repair, which does not, is not.
#[track_caller]
fn is_advice(told: &str) {
    assert!(told.contains("udax attr -checksum"), "{told}");
    assert!(!told.contains("fsck -y"), "{told}");
}

#[test]
fn changed_data_is_an_error_until_its_checksums_are_taken_away() {
    let place = Place::new();
    let made = place
        .run(["mkfs", "--size", "16M", "--data-checksum", "pool"])
        .success();
    assert!(made.contains("with checksums of data"), "{made}");
    let mut bytes = vec![7; 8192];
    bytes.extend([9; 5000]);
    fs::write(place.path("file"), &bytes).unwrap();
    place.run(["mkdir", "pool:/d"]).success();
    place.run(["put", "file", "pool:/d"]).success();
    assert_eq!(
        place.run(["info", "--json", "pool"]).json()["data_checksums"],
        true
    );
    for path in ["pool:/d", "pool:/d/file"] {
        assert_eq!(
            place.run(["stat", "--json", path]).json()["checksums"],
            true,
            "{path}"
        );
        assert!(
            place.run(["stat", path]).success().contains("Checksums"),
            "{path}"
        );
    }
    let scrubbed = place.run(["scrub", "--json", "pool"]).json();
    assert_eq!(
        (&scrubbed["verified_bytes"], &scrubbed["unverified_bytes"]),
        (&16384.into(), &0.into())
    );
    place.run(["fsck", "--data", "pool"]).success();

    change(&place, &[9; 4096]);
    place.run(["cat", "pool:/d/file"]).fails_with(&[
        "wrong data",
        "bytes 8192",
        "fsck --data",
        "attr -checksum",
    ]);
    // Only who asks for it reads the data.
    place.run(["fsck", "pool"]).success();
    for arguments in [["fsck", "--data", "-n", "pool"], ["fsck", "--data", "-y", "pool"]] {
        let told = place.run(arguments).status(4);
        assert!(
            told.contains("bytes 8192+4096") && told.contains("/d/file"),
            "{told}"
        );
        is_advice(&told);
    }
    let told = place.run(["scrub", "pool"]).status(4);
    assert!(told.contains("/d/file"), "{told}");
    is_advice(&told);

    place.run(["attr", "-checksum", "pool:/d/file"]).success();
    assert_eq!(
        place.run(["stat", "--json", "pool:/d/file"]).json()["checksums"],
        false
    );
    place.run(["get", "pool:/d/file", "back"]).success();
    bytes[8192] ^= 1;
    assert_eq!(fs::read(place.path("back")).unwrap(), bytes);
    place.run(["attr", "+checksum", "pool:/d/file"]).success();
    place.run(["fsck", "--data", "pool"]).success();
    place.run(["cat", "pool:/d/file"]).success();
    place.run(["attr", "+nothing", "pool:/d/file"]).status(2);
}

#[test]
fn a_pool_without_room_for_checksums_says_so() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "pool:/d"]).success();
    place
        .run(["attr", "+checksum", "pool:/d"])
        .fails_with(&["without room for checksums"]);
    assert_eq!(
        place.run(["stat", "--json", "pool:/d"]).json()["checksums"],
        false
    );
}
