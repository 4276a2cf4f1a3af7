//! tar and rsync, from a mount and to it: nothing of an odd tree is lost, down to holes and nanoseconds.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../../pmem-tools/tests/odd_tree/mod.rs"]
mod odd_tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use udax_test_posix::bounded::succeed;
use udax_test_posix::{Daemon, installed};

const LIMIT: Duration = Duration::from_secs(120);
/// Data and holes of the file with many of both.
const STRIPES: u64 = 50;

/// Everything odd, and a file with many holes, at its end too.
fn make(top: &Path) {
    odd_tree::make(top);
    let stripes = File::create_new(top.join("stripes")).unwrap();
    for at in 0..STRIPES {
        // None of them is of whole blocks, and each has other holes beside it.
        let bytes = vec![b'x'; 3000 + 100 * usize::try_from(at).unwrap()];
        stripes.write_all_at(&bytes, at * at * 8192).unwrap();
    }
    stripes.set_len((STRIPES + 1) * STRIPES * 8192).unwrap();
}

/// Where the files below `top` have data, as `SEEK_DATA` and `SEEK_HOLE` tell.
fn holes(top: &Path) -> BTreeMap<PathBuf, Vec<(u64, u64)>> {
    let mut maps = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = top.join(&relative);
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            let children = fs::read_dir(&path).unwrap();
            open.extend(children.map(|child| relative.join(child.unwrap().file_name())));
        } else if found.is_file() && found.size() > 0 {
            maps.insert(relative, map(&File::open(&path).unwrap()));
        }
    }
    maps
}

fn map(file: &File) -> Vec<(u64, u64)> {
    let mut map = Vec::new();
    let mut at = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(data) => {
                at = seek(file, SeekFrom::Hole(data)).unwrap();
                map.push((data, at));
            }
            Err(Errno::NXIO) => return map,
            Err(error) => panic!("SEEK_DATA: {error}"),
        }
    }
}

/// A tree and what a copy of it must have. Sockets are dropped: tar leaves them out.
struct Original {
    facts: BTreeMap<PathBuf, odd_tree::Facts>,
    holes: BTreeMap<PathBuf, Vec<(u64, u64)>>,
}

impl Original {
    fn of(top: &Path) -> Self {
        Self {
            facts: odd_tree::snapshot(top),
            holes: holes(top),
        }
    }

    #[track_caller]
    fn assert_copied(&self, copy: &Path) {
        odd_tree::assert_same(&self.facts, &odd_tree::snapshot(copy));
        for (path, map) in holes(copy) {
            assert_eq!(self.holes.get(&path), Some(&map), "holes of {path:?} in {copy:?}");
        }
    }
}

/// Makes the tree on the mount, without its socket, whose time tar could not bring back.
fn start(daemon: &Daemon) -> Original {
    let top = daemon.path().join("tree");
    make(&top);
    let time = fs::symlink_metadata(&top).unwrap();
    fs::remove_file(top.join("socket")).unwrap();
    let times = fs::FileTimes::new().set_modified(time.modified().unwrap());
    File::open(&top).unwrap().set_times(times).unwrap();
    Original::of(&top)
}

fn tar_there_and_back(options: &str) {
    let Some(tar) = installed("tar") else { return };
    let Some(daemon) = Daemon::new("256M", &[], options).unwrap() else {
        return;
    };
    let original = start(&daemon);
    for format in ["posix", "gnu"] {
        let archive = daemon.path().join("archive");
        let copy = daemon.path().join(format);
        fs::create_dir(&copy).unwrap();
        let mut pack = Command::new(&tar);
        pack.args(["--create", "--sparse", "--hole-detection=seek", "--numeric-owner"]);
        // The other format has neither attributes nor parts of seconds.
        if format == "posix" {
            pack.args(["--xattrs", "--xattrs-include=*", "--acls"]);
        }
        pack.arg(format!("--format={format}"));
        pack.arg("-f")
            .arg(&archive)
            .arg("-C")
            .arg(daemon.path())
            .arg("tree");
        succeed(&mut pack, LIMIT).unwrap();
        let mut compare = Command::new(&tar);
        compare.args(["--compare", "--numeric-owner", "-f"]).arg(&archive);
        compare.arg("-C").arg(daemon.path());
        succeed(&mut compare, LIMIT).unwrap();
        if format == "posix" {
            let mut unpack = Command::new(&tar);
            unpack.args(["--extract", "--sparse", "--same-permissions", "--numeric-owner"]);
            unpack.args(["--xattrs", "--xattrs-include=*", "--acls"]);
            unpack.arg("-f").arg(&archive).arg("-C").arg(&copy);
            succeed(&mut unpack, LIMIT).unwrap();
            original.assert_copied(&copy.join("tree"));
        }
        fs::remove_file(&archive).unwrap();
    }
    daemon.finish().unwrap();
}

#[test]
fn tar_brings_everything_back() {
    tar_there_and_back("");
}

#[test]
fn tar_brings_everything_back_without_dax() {
    tar_there_and_back("dax=never,cache=4");
}

#[test]
fn rsync_brings_everything_back() {
    let Some(rsync) = installed("rsync") else { return };
    let Some(mut daemon) = Daemon::new("256M", &[], "").unwrap() else {
        return;
    };
    let original = start(&daemon);
    let run = |flags: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new(&rsync);
        // Times are compared to the nanosecond; by itself rsync looks at seconds.
        command.args(flags).args(["--numeric-ids", "--modify-window=-1"]);
        command.arg(from.join("")).arg(to.join(""));
        succeed(&mut command, LIMIT).unwrap()
    };
    let tree = daemon.path().join("tree");
    let copy = daemon.path().join("copy");
    let beside = daemon.beside().join("beside");
    let back = daemon.path().join("back");
    run(&["-aHAXS"], &tree, &copy);
    original.assert_copied(&copy);
    // To the kernel's own filesystem and back. Some have no attributes: then the way back has none either.
    if has_attributes(daemon.beside()) {
        run(&["-aHAXS"], &tree, &beside);
        run(&["-aHAXS"], &beside, &back);
        original.assert_copied(&back);
    } else {
        eprintln!("nothing beside the mount has attributes: rsync was run on the mount only");
    }
    daemon.kill().unwrap();
    daemon.mount().unwrap();
    for other in [copy, back].iter().filter(|other| other.exists()) {
        let differs = run(&["-aHAXnc", "--delete", "--itemize-changes"], &tree, other);
        assert_eq!(differs, "", "after a crash");
    }
    daemon.finish().unwrap();
}

fn has_attributes(directory: &Path) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(directory, "user.test", b"x", flags).is_ok()
}
