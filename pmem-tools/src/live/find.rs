//! Finding who has a pool open, and asking it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use udax_fuse::Mounted;
use udax_sync::thread;

use super::scrubbing::{REQUEST, Report, Word};
use super::snapshot::{Identity, Snapshot};
use super::{runtime, source};

/// How long an answer may take: a daemon makes one in a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a snapshot, at most: a user's process is not believed more than that by root's.
const MAX_BYTES: u64 = 4 << 20;
/// Bytes of what a scrub found, at most.
const MAX_REPORT_BYTES: u64 = 256 << 20;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// The pool that is mounted where files have this device number.
    Mounted(u64),
    /// A file or device.
    Pool(Identity),
}

impl Wanted {
    fn is(self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Mounted(device) => snapshot
                .mount
                .as_ref()
                .is_some_and(|mount| mount.device == device),
            Self::Pool(identity) => snapshot.pool.identity == identity,
        }
    }
}

/// A process that has the pool open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
    first: Option<Snapshot>,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A process that tells of it.
    Live(Box<Connection>),
    /// A file or device that no process tells of.
    Nobody,
}

/// Who has `place` open: a pool, or a directory where one is mounted.
///
/// # Errors
/// There is no such file; a directory where no pool is mounted, or of whose mount nobody tells.
pub(crate) fn find(place: &Path) -> anyhow::Result<Found> {
    let shown = crate::name::shown(place);
    let metadata = place
        .metadata()
        .with_context(|| format!("{shown}: cannot look at it"))?;
    let wanted = if metadata.is_dir() {
        Wanted::Mounted(metadata.dev())
    } else {
        let identity = source::identity(place).with_context(|| format!("{shown}: cannot look at it"))?;
        Wanted::Pool(identity)
    };
    if let Some(connection) = ask(wanted)? {
        return Ok(Found::Live(Box::new(connection)));
    }
    if !metadata.is_dir() {
        return Ok(Found::Nobody);
    }
    let absolute = place
        .canonicalize()
        .with_context(|| format!("{shown}: cannot look at it"))?;
    if Mounted::find(&absolute)?.is_some_and(|mounted| mounted.is_pool()) {
        bail!(
            "{shown}: who serves this mount does not answer: it is stopped, busy or gone, or another user's; 'udax \
             umount' ends a mount whose process is gone"
        );
    }
    bail!("{shown}: no pool is mounted there; give the directory of a mount, or a pool")
}

/// The pool that is mounted where files have the number `device`, if somebody tells of it.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn mounted(device: u64) -> anyhow::Result<Option<Snapshot>> {
    Ok(ask(Wanted::Mounted(device))?.and_then(|connection| connection.first))
}

/// Asks all who have a pool open whether it is the one.
fn ask(wanted: Wanted) -> anyhow::Result<Option<Connection>> {
    // All at once: one that does not answer keeps nobody from the others.
    let (sender, answers) = mpsc::channel();
    for socket in runtime::collect_sockets() {
        let sender = sender.clone();
        let ask = move || {
            // Who asked may have its answer already.
            let _ = sender.send(Connection::open(&socket));
        };
        thread::Builder::new()
            .spawn(ask)
            .context("no thread to ask with")?;
    }
    drop(sender);
    // Others are another pool's, or of a process that was killed.
    for connection in answers.into_iter().flatten() {
        if connection.first.as_ref().is_some_and(|first| wanted.is(first)) {
            return Ok(Some(connection));
        }
    }
    Ok(None)
}

impl Connection {
    fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            first: None,
        };
        connection.first = Some(connection.read()?);
        Ok(connection)
    }

    /// The pool as it is now.
    ///
    /// # Errors
    /// The process has ended, or does not answer.
    pub(crate) fn next(&mut self) -> io::Result<Snapshot> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        self.stream.get_mut().write_all(b"\n")?;
        self.read()
    }

    /// Has the process scrub the pool, reading at most so many bytes a second, and says meanwhile how far it is: bytes
    /// done, and in all.
    ///
    /// # Errors
    /// The process says why not, has ended, or is of another version.
    pub(crate) fn scrub(
        mut self,
        rate: Option<NonZero<u64>>,
        mut watch: impl FnMut(u64, u64),
    ) -> anyhow::Result<Report> {
        // It tells when there is something to tell.
        self.stream.get_ref().set_read_timeout(None)?;
        let request = format!("{}{}\n", char::from(REQUEST), rate.map_or(0, NonZero::get));
        self.stream.get_mut().write_all(request.as_bytes())?;
        loop {
            match self.read_line(MAX_REPORT_BYTES)? {
                Word::Step { done, total } => watch(done, total),
                Word::Report(report) => return Ok(report),
                Word::Failed(why) => bail!(why),
            }
        }
    }

    fn read(&mut self) -> io::Result<Snapshot> {
        self.read_line(MAX_BYTES)
    }

    fn read_line<T: DeserializeOwned>(&mut self, most: u64) -> io::Result<T> {
        let mut line = Vec::new();
        (&mut self.stream).take(most).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            let why = "the process that has the pool open has ended";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(serde_json::from_slice(&line)?)
    }
}
