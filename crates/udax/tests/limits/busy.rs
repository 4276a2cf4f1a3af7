//! A pool that is open is refused to others, who are told who has it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use udax::{Error, Filesystem, FormatOptions, MountOptions};
use udax_pmem::RegionError;

use crate::pool::{MIB, TestPool};

/// Tells the child that it is one, and its pool.
const POOL_OF_CHILD: &str = "UDAX_TEST_POOL";

#[track_caller]
fn assert_refused(error: &Error, pid: u32) {
    assert_eq!(error.errno(), Errno::EBUSY);
    let Error::Region(RegionError::Busy { .. }) = error else {
        panic!("{error}");
    };
    let told = error.to_string();
    assert!(told.contains(&format!("process {pid} ")), "{told}");
    assert!(told.contains("test.pool"), "{told}");
}

#[test]
fn a_pool_open_in_this_process_is_refused() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let read_only = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    for options in [MountOptions::default(), read_only] {
        let error = Filesystem::open(&pool.path, &options).unwrap_err();
        assert_refused(&error, std::process::id());
    }
    let force = FormatOptions {
        size: Some(16 * MIB),
        force: true,
        ..FormatOptions::default()
    };
    let error = Filesystem::format(&pool.path, &force).unwrap_err();
    assert_refused(&error, std::process::id());
    fs.close().unwrap();
    pool.open().close().unwrap();
}

#[test]
#[ignore = "the other process of the next test, which runs it"]
fn other_process() {
    let Ok(path) = std::env::var(POOL_OF_CHILD) else {
        return;
    };
    let _fs = Filesystem::open(path.as_ref(), &MountOptions::default()).unwrap();
    println!("open");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[test]
fn a_pool_open_in_another_process_is_refused_until_that_ends() {
    let pool = TestPool::new(16 * MIB);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "busy::other_process", "--ignored", "--nocapture"])
        .env(POOL_OF_CHILD, &pool.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines();
    assert!(lines.any(|line| line.unwrap().ends_with("open")));
    let error = Filesystem::open(&pool.path, &MountOptions::default()).unwrap_err();
    assert_refused(&error, child.id());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    pool.open().close().unwrap();
    pool.check();
}
