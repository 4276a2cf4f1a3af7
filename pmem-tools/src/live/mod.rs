//! The live view: how one process shows others what a pool that it has open is doing.
//!
//! A process that has a pool open for long (the daemon of `udax mount`, `udax stress`) serves [`Snapshot`]s of it
//! on a socket of its own ([`server`]); `udax top` and `udax stats` find that socket by the pool or by the
//! directory where it is mounted ([`find`]). `--metrics` gives the same numbers to Prometheus ([`metrics`],
//! [`exposition`]).
//!
//! # The socket
//! A Unix stream socket, `PID.sock`, in a directory that only its user can enter ([`runtime`]). Whoever connects gets
//! one snapshot, a line of JSON; for each further byte that is sent, one more. So nothing is read or sent that nobody
//! looks at. A line that asks for a scrub ([`scrubbing`]) has the connection to itself from then on; one byte asks for
//! a sync ([`syncing`]). Decision 0017 says why a socket.
//!
//! # Threads
//! One serves the socket, one metrics, one scrubs when somebody asks for that; each ends when what it belongs to is
//! dropped, before the pool is closed: what they have of the pool would keep it open.

pub(crate) mod exposition;
pub(crate) mod find;
pub(crate) mod metrics;
mod runtime;
pub(crate) mod scrubbing;
mod server;
mod snapshot;
mod source;
mod syncing;

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use udax_sync::thread::{self, JoinHandle};

pub(crate) use runtime::make as make_runtime_directory;
pub(crate) use server::Server;
#[cfg(test)]
pub(crate) use snapshot::tests::example as snapshot_example;
pub(crate) use snapshot::{OperationTimes, PinHeld, Snapshot, Waiting};
pub(crate) use source::{MountFacts, Source};

/// A thread that ends when this is dropped.
#[derive(Debug)]
struct Background {
    /// Closed before the thread is waited for, which wakes it.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` in a thread; it ends when the stream that it is given hangs up.
    fn spawn(work: impl FnOnce(&UnixStream) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new()
            .name("udax-live".to_owned())
            .spawn(move || work(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the live view has panicked");
        }
    }
}

/// Sends a line of JSON.
fn send_line(client: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    client.write_all(&line)
}

/// Waits until one of `fds` can be read or has hung up, or for `timeout`; which of them.
fn wait_readable(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.iter().map(|fd| fd.revents() != PollFlags::empty()).collect())
}
