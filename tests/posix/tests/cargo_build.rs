//! cargo on a mount: sources, target folder and what is built are there; linkers and programs map their files from
//! it, and in a long run, which builds the whole workspace, so does the compiler with macros.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use udax_test_posix::bounded::succeed;
use udax_test_posix::{Daemon, installed, is_long};

const LIMIT: Duration = Duration::from_secs(1800);

/// Copies the sources of this workspace.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let (from, to) = (entry.path(), to.join(&name));
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// cargo in `directory`, with nothing of the cargo that runs this test, and without the network.
fn cargo(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_of_cargo = ["CARGO_", "NEXTEST", "RUST"]
            .iter()
            .any(|start| name.starts_with(start));
        if is_of_cargo && !["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&name.as_ref()) {
            command.env_remove(name.as_ref());
        }
    }
    command
        .current_dir(directory)
        .env("CARGO_TARGET_DIR", "target")
        .env("CARGO_TERM_COLOR", "never")
        .args(arguments)
        .arg("--frozen");
    command
}

fn exercise(options: &str) {
    if installed("cargo").is_none() {
        return;
    }
    let size = if is_long() { "8G" } else { "512M" };
    let Some(daemon) = Daemon::new(size, &[], options).unwrap() else {
        return;
    };
    let sources = daemon.path().join("sources");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &sources);
    // A package with few dependencies, one of which has a build script.
    let package = ["--package", "udax-test-tidy", "--test", "code"];
    let build = [&["test", "--no-run"], package.as_slice()].concat();
    let told = succeed(&mut cargo(&sources, &build), LIMIT).unwrap();
    assert!(told.contains("Compiling udax-test-tidy"), "{told}");

    // Times are as they were: nothing is built again, and what was changed is.
    let told = succeed(&mut cargo(&sources, &build), LIMIT).unwrap();
    assert!(!told.contains("Compiling"), "{told}");
    let source = sources.join("tests/tidy/src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(&source, text + "\n/// One more.\npub const ONE_MORE: u8 = 1;\n").unwrap();
    let told = succeed(&mut cargo(&sources, &build), LIMIT).unwrap();
    assert!(told.contains("Compiling udax-test-tidy"), "{told}");

    // A program of the mount runs, and reads all sources.
    let run = [&["test"], package.as_slice(), &["each_package"]].concat();
    let told = succeed(&mut cargo(&sources, &run), LIMIT).unwrap();
    assert!(told.contains("1 passed"), "{told}");
    if is_long() {
        succeed(&mut cargo(&sources, &["build", "--workspace"]), LIMIT).unwrap();
        let mut built = Command::new(sources.join("target/debug/udax"));
        succeed(built.arg("--version"), LIMIT).unwrap();
    }
    succeed(cargo(&sources, &["clean"]).env("CARGO_TERM_QUIET", "true"), LIMIT).unwrap();
    assert!(!sources.join("target").exists());
    daemon.finish().unwrap();
}

#[test]
fn a_build_with_dax() {
    exercise("");
}

#[test]
fn a_build_without_dax() {
    exercise("dax=never,cache=32");
}
