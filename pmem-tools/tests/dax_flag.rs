//! The DAX flag of files and directories, from the command line; what is on a mount needs root and /dev/fuse.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

mod command;
#[expect(dead_code, reason = "other tests use the rest")]
mod mounted;

use std::fs;
use std::path::Path;

use command::Place;
use mounted::Mounts;

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

#[test]
fn only_files_and_directories_of_a_mounted_pool_are_switched() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount("dax=inode").success();
    let (fifo, device) = (mounts.path("fifo"), mounts.path("device"));
    for (path, kind, number) in [
        (&fifo, rustix::fs::FileType::Fifo, 0),
        (
            &device,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::makedev(1, 3),
        ),
    ] {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, number).unwrap();
    }
    fs::create_dir(mounts.path("x:")).unwrap();
    fs::write(mounts.path("x"), b"beside it").unwrap();
    fs::write(mounts.path("x:/f"), b"bytes").unwrap();
    fs::write(mounts.place.path("outside"), b"bytes").unwrap();
    let run = |change: &[&str], path: &Path| {
        let path = path.to_str().unwrap();
        mounts.place.run([change, &[path]].concat())
    };
    for change in [["attr", "+dax"].as_slice(), &["tier", "--to", "dax"]] {
        for path in [&fifo, &device] {
            run(change, path).fails_with(&["only files and directories"]);
        }
        run(change, &mounts.path("x:/f")).success();
        run(change, &mounts.path("x")).success();
    }
    run(&["attr", "-dax"], &mounts.path("x:")).success();
    let flags = |name: &str| {
        let file = fs::File::open(mounts.path(name)).unwrap();
        rustix::fs::ioctl_getflags(&file).unwrap().bits() & 0x0200_0000
    };
    assert!(flags("x") != 0 && flags("x:/f") != 0 && flags("x:") == 0);
    run(&["tier", "--to", "dax"], &mounts.place.path("outside")).fails_with(&["not on a mounted pool"]);
    run(&["stat"], &mounts.path("x")).fails_with(&["no pool, but a file on a mounted one"]);
    run(&["stat"], &fifo).fails_with(&["neither a regular file"]);
    mounts.umount().success();
}

#[test]
fn a_move_on_a_mount_goes_on_where_it_found_no_space() {
    const MIB: usize = 1 << 20;
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    fs::File::create(place.path("device"))
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    place
        .run(["mkfs", "--force", "--size", "64M", "--data", "device", "pool"])
        .success();
    mounts.mount("rw").success();
    fs::create_dir(mounts.path("d")).unwrap();
    let path = |name: &str| mounts.path(name).to_str().unwrap().to_owned();
    place.run(["attr", "+dax", &path("d")]).success();
    fs::write(mounts.path("filler"), vec![1; 22 * MIB]).unwrap();
    let content: Vec<u8> = (0..16 * MIB)
        .map(|at| (at / 4096 % 251).to_le_bytes()[0])
        .collect();
    fs::write(mounts.path("d/big"), &content).unwrap();
    fs::File::open(mounts.path("filler")).unwrap().sync_all().unwrap();
    let used = || {
        let space = &place.run(["stats", "--json", "mnt"]).json()["space"];
        space["total_bytes"].as_u64().unwrap() - space["free_bytes"].as_u64().unwrap()
    };
    let before = used();
    place
        .run(["tier", "--to", "data", &path("d/big")])
        .fails_with(&["d/big", "No space"]);
    fs::remove_file(mounts.path("filler")).unwrap();
    place.run(["tier", "--to", "data", &path("d/big")]).success();
    let after = used();
    assert!(
        after + (15 << 20) < before,
        "{before} bytes were used, {after} are"
    );
    assert_eq!(fs::read(mounts.path("d/big")).unwrap(), content);
    mounts.umount().success();
    let told = place.run(["fsck", "pool"]).success();
    assert!(
        told.contains("the data device") && told.contains("is there"),
        "{told}"
    );
    fs::rename(place.path("device"), place.path("moved")).unwrap();
    let told = place.run(["fsck", "pool"]).status(4);
    assert!(told.contains("cannot be mounted without"), "{told}");
    place.run(["fsck", "--data-device", "moved", "pool"]).success();
}
