//! Runs the `udax` program in a directory of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with a pool's path, removed at the end.
pub(super) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// An empty directory.
    pub(super) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A directory with a pool of `size`.
    pub(super) fn with_pool(size: &str) -> Self {
        let place = Self::new();
        place.run(["mkfs", "--size", size, "pool"]).success();
        place
    }

    /// A path in the directory.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `udax` in the directory.
    pub(super) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command();
        self.run_command(command.args(arguments))
    }

    /// Runs a command to its end.
    pub(super) fn run_command(&self, command: &mut Command) -> Ran {
        let shown = format!("{command:?}");
        Ran {
            output: command.output().unwrap(),
            shown,
        }
    }

    /// `udax` without arguments, in the directory.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_udax"));
        command.current_dir(self.directory.path());
        command
    }
}

/// A program that has ended.
pub(super) struct Ran {
    output: Output,
    shown: String,
}

impl Ran {
    /// Standard output.
    pub(super) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard error.
    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Fails unless the exit status is `status`. Gives standard output.
    #[track_caller]
    pub(super) fn status(&self, status: i32) -> String {
        assert_eq!(
            self.output.status.code(),
            Some(status),
            "{}\n{}{}",
            self.shown,
            self.stdout(),
            self.stderr()
        );
        self.stdout()
    }

    /// Fails unless the exit status is 0. Gives standard output.
    #[track_caller]
    pub(super) fn success(&self) -> String {
        self.status(0)
    }

    /// Fails unless the exit status is 1 and standard error is one line with all of `parts`.
    #[track_caller]
    pub(super) fn fails_with(&self, parts: &[&str]) {
        self.status(1);
        let stderr = self.stderr();
        assert!(stderr.starts_with("udax: "), "{}: {stderr}", self.shown);
        assert_eq!(stderr.lines().count(), 1, "{}: {stderr}", self.shown);
        for part in parts {
            assert!(stderr.contains(part), "{}: no '{part}' in {stderr}", self.shown);
        }
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.output.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.shown, self.stdout()))
    }
}
