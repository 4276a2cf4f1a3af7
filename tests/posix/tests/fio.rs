//! fio on a mount: random writes of several jobs, each block with a checksum that is verified afterwards, in all the
//! ways in which Linux programs reach a file.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use udax_test_posix::bounded::{run, succeed};
use udax_test_posix::{Daemon, installed, is_long};

const LIMIT: Duration = Duration::from_secs(400);
const SEED: &str = "20261121";
const ENGINES: [&str; 4] = ["psync", "mmap", "io_uring", "libaio"];

/// One way to write and to read.
#[derive(Clone, Copy, Debug)]
struct Way<'w> {
    engine: &'w str,
    direct: &'w str,
}

/// fio's command line for `way` in `directory`.
fn command(program: &Path, directory: &Path, way: Way<'_>) -> Command {
    let mut command = Command::new(program);
    let size = if is_long() { "256M" } else { "8M" };
    let settings = [
        ("name", format!("{}-{}", way.engine, way.direct)),
        ("ioengine", way.engine.to_owned()),
        ("direct", way.direct.to_owned()),
        ("rw", "randwrite".to_owned()),
        // Blocks of 512 bytes would be refused by the way past the cache, as on any disk of 4 KiB.
        ("bsrange", "4k-128k".to_owned()),
        ("blockalign", "4k".to_owned()),
        ("size", size.to_owned()),
        ("iodepth", "16".to_owned()),
        ("numjobs", "3".to_owned()),
        ("verify", "crc32c".to_owned()),
        ("verify_fatal", "1".to_owned()),
        ("verify_backlog", "64".to_owned()),
        ("fsync", "200".to_owned()),
        ("randseed", SEED.to_owned()),
        ("loops", if is_long() { "8" } else { "1" }.to_owned()),
    ];
    for (name, value) in settings {
        command.arg(format!("--{name}={value}"));
    }
    command.arg("--group_reporting").current_dir(directory);
    command
}

/// The engines that work on the machine's own filesystem: containers may forbid some.
fn engines(program: &Path, beside: &Path) -> Vec<&'static str> {
    let works = |engine: &&str| {
        let mut probe = Command::new(program);
        probe.arg(format!("--ioengine={engine}")).current_dir(beside);
        probe.args(["--name=probe", "--rw=write", "--size=64k", "--bs=4k"]);
        let works = run(&mut probe, LIMIT).unwrap().status.success();
        if !works {
            eprintln!("skipped: {engine} works nowhere here");
        }
        works
    };
    ENGINES.into_iter().filter(works).collect()
}

fn program() -> Option<PathBuf> {
    installed("fio")
}

/// Three times a job's size, and room for what is copied on write.
fn pool_size() -> &'static str {
    if is_long() { "2G" } else { "128M" }
}

fn exercise(format: &[&str], options: &str, direct: &[&str]) {
    let Some(program) = program() else { return };
    let Some(daemon) = Daemon::new(pool_size(), format, options).unwrap() else {
        return;
    };
    for engine in engines(&program, daemon.beside()) {
        for direct in direct {
            // What is mapped is mapped past no cache.
            if engine == "mmap" && *direct == "1" {
                continue;
            }
            let way = Way { engine, direct };
            let directory = daemon.path().join("files");
            std::fs::create_dir(&directory).unwrap();
            succeed(&mut command(&program, &directory, way), LIMIT)
                .unwrap_or_else(|error| panic!("{way:?} {options}: {error:#}\n{}", daemon.told()));
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
    daemon.finish().unwrap();
}

#[test]
fn random_writes_are_read_back_in_every_way() {
    exercise(&[], "", &["0", "1"]);
}

#[test]
fn random_writes_of_files_with_checksums() {
    exercise(&["--data-checksum"], "", &["0", "1"]);
}

#[test]
fn random_writes_without_dax() {
    // Less memory for its pages than one file has bytes.
    exercise(&[], "dax=never,cache=4", &["0", "1"]);
}

/// Verified by another run of fio, after the daemon was killed: what was written was in the pool.
#[test]
fn a_killed_daemon_has_lost_no_block() {
    let Some(program) = program() else { return };
    let Some(mut daemon) = Daemon::new(pool_size(), &[], "").unwrap() else {
        return;
    };
    for engine in engines(&program, daemon.beside()) {
        let directory = daemon.path().join(engine);
        std::fs::create_dir(&directory).unwrap();
        let way = Way { engine, direct: "0" };
        let arguments = [
            "--loops=1",
            "--do_verify=0",
            "--verify_backlog=0",
            "--end_fsync=1",
        ];
        succeed(command(&program, &directory, way).args(arguments), LIMIT).unwrap();
        daemon.kill().unwrap();
        daemon.mount().unwrap();
        let arguments = ["--loops=1", "--verify_only=1", "--verify_backlog=0"];
        succeed(command(&program, &directory, way).args(arguments), LIMIT).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
    daemon.finish().unwrap();
}
