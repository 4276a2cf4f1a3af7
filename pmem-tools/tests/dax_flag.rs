//! The DAX flag of files and directories, from the command line.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

mod command;

use std::fs;

use command::Place;

#[test]
fn the_flag_is_set_cleared_inherited_and_shown() {
    let place = Place::with_pool("16M");
    fs::write(place.path("file"), b"bytes").unwrap();
    place.run(["mkdir", "pool:/d"]).success();
    let flag = |path: &str| {
        place.run(["stat", "--json", path]).json()["dax"]
            .as_bool()
            .unwrap()
    };
    assert!(!flag("pool:/d"));
    place.run(["attr", "+dax", "pool:/d"]).success();
    place.run(["put", "file", "pool:/d"]).success();
    assert!(flag("pool:/d") && flag("pool:/d/file"));
    place.run(["attr", "-dax", "pool:/d/file"]).success();
    assert!(!flag("pool:/d/file"));
    assert!(place.run(["stat", "pool:/d"]).success().contains("DAX flag"));
    place.run(["fsck", "pool"]).success();
    place
        .run(["attr", "+dax", "pool:/none"])
        .fails_with(&["pool:/none", "no such file"]);
}
