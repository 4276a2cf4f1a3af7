//! fsx: random operations on one file, each read compared with what was written.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::Command;

use udax_test_posix::{Mounted, is_long, program, run};

/// Operations of the run without mappings, and of each long run.
const OPERATIONS: u32 = 100_000;
/// Of others, which are slow as mappings are written back all the time, or the file is synced.
const FEWER_OPERATIONS: u32 = 20_000;
const SEED: u32 = 20_261_121;

fn fewer() -> u32 {
    match is_long() {
        true => OPERATIONS,
        false => FEWER_OPERATIONS,
    }
}

fn exercise(options: &str, operations: u32, configuration: &str) {
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
    let output = run(&mut suite).unwrap();
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
    exercise(
        "",
        fewer(),
        "[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
         posix_fallocate = 3\npunch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n",
    );
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
    exercise(
        "dax=never,cache=4",
        fewer(),
        "[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
         posix_fallocate = 3\npunch_hole = 5\nsendfile = 5\nposix_fadvise = 1\ncopy_file_range = 5\n",
    );
}
