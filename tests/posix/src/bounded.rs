//! Running programs that may hang: each has a deadline, and its output goes to a file, which no full pipe can stop.
//!
//! A program gets a process group of its own. When its time is over the group is killed; one that waits for a mount
//! dies no sooner than the mount answers or is taken away, so that nobody waits for it here.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use udax_sync::thread;

const POLL: Duration = Duration::from_millis(5);
/// How long a killed program may take to be gone.
const GRACE: Duration = Duration::from_secs(5);
/// What is shown of a program's output.
const SHOWN_BYTES: usize = 8000;

/// A program that has ended in time.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Standard output and standard error as they came.
    pub text: String,
}

/// Runs `command` for at most `limit`.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Ended> {
    let mut output = tempfile::tempfile()?;
    let mut child = start(command, &output)?;
    let status = match wait(&mut child, limit)? {
        Some(status) => status,
        None => {
            end(&mut child)?;
            bail!(
                "{command:?} has not ended after {limit:?}:\n{}",
                read(&mut output)?
            );
        }
    };
    let text = read(&mut output)?;
    Ok(Ended { status, text })
}

/// As [`run`], for a program that must succeed; gives its output.
///
/// # Errors
/// Those of [`run`], and an exit status other than 0, with what was printed.
pub fn succeed(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    let ended = run(command, limit)?;
    if !ended.status.success() {
        bail!("{command:?}: {}\n{}", ended.status, last_of(&ended.text));
    }
    Ok(ended.text)
}

/// Starts `command` in a process group of its own, with all output to `output`.
///
/// # Errors
/// It cannot be started.
pub fn start(command: &mut Command, output: &File) -> anyhow::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))
}

/// Waits until `child` ends, or `limit` is over (`None`).
///
/// # Errors
/// The system's.
pub fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Kills `child` and those that it has started. Gives whether it is gone.
///
/// # Errors
/// The system's.
pub fn end(child: &mut Child) -> anyhow::Result<bool> {
    if child.try_wait()?.is_none() {
        // It leads its group, which is there as long as it has not been waited for.
        kill_process_group(Pid::from_child(child), Signal::KILL)?;
    }
    Ok(wait(child, GRACE)?.is_some())
}

fn read(output: &mut File) -> anyhow::Result<String> {
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a long text.
pub fn last_of(text: &str) -> &str {
    let mut at = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    text.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo before; sleep 1000"]);
        let began = Instant::now();
        let error = run(&mut command, Duration::from_millis(300)).expect_err("it does not end");
        assert!(error.to_string().contains("before"), "{error:#}");
        assert!(began.elapsed() < GRACE, "it was killed at once");
    }

    #[test]
    fn what_a_failing_program_says_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo reason >&2; exit 3"]);
        let error = succeed(&mut command, GRACE).expect_err("it fails");
        assert!(error.to_string().contains("reason"), "{error:#}");
    }
}
