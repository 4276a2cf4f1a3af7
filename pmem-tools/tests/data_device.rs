//! Data devices that cannot be used, and that cannot be written: what is there stays as it is, and is told.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

mod command;
#[expect(dead_code, reason = "other tests use the rest")]
mod mounted;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use command::Place;
use mounted::{FAILED, Mounts};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

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
    for command in ["info", "ls"] {
        let what = if command == "ls" { "device:/" } else { "device" };
        place
            .run([command, what])
            .fails_with(&["is the data device of a pool"]);
    }
    let checked = place.run(["fsck", "device"]);
    checked.status(8);
    assert!(checked.stderr().contains("is the data device of a pool"));
}

#[test]
fn a_check_tells_of_damaged_headers_of_the_data_device_and_mends_them() {
    let place = Place::new();
    let device = place.path("device");
    File::create(&device).unwrap().set_len(8 * MIB).unwrap();
    place
        .run(["mkfs", "--size", "16M", "--data", "device", "pool"])
        .success();
    let damage = |at: u64| {
        let file = File::options().write(true).open(&device).unwrap();
        file.write_all_at(&[0xA5; 4096], at).unwrap();
    };
    let last = 8 * MIB - 4096;
    damage(last);
    let told = place.run(["fsck", "pool"]).status(4);
    let place_of_it = format!("device, byte {last}: one of the device's two headers is damaged");
    assert!(
        told.contains(&place_of_it) && told.contains("'udax fsck -y'"),
        "{told}"
    );
    let report = place.run(["fsck", "--json", "pool"]).json();
    assert_eq!(
        (&report["status"], &report["problems"][0]["has_remedy"]),
        (&4.into(), &true.into())
    );
    let told = place.run(["fsck", "-y", "pool"]).status(1);
    assert!(
        told.contains("written anew") && told.contains("1 error, all mended"),
        "{told}"
    );
    place.run(["fsck", "pool"]).success();
    damage(0);
    damage(last);
    let told = place.run(["fsck", "-y", "pool"]).status(4);
    assert!(told.contains("both of its headers"), "{told}");
    let told = place
        .run(["fsck", "-y", "--data-device", "device", "pool"])
        .status(1);
    assert!(told.contains("2 errors, all mended"), "{told}");
    place.run(["fsck", "pool"]).success();
    place.run(["mkfs", "--size", "16M", "plain"]).success();
    let refused = place.run(["fsck", "--data-device", "device", "plain"]);
    refused.status(8);
    assert!(
        refused.stderr().contains("no data device"),
        "{}",
        refused.stderr()
    );
}

/// A small filesystem in memory, gone at the end.
struct Small(std::path::PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_pool_that_cannot_be_written_stays_mounted_and_nothing_is_lost() {
    let Some(mounts) = Mounts::new() else { return };
    let small = mounts.place.path("small");
    fs::create_dir(&small).unwrap();
    mount("none", &small, "tmpfs", MountFlags::empty(), Some(c"size=12m")).unwrap();
    let small = Small(small);
    // Of which most is nowhere yet.
    let device = File::create(small.0.join("device")).unwrap();
    device.set_len(64 * MIB).unwrap();
    let make = ["mkfs", "--force", "--data", "small/device", "pool"];
    mounts.place.run(make).success();
    mounts.mount("dax=inode").success();
    fs::write(mounts.path("before"), vec![1; 1 << 20]).unwrap();
    let filler = small.0.join("filler");
    let mut filling = File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut filling, &[0; 1 << 16]).is_ok() {}
    let bytes = vec![2; 4 << 20];
    fs::write(mounts.path("f"), &bytes).unwrap();
    let refused = mounts.umount();
    refused.status(FAILED);
    assert!(
        refused.stderr().contains("not all can be written"),
        "{}",
        refused.stderr()
    );
    assert!(mounts.line().is_some());
    fs::remove_file(&filler).unwrap();
    drop(filling);
    mounts.umount().success();
    mounts.mount("dax=inode").success();
    assert!(fs::read(mounts.path("f")).unwrap() == bytes);
    assert!(fs::read(mounts.path("before")).unwrap() == vec![1; 1 << 20]);
    mounts.umount().success();
}
