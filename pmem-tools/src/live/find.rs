//! Finding who has a pool open, and asking it.

use std::fs::Metadata;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;
use serde_json::Value;
use udax_fuse::Mounted;
use udax_sync::thread;

use super::scrubbing::{REQUEST, Report, Word};
use super::snapshot::{Identity, Snapshot};
use super::syncing::{self, Answer};
use super::{runtime, source};

/// How long an answer may take: a daemon makes one in a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a snapshot, at most: a user's process is not believed more than that by root's.
const MAX_BYTES: usize = 4 << 20;
/// How long writing all that is dirty may take.
const SYNC_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of what a scrub found, at most.
const MAX_REPORT_BYTES: usize = 256 << 20;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Thing {
    /// The pool that is mounted where files have this device number.
    Mounted(u64),
    /// A file or device.
    Pool(Identity),
}

/// What was asked for, and whom to believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    thing: Thing,
    /// Who has mounted it, or owns it. Root asks users' processes too, and any of them can say that it has anything.
    owner: Option<u32>,
}

impl Wanted {
    fn mounted(device: u64) -> io::Result<Self> {
        Ok(Self {
            thing: Thing::Mounted(device),
            owner: Mounted::of_device(device)?.and_then(|mounted| mounted.user),
        })
    }

    fn pool(place: &Path, metadata: &Metadata) -> io::Result<Self> {
        Ok(Self {
            thing: Thing::Pool(source::identity(place)?),
            owner: Some(metadata.uid()),
        })
    }

    fn believes(self, user: u32) -> bool {
        user == 0 || user == rustix::process::geteuid().as_raw() || Some(user) == self.owner
    }

    fn is(self, snapshot: &Snapshot) -> bool {
        match self.thing {
            Thing::Mounted(device) => snapshot
                .mount
                .as_ref()
                .is_some_and(|mount| mount.device == device),
            Thing::Pool(identity) => snapshot.pool.identity == identity,
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
    let wanted = match metadata.is_dir() {
        true => Wanted::mounted(metadata.dev()),
        false => Wanted::pool(place, &metadata),
    };
    let wanted = wanted.with_context(|| format!("{shown}: cannot look at it"))?;
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
            "{shown}: who serves this mount does not answer: it is stopped, busy or gone, or was started without a \
             directory for its socket ('udax mount --help'), or by another user, whom only root can ask; 'udax umount' \
             ends a mount whose process is gone"
        );
    }
    bail!("{shown}: no pool is mounted there; give the directory of a mount, or a pool")
}

/// The pool that is mounted where files have the number `device`, if somebody tells of it.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn mounted(device: u64) -> anyhow::Result<Option<Snapshot>> {
    Ok(ask(Wanted::mounted(device)?)?.and_then(|connection| connection.first))
}

/// Asks all who have a pool open whether it is the one.
fn ask(wanted: Wanted) -> anyhow::Result<Option<Connection>> {
    // All at once: one that does not answer keeps nobody from the others.
    let (sender, answers) = mpsc::channel();
    for socket in runtime::collect_sockets() {
        let sender = sender.clone();
        let ask = move || {
            // Who asked may have its answer already.
            let _ = sender.send(Connection::open(&socket, wanted));
        };
        thread::Builder::new()
            .spawn(ask)
            .context("no thread to ask with")?;
    }
    drop(sender);
    let end = Instant::now() + 2 * PATIENCE;
    // Others are another pool's, of a process that was killed, or never answer.
    while let Ok(answer) = answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
        let Ok(connection) = answer else { continue };
        if connection.first.as_ref().is_some_and(|first| wanted.is(first)) {
            return Ok(Some(connection));
        }
    }
    Ok(None)
}

impl Connection {
    /// Listens to who has made the socket, if it is to be believed.
    fn open(socket: &Path, wanted: Wanted) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        if !wanted.believes(socket_peercred(&stream)?.uid.as_raw()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
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
        let request = format!("{}{}\n", char::from(REQUEST), rate.map_or(0, NonZero::get));
        self.stream.get_mut().write_all(request.as_bytes())?;
        loop {
            // It tells when there is something to tell.
            match self.read_line(MAX_REPORT_BYTES, None)? {
                Word::Step { done, total } => watch(done, total),
                Word::Report(report) => return Ok(report),
                Word::Failed(why) => bail!(why),
            }
        }
    }

    /// Has the process write everything; gives why it cannot.
    ///
    /// # Errors
    /// It has ended, does not answer, or is of another version.
    pub(crate) fn sync(mut self) -> io::Result<Result<(), String>> {
        self.stream.get_mut().write_all(&[syncing::REQUEST])?;
        let by = Instant::now() + SYNC_PATIENCE;
        Ok(match self.read_line(MAX_BYTES, Some(by))? {
            Answer::Done => Ok(()),
            Answer::Failed(why) => Err(why),
        })
    }

    fn read(&mut self) -> io::Result<Snapshot> {
        self.read_line(MAX_BYTES, Some(Instant::now() + PATIENCE))
    }

    /// A line of at most so many bytes, all of which have come by then.
    fn read_line<T: DeserializeOwned>(&mut self, most: usize, by: Option<Instant>) -> io::Result<T> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let left = by.map(|by| by.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) || line.len() > most {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.get_ref().set_read_timeout(left)?;
            let come = self.stream.fill_buf()?;
            if come.is_empty() {
                let why = "the process that has the pool open has ended";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            let end = come.iter().position(|byte| *byte == b'\n');
            let part = end.map_or(come.len(), |end| end + 1);
            line.extend_from_slice(come.get(..part).unwrap_or_default());
            self.stream.consume(part);
        }
        let mut value = serde_json::from_slice(&line)?;
        escape(&mut value);
        Ok(serde_json::from_value(value)?)
    }
}

/// Takes the control characters out of what another user's process may have sent: a terminal would obey them.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            *text = crate::name::escaped(text.as_bytes());
        }
        Value::Array(values) => values.iter_mut().for_each(escape),
        Value::Object(fields) => fields.values_mut().for_each(escape),
        _ => {}
    }
}
