//! Starting the daemon that serves a mount.
//!
//! It is this program once more, in a session of its own, with a pipe as its standard output: one line there says that
//! requests are answered, and the caller looks whether that is so. Until the caller goes, which ends another pipe, the
//! daemon has its standard error, where it tells what went wrong; afterwards it has nothing of the caller's.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::SigSet;
use udax_fuse::{Lazy, Mounted};
use udax_sync::thread;

use super::FAILED;

/// What the daemon says when it answers requests.
const SERVING: &str = "serving";
/// Between two looks whether it does.
const POLL: Duration = Duration::from_millis(1);
/// A mount that is not seen for so long, and whose daemon goes on, has something else over it.
const COVERED: Duration = Duration::from_secs(5);

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
    // As the kernel lists it; a dead mount could not be looked at.
    let place = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let was_dead = is_dead(&place);
    let mut daemon = command
        .arg("--")
        .args([pool, directory])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    // It keeps the caller's standard error until this goes.
    let (Some(_caller), Some(output)) = (daemon.stdin.take(), daemon.stdout.take()) else {
        bail!("the daemon has no pipes");
    };
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .context("cannot hear of the daemon")?;
    let status = match line.trim_end() == SERVING {
        true => wait_until_served(&mut daemon, &place)?,
        false => Some(daemon.wait().context("cannot hear of the daemon")?),
    };
    let Some(status) = status else {
        return Ok(ExitCode::SUCCESS);
    };
    if !was_dead && is_dead(&place) {
        // It could not do that itself. What fails here is told by the next mount.
        let _ = udax_fuse::unmount_directory(&place, Lazy::Yes);
    }
    // It has told why.
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(ExitCode::from(code)),
        Some(Err(_)) => Ok(ExitCode::from(FAILED)),
        None => bail!("the daemon was ended before the mount worked: {status}"),
    }
}

/// Waits until a request is answered, which the daemon cannot see itself: dying, it would wait for its own answer.
/// Gives how it ended if it did.
fn wait_until_served(daemon: &mut Child, place: &Path) -> anyhow::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        // Where somebody has mounted something else over it, it is not seen.
        if (rustix::fs::statvfs(place).is_ok() && has_pool(place)) || begin.elapsed() > COVERED {
            return Ok(None);
        }
        let ended = daemon.try_wait().context("cannot hear of the daemon")?;
        if ended.is_some() {
            return Ok(ended);
        }
        thread::sleep(POLL);
    }
}

/// Whether the topmost mount there is a pool.
fn has_pool(directory: &Path) -> bool {
    Mounted::find(directory).is_ok_and(|found| found.is_some_and(|mount| mount.is_pool()))
}

/// Whether a pool is mounted there whose process is gone.
fn is_dead(directory: &Path) -> bool {
    let errno = match std::fs::metadata(directory) {
        Ok(_) => None,
        Err(error) => rustix::io::Errno::from_io_error(&error),
    };
    matches!(
        errno,
        Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    ) && has_pool(directory)
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

/// Says that requests are answered. When the caller has seen that, or has ended, its files are given up.
pub(super) fn tell_serving(nothing: File) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    // That nobody waits any more is no failure: the mount works.
    let _ = writeln!(output, "{SERVING}").and_then(|()| output.flush());
    rustix::stdio::dup2_stdout(&nothing).context("cannot give standard output up")?;
    let wait = move || {
        // It says nothing: this ends with the caller.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        if let Err(error) = rustix::stdio::dup2_stderr(&nothing) {
            tracing::error!(%error, "cannot give standard error up");
        }
    };
    thread::Builder::new()
        .name("caller".to_owned())
        .spawn(wait)
        .context("no thread to wait for the caller")?;
    Ok(())
}
