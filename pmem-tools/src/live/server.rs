//! The socket that snapshots are served on.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::scrubbing::{self, Scrubs};
use super::{Background, Source, runtime, send_line, syncing, wait_readable};

/// Who looks at once, at most: each has a file of the daemon's.
const MAX_CLIENTS: usize = 16;
/// How long one that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves snapshots until it is dropped; then the socket is gone too.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    _background: Background,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Before the thread ends: who finds the socket finds somebody who answers.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Serves snapshots of `source`; a pool without a live view is as good a pool, so that a failure is only logged.
    /// `directory` is what [`runtime::make`] gave.
    pub(crate) fn start(source: Source, directory: io::Result<PathBuf>) -> Option<Self> {
        let started = directory.and_then(|directory| Self::start_in(&directory, source));
        match started {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::warn!(%error, "no live view: 'udax top', 'stats' and 'scrub' will not find this pool");
                None
            }
        }
    }

    fn start_in(directory: &Path, source: Source) -> io::Result<Self> {
        runtime::remove_stale(directory);
        let pid = std::process::id();
        let path = runtime::socket(directory, pid);
        // It gets its name when somebody listens: a socket that refuses is a stale one.
        let unnamed = path.with_extension("new");
        let _ = std::fs::remove_file(&unnamed);
        let listener = UnixListener::bind(&unnamed)?;
        std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&unnamed, &path)?;
        Ok(Self {
            path,
            _background: Background::spawn(move |stop| serve(stop, &listener, &source))?,
        })
    }
}

fn serve(stop: &UnixStream, listener: &UnixListener, source: &Source) {
    let mut clients: Vec<UnixStream> = Vec::new();
    let mut scrubs = Scrubs::default();
    // Nobody can be let in: there is no descriptor for him. He waits, and so does this thread.
    let mut is_full = false;
    loop {
        let ready = {
            let listened = if is_full {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(listener, listened)];
            fds.extend(clients.iter().map(|client| PollFd::new(client, PollFlags::IN)));
            wait_readable(&mut fds, is_full.then_some(PATIENCE))
        };
        is_full = false;
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "the live view ends");
                return;
            }
        };
        if ready.first() == Some(&true) {
            return;
        }
        let mut asked = ready.iter().skip(2);
        clients.retain_mut(|client| match asked.next() {
            Some(true) => answer(client, source, &mut scrubs).is_ok(),
            _ => true,
        });
        if ready.get(1) == Some(&true) {
            match listener.accept() {
                Ok((client, _)) => clients.extend(greet(client, source, clients.len())),
                Err(error) => is_full = error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// A new client, with its first snapshot.
fn greet(mut client: UnixStream, source: &Source, clients: usize) -> Option<UnixStream> {
    if clients >= MAX_CLIENTS {
        return None;
    }
    client.set_nonblocking(false).ok()?;
    client.set_read_timeout(Some(PATIENCE)).ok()?;
    client.set_write_timeout(Some(PATIENCE)).ok()?;
    send_line(&mut client, &source.snapshot()).ok()?;
    Some(client)
}

/// One snapshot for each byte that it has sent, or a sync, or a scrub.
///
/// # Errors
/// It is no client any more: it has gone, or a scrub has its connection.
fn answer(client: &mut UnixStream, source: &Source, scrubs: &mut Scrubs) -> io::Result<()> {
    let mut asked = [0; 32];
    let count = client.read(&mut asked)?;
    let asked = asked.get(..count).unwrap_or_default();
    match asked.first() {
        None => return Err(io::ErrorKind::UnexpectedEof.into()),
        Some(&syncing::REQUEST) => return syncing::answer(client, source.filesystem()),
        Some(&scrubbing::REQUEST) => {
            scrubs.start(client.try_clone()?, asked, source.filesystem());
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Some(_) => {}
    }
    for _ in asked {
        send_line(client, &source.snapshot())?;
    }
    Ok(())
}
