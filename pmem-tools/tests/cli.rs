//! The command line itself: help, manual pages, completions, mistakes, names of the program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod command;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use command::Place;

/// All that a user sees in `udax --help`.
const COMMANDS: [&str; 23] = [
    "mkfs",
    "fsck",
    "scrub",
    "info",
    "put",
    "get",
    "ls",
    "tree",
    "cat",
    "stat",
    "attr",
    "mkdir",
    "rm",
    "mv",
    "df",
    "grow",
    "dump",
    "demo",
    "bench",
    "stress",
    "man",
    "completions",
    "links",
];

#[test]
fn help_lists_every_command_and_no_hidden_one() {
    let help = Place::new().run(["--help"]).success();
    for command in COMMANDS {
        let is_listed = help
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(is_listed, "{command} is not in\n{help}");
    }
    assert!(!help.contains("demo-writer"));
}

#[test]
fn every_command_has_help_that_explains_its_arguments() {
    let place = Place::new();
    for command in COMMANDS {
        let help = place.run([command, "--help"]).success();
        assert!(help.contains("Usage: udax "), "{command}: {help}");
        for line in help.lines().filter(|line| line.trim_start().starts_with("--")) {
            assert!(
                line.contains("  ") || line.ends_with('>'),
                "{command}: {line} is not explained"
            );
        }
    }
}

#[test]
fn help_of_put_and_get_says_what_becomes_of_what_exists_and_gives_examples() {
    let place = Place::new();
    for command in ["put", "get"] {
        let help = place.run([command, "--help"]).success();
        for part in [
            "What exists",
            "its own kind only",
            "Links and special files:",
            "Permissions:",
            "Examples:\n  udax ",
        ] {
            assert!(help.contains(part), "{command}: no {part:?} in {help}");
        }
        // Not wrapped anew by a terminal of the usual width.
        let (_, after) = help.split_once("What exists").unwrap();
        assert!(after.lines().all(|line| line.chars().count() <= 80), "{after}");
    }
}

#[test]
fn usage_of_the_commands() {
    let place = Place::new();
    let usages: Vec<String> = COMMANDS
        .iter()
        .map(|command| {
            let help = place.run([command, "--help"]).success();
            help.lines()
                .find(|line| line.starts_with("Usage: "))
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    insta::assert_snapshot!(usages.join("\n"), @r"
    Usage: udax mkfs [OPTIONS] <POOL>
    Usage: udax fsck [OPTIONS] <POOL>
    Usage: udax scrub [OPTIONS] <DIR|POOL>
    Usage: udax info [OPTIONS] <POOL>
    Usage: udax put [OPTIONS] <SRC>... <POOL:/DIR>
    Usage: udax get [OPTIONS] <POOL:/PATH> <DST>
    Usage: udax ls [OPTIONS] <POOL:/PATH>
    Usage: udax tree [OPTIONS] <POOL:/PATH>
    Usage: udax cat <POOL:/PATH>...
    Usage: udax stat [OPTIONS] <POOL:/PATH>
    Usage: udax attr [OPTIONS] <CHANGE> <POOL:/PATH|PATH>...
    Usage: udax mkdir [OPTIONS] <POOL:/PATH>...
    Usage: udax rm [OPTIONS] <POOL:/PATH>...
    Usage: udax mv [OPTIONS] <POOL:/FROM> <POOL:/TO>
    Usage: udax df [OPTIONS] <POOL>...
    Usage: udax grow [OPTIONS] <POOL> <SIZE>
    Usage: udax dump [OPTIONS] <POOL> <COMMAND>
    Usage: udax demo [OPTIONS] [DIRECTORY]
    Usage: udax bench [OPTIONS]
    Usage: udax stress <COMMAND>
    Usage: udax man <DIRECTORY>
    Usage: udax completions <SHELL>
    Usage: udax links <DIRECTORY>
    ");
}

#[test]
fn man_writes_a_page_for_every_command() {
    let place = Place::new();
    place.run(["man", "pages/of/udax"]).success();
    let page = |name: &str| fs::read_to_string(place.path("pages/of/udax").join(name)).unwrap();
    for command in COMMANDS {
        assert!(
            page(&format!("udax-{command}.1")).contains(".SH SYNOPSIS"),
            "{command}"
        );
    }
    for what in ["superblock", "journal", "inode", "tree", "free"] {
        assert!(
            page(&format!("udax-dump-{what}.1")).contains(".SH SYNOPSIS"),
            "{what}"
        );
    }
    assert!(page("udax.1").contains("udax"));
    assert!(page("mkfs.udax.8").contains("mkfs.udax"));
    assert!(page("fsck.udax.8").contains("Exit status"));
    assert!(!place.path("pages/of/udax/udax-demo-writer.1").exists());
}

#[test]
fn completions_exist_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            place.run(["completions", shell]).success().contains("mkfs"),
            "{shell}"
        );
    }
    place.run(["completions", "csh"]).status(2);
}

#[test]
fn mistakes_have_status_2_and_those_of_fsck_16() {
    let place = Place::new();
    for arguments in [
        ["nonsense", "x"].as_slice(),
        &[],
        &["mkfs"],
        &["mkfs", "--size", "1X", "pool"],
        &["mkfs", "--uuid", "no", "pool"],
        &["get", "pool:/x"],
        &["put", "pool:/x"],
        &["ls", "--nonsense", "pool:/"],
        &["ls", ":/x"],
        &["dump", "pool"],
        &["dump", "pool", "inode", "x"],
    ] {
        let ran = place.run(arguments);
        ran.status(2);
        assert!(!ran.stderr().is_empty(), "{arguments:?}");
    }
    place.run(["fsck"]).status(16);
    place.run(["fsck", "--nonsense", "pool"]).status(16);
    place.run(["fsck", "-n", "-y", "pool"]).status(16);
    place.run(["fsck", "--help"]).success();
}

#[test]
fn a_size_that_is_no_size_is_explained() {
    let ran = Place::new().run(["mkfs", "--size", "1X", "pool"]);
    assert!(
        ran.stderr().contains("'X' is no unit of size"),
        "{}",
        ran.stderr()
    );
}

#[test]
fn the_names_of_the_program_choose_the_command() {
    let place = Place::new();
    place.run(["links", "."]).success();
    let run = |name: &str, arguments: &[&str]| {
        Command::new(place.path(name))
            .args(arguments)
            .current_dir(place.path(""))
            .output()
            .unwrap()
    };
    let help = String::from_utf8(run("mkfs.udax", &["--help"]).stdout).unwrap();
    assert!(help.contains("Usage: mkfs.udax "), "{help}");
    let help = String::from_utf8(run("fsck.udax", &["--help"]).stdout).unwrap();
    assert!(help.contains("Usage: fsck.udax "), "{help}");
    assert_eq!(run("fsck.udax", &["--nonsense"]).status.code(), Some(16));
    assert_eq!(run("mkfs.udax", &["--nonsense"]).status.code(), Some(2));
    assert_eq!(run("fsck.udax", &["missing"]).status.code(), Some(8));
    place.run(["links", "."]).success();
    fs::remove_file(place.path("fsck.udax")).unwrap();
    fs::write(place.path("fsck.udax"), b"somebody's").unwrap();
    place.run(["links", "."]).fails_with(&["fsck.udax", "exists"]);
}

#[test]
fn a_name_like_a_program_but_not_one_is_udax() {
    let place = Place::new();
    symlink(env!("CARGO_BIN_EXE_udax"), place.path("other")).unwrap();
    let output = Command::new(place.path("other"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("udax "));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    for arguments in [["completions", "bash"].as_slice(), &["--help"]] {
        let mut child = place
            .command()
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}
