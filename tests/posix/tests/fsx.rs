//! fsx: random operations on one file, each read compared with what was written.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_setflags};
use udax_test_posix::{Mounted, is_long, program, run};

/// Operations of the run without mappings, and of each long run.
const OPERATIONS: u32 = 100_000;
/// Of others, which are slow as mappings are written back all the time, or the file is synced.
const FEWER_OPERATIONS: u32 = 20_000;
const SEED: u32 = 20_261_121;
/// All that a mount takes.
const EVERYTHING: &str = "[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
    posix_fallocate = 3\npunch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n";

fn fewer() -> u32 {
    match is_long() {
        true => OPERATIONS,
        false => FEWER_OPERATIONS,
    }
}

fn exercise(options: &str, operations: u32, configuration: &str) {
    exercise_beside(options, operations, configuration, |_, _| ());
}

/// As `exercise`, beside something that is done to the file until it is told that fsx is done.
fn exercise_beside(
    options: &str,
    operations: u32,
    configuration: &str,
    beside: impl FnOnce(&Path, &AtomicBool) + Send,
) {
    let Some(program) = program("fsx") else { return };
    let Some(mounted) = Mounted::new(128 << 20, options).unwrap() else {
        return;
    };
    let file = mounted.beside().join("fsx.toml");
    std::fs::write(&file, configuration).unwrap();
    let mut suite = Command::new(program);
    suite
        .arg("-f")
        .arg(&file)
        .args(["-N", &operations.to_string(), "-S", &SEED.to_string()])
        .arg("-P")
        .arg(mounted.beside())
        .arg(mounted.path().join("file"));
    let is_done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| beside(&mounted.path().join("file"), &is_done));
        let output = run(&mut suite);
        is_done.store(true, Ordering::Relaxed);
        output
    })
    .unwrap();
    assert!(
        output.status.success(),
        "seed {SEED}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    mounted.finish().unwrap();
}

#[test]
fn reads_and_writes_without_mappings() {
    exercise(
        "",
        OPERATIONS,
        "[weights]\nmapread = 0\nmapwrite = 0\nclose_open = 1\nfsync = 1\nfdatasync = 1\n\
         posix_fallocate = 3\npunch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n",
    );
}

#[test]
fn reads_and_writes_with_mappings() {
    exercise("", fewer(), EVERYTHING);
}

#[test]
fn mappings_that_are_not_synced() {
    exercise(
        "",
        fewer(),
        "nomsyncafterwrite = true\nflen = 1048576\n[weights]\npunch_hole = 5\ncopy_file_range = 5\n",
    );
}

#[test]
fn files_without_dax() {
    exercise("dax=never,cache=4", fewer(), EVERYTHING);
}

/// Gives the file the DAX flag and takes it away, in turn: `FS_DAX_FL` of ioctl_iflags(2).
fn switch(path: &Path, is_done: &AtomicBool) {
    const DAX: IFlags = IFlags::from_bits_retain(0x0200_0000);
    let (mut switches, mut flags) = (0, DAX);
    while !is_done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
        // It is there as soon as fsx has begun.
        if let Ok(file) = File::open(path) {
            ioctl_setflags(&file, flags).unwrap();
            flags.toggle(DAX);
            switches += 1;
        }
    }
    println!("switched {switches} times");
    assert!(switches > 20, "switched {switches} times");
}

#[test]
fn mappings_of_a_file_that_is_switched_between_dax_and_the_page_cache() {
    exercise_beside("dax=inode,cache=4", fewer(), EVERYTHING, switch);
}
