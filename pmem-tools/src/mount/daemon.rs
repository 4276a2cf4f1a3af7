//! Starting the daemon that serves a mount.
//!
//! It is this program once more, in a session of its own, with a pipe as its standard output: one line there says that
//! the mount works. Until then it has the caller's standard error, where it tells what went wrong; afterwards it has
//! nothing of the caller's.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use nix::sys::signal::SigSet;
use udax_fuse::{Lazy, Mounted};

use super::FAILED;

/// What the daemon says when the mount works.
const READY: &str = "ready";

/// Starts a daemon that mounts `pool` on `directory`, and waits until it works; gives the exit status.
pub(super) fn start(
    (pool, directory): (&Path, &Path),
    options: &[String],
    metrics: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(["mount", "--daemon"]);
    for list in options {
        command.arg("-o").arg(list);
    }
    if let Some(metrics) = metrics {
        // Not among the options: a comma would end it there.
        command.arg("--metrics").arg(metrics);
    }
    let mut daemon = command
        .arg("--")
        .args([pool, directory])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let Some(output) = daemon.stdout.take() else {
        bail!("the daemon has no pipe");
    };
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .context("cannot hear of the daemon")?;
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = daemon.wait().context("cannot hear of the daemon")?;
    // It has told why.
    match status.code().map(u8::try_from) {
        Some(Ok(code)) if code != 0 => Ok(ExitCode::from(code)),
        Some(_) => Ok(ExitCode::from(FAILED)),
        None => {
            unmount_dead(directory);
            bail!("the daemon was ended before the mount worked: {status}")
        }
    }
}

/// Unmounts what a daemon has left that could not do so: a mount whose process is gone.
fn unmount_dead(directory: &Path) {
    let is_dead = match std::fs::metadata(directory).map_err(|error| rustix::io::Errno::from_io_error(&error))
    {
        Err(Some(errno)) => matches!(errno, rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED),
        _ => false,
    };
    if is_dead && Mounted::find(directory).is_ok_and(|found| found.is_some_and(|mount| mount.is_pool())) {
        // What cannot be unmounted is told by the next mount there.
        let _ = udax_fuse::unmount_directory(directory, Lazy::Yes);
    }
}

/// In the daemon, before it opens anything: what the caller has open, and which signals it blocks, ends with it.
pub(super) fn drop_inherited() -> anyhow::Result<()> {
    let descriptors = std::fs::read_dir("/proc/self/fd").context("/proc/self/fd: cannot read")?;
    let numbers: Vec<i32> = descriptors
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of them was the directory's.
        let _ = nix::unistd::close(number);
    }
    SigSet::empty()
        .thread_set_mask()
        .context("cannot listen for signals")
}

/// In the daemon, before the mount: no terminal can end it, and no directory is in use by it.
pub(super) fn detach() -> anyhow::Result<()> {
    // It was started by `start`, and so is no leader of a process group already.
    rustix::process::setsid().context("cannot leave the caller's session")?;
    std::env::set_current_dir("/").context("cannot change to the root directory")
}

/// What standard output and error are when nobody waits any more. Opened before the mount: who was told that it works
/// must not see it go.
pub(super) fn open_nothing() -> anyhow::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    let nothing = options.read(true).write(true).open("/dev/null");
    nothing.context("/dev/null: cannot open")
}

/// Says that the mount works, and gives the caller's files up.
pub(super) fn tell_ready(nothing: &File) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    // That nobody waits any more is no failure: the mount works.
    let _ = writeln!(output, "{READY}").and_then(|()| output.flush());
    rustix::stdio::dup2_stdout(nothing).context("cannot give standard output up")?;
    rustix::stdio::dup2_stderr(nothing).context("cannot give standard error up")
}
