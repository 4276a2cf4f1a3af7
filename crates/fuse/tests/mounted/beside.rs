//! Changes that are made by the library, beside the mount: the kernel is told of them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use udax::{InodeNo, NewInode, OpenFlags, SetAttributes};

use crate::place::Place;

const ROOT: InodeNo = InodeNo(1);

fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.path("")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_the_kernel_is_told_of_it_asks_for_anew() {
    let Some(place) = Place::new() else { return };
    let (filesystem, kernel) = (place.filesystem(), place.invalidator());
    fs::write(place.path("f"), b"old").unwrap();
    fs::write(place.path("gone"), b"").unwrap();
    // All of it is remembered now: also that there is no `new`.
    assert_eq!(names(&place), ["f", "gone"]);
    assert_eq!(fs::read(place.path("f")).unwrap(), b"old");
    assert_eq!(
        fs::metadata(place.path("new")).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let flags = OpenFlags::WRITE | OpenFlags::CREATE;
    let open = |name: &str| {
        let new = NewInode::with_permissions(0o640);
        filesystem.open_file(name, flags, new).unwrap()
    };
    let file = open("f");
    file.truncate(0).unwrap();
    file.write_at(b"longer than before", 0).unwrap();
    kernel.content(file.stat().unwrap().ino, 0..u64::MAX).unwrap();
    assert_eq!(fs::read(place.path("f")).unwrap(), b"longer than before");

    let set = SetAttributes {
        permissions: Some(0o400),
        ..SetAttributes::default()
    };
    let ino = file.set_attributes(set).unwrap().ino;
    kernel.attributes(ino).unwrap();
    let metadata = fs::metadata(place.path("f")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o400);
    drop(file);

    let new = open("new").stat().unwrap().ino;
    assert!(
        !place.path("new").exists(),
        "it is not remembered, and nothing is shown here"
    );
    kernel.entry(ROOT, b"new").unwrap();
    assert_eq!(fs::metadata(place.path("new")).unwrap().ino(), new.raw());
    filesystem.unlink("gone").unwrap();
    kernel.entry(ROOT, b"gone").unwrap();
    assert!(!place.path("gone").exists());
    assert_eq!(names(&place), ["f", "new"]);
    // Of what it does not remember it need not be told.
    kernel.entry(ROOT, b"never").unwrap();
    kernel.content(InodeNo(4711), 0..1).unwrap();
}
