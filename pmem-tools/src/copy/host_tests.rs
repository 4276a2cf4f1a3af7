//! Copies between two directories of the host: the engine and the host side, without a pool.

use std::fs;
use std::path::Path;

use super::tree::{Target as _, Thing};
use super::{Host, Plan, Root, Summary, Tally, compare, copy};
use crate::progress::Progress;

#[path = "../../tests/odd_tree/mod.rs"]
mod odd_tree;

struct Dirs {
    _keep: tempfile::TempDir,
    from: std::path::PathBuf,
    to: std::path::PathBuf,
}

fn dirs() -> Dirs {
    let keep = tempfile::tempdir().unwrap();
    Dirs {
        from: keep.path().join("from"),
        to: keep.path().join("to"),
        _keep: keep,
    }
}

fn plan(dirs: &Dirs, limit: u64) -> (Host, Plan) {
    let host = Host::beside(Path::new("/nonexistent"));
    let root = Root {
        source: dirs.from.clone(),
        target: dirs.to.clone(),
    };
    let tally = Tally::new(Progress::hidden());
    let plan = Plan::collect(&host, vec![root], limit, &tally);
    assert_eq!(tally.finish().failed, 0);
    (host, plan)
}

fn copy_all(dirs: &Dirs) -> Summary {
    let (host, plan) = plan(dirs, u64::MAX);
    let tally = Tally::new(Progress::hidden());
    copy(&host, &host, &plan, 3, &tally);
    tally.finish()
}

#[test]
fn everything_odd_survives_a_copy() {
    let dirs = dirs();
    odd_tree::make(&dirs.from);
    let summary = copy_all(&dirs);
    assert_eq!(summary.failed, 0, "{}", summary.sentence());
    odd_tree::assert_access_times(&dirs.to);
    odd_tree::assert_same(&odd_tree::snapshot(&dirs.from), &odd_tree::snapshot(&dirs.to));
}

#[test]
fn a_second_copy_replaces_the_first() {
    let dirs = dirs();
    odd_tree::make(&dirs.from);
    let wanted = odd_tree::snapshot(&dirs.from);
    assert_eq!(copy_all(&dirs).failed, 0);
    fs::write(dirs.to.join("one byte"), b"changed meanwhile").unwrap();
    let (host, plan) = plan(&dirs, u64::MAX);
    let tally = Tally::new(Progress::hidden());
    copy(&host, &host, &plan, 3, &tally);
    assert_eq!(tally.finish().failed, 0);
    let found = odd_tree::snapshot(&dirs.to);
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn one_failure_does_not_stop_the_others() {
    let dirs = dirs();
    fs::create_dir_all(dirs.from.join("a/b")).unwrap();
    fs::write(dirs.from.join("a/b/lost"), b"1").unwrap();
    fs::write(dirs.from.join("z"), b"2").unwrap();
    fs::create_dir(&dirs.to).unwrap();
    fs::write(dirs.to.join("a"), b"a file where a directory must be").unwrap();
    let summary = copy_all(&dirs);
    assert_eq!(summary.failed, 1, "{}", summary.sentence());
    assert_eq!(fs::read(dirs.to.join("z")).unwrap(), b"2");
}

#[test]
fn compare_finds_a_changed_byte_and_a_missing_file() {
    let dirs = dirs();
    odd_tree::make(&dirs.from);
    assert_eq!(copy_all(&dirs).failed, 0);
    let (host, plan) = plan(&dirs, u64::MAX);
    let differences = |expected: u64| {
        let tally = Tally::new(Progress::hidden());
        compare(&host, &host, &plan, 2, &tally);
        let summary = tally.finish();
        assert_eq!(summary.failed, expected, "{}", summary.sentence());
    };
    differences(0);
    fs::remove_file(dirs.to.join("empty")).unwrap();
    // The directory's own time changes with the name.
    differences(2);
    let path = dirs.to.join("large");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::open(&path).unwrap().set_modified(mtime).unwrap();
    differences(3);
}

#[test]
fn a_limit_leaves_out_files_but_no_directory() {
    let dirs = dirs();
    odd_tree::make(&dirs.from);
    let (_, everything) = plan(&dirs, u64::MAX);
    let (_, limited) = plan(&dirs, 100_000);
    assert!(limited.bytes <= 100_000);
    assert!(limited.items.len() < everything.items.len());
    let directories = |plan: &Plan| {
        let items = plan.items.iter();
        items
            .filter(|item| item.attributes.kind == udax::FileKind::Directory)
            .count()
    };
    assert_eq!(directories(&limited), directories(&everything));
}

#[test]
fn the_pool_is_neither_copied_nor_replaced() {
    let dirs = dirs();
    fs::create_dir(&dirs.from).unwrap();
    let pool = dirs.from.join("pool");
    fs::write(&pool, b"precious").unwrap();
    let host = Host::beside(&pool);
    let root = Root {
        source: dirs.from.clone(),
        target: dirs.to.clone(),
    };
    let tally = Tally::new(Progress::hidden());
    let plan = Plan::collect(&host, vec![root], u64::MAX, &tally);
    assert_eq!(tally.finish().failed, 1);
    assert_eq!(plan.items.len(), 1);
    let new = host.create(&pool, Thing::File).unwrap();
    assert!(host.publish(new, &pool).is_err());
    assert_eq!(fs::read_dir(&dirs.from).unwrap().count(), 1, "only the pool");
    assert_eq!(fs::read(&pool).unwrap(), b"precious");
}
