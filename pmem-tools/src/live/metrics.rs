//! Metrics for Prometheus: a file that is replaced every few seconds, or a page on a loopback address.
//!
//! The file is for node_exporter's textfile collector: written beside its place, then renamed to it, so that nobody
//! reads half of one. It goes with the mount: old numbers would look like an idle pool.
//!
//! The page is for a Prometheus on the same machine. It has no encryption and asks nobody who they are, so it is given
//! on loopback addresses only. Requests are answered one at a time, each within a second: that is all a scraper needs,
//! and who holds the line does not hold the mount.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags};
use udax_sync::atomic::{AtomicU64, Ordering};

use super::{Background, Source, exposition, wait_readable};

/// How often the file is replaced.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(1);
/// How metrics of a pool begin.
const BEGIN: &[u8; 12] = b"# HELP udax_";
/// Bytes of a request's head, and its lines, at most.
const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 64;

/// Where metrics go to.
#[derive(Debug)]
pub(crate) enum Target {
    /// A file.
    File(PathBuf),
    /// A page, on an address that listens already.
    Page(TcpListener),
}

/// Gives metrics until it is dropped.
#[derive(Debug)]
pub(crate) struct Metrics {
    _background: Background,
    _file: Option<Arc<MetricsFile>>,
}

/// The file, as it was written last. It goes at the end, unless somebody else has written one there meanwhile.
#[derive(Debug)]
struct MetricsFile {
    path: PathBuf,
    /// Its inode.
    number: AtomicU64,
}

impl MetricsFile {
    /// Replaces the file at once.
    fn write(&self, source: &Source) -> io::Result<()> {
        let number = replace(&self.path, &exposition::text(&source.snapshot()))?;
        self.number.store(number, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path).map(|metadata| metadata.ino());
        if found.is_ok_and(|number| number == self.number.load(Ordering::Relaxed)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What an option says of where metrics go to.
#[derive(Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Page(Vec<SocketAddr>),
}

impl Place {
    /// What `text` means: `HOST:PORT` without a slash is an address, everything else a file.
    ///
    /// # Errors
    /// An address that is not a loopback one; a file in no directory.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let port = text.rsplit_once(':').map(|(_, port)| port);
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if !text.contains('/') && port.is_some_and(is_port) {
            return Self::parse_page(text);
        }
        if is_port(text) {
            bail!("{text}: a port has its address before it, as 127.0.0.1:{text}");
        }
        let path = std::path::absolute(text).with_context(|| format!("{text}: no path for metrics"))?;
        let is_in_directory = path.parent().is_some_and(Path::is_dir);
        if !is_in_directory || path.is_dir() {
            bail!(
                "{text}: metrics go to a file in an existing directory, or to a loopback address as 127.0.0.1:9180"
            );
        }
        Ok(Self::File(path))
    }

    fn parse_page(text: &str) -> anyhow::Result<Self> {
        let addresses = text.to_socket_addrs();
        let addresses: Vec<SocketAddr> = addresses
            .with_context(|| format!("{text}: no address for metrics"))?
            .collect();
        if addresses.is_empty() || !addresses.iter().all(|address| address.ip().is_loopback()) {
            bail!("{text}: metrics are given on loopback addresses only, as 127.0.0.1:9180");
        }
        Ok(Self::Page(addresses))
    }

    /// Takes the place for metrics of what is about to be mounted on `directory`; a file is made with the first
    /// metrics.
    ///
    /// # Errors
    /// The address cannot be listened on; the file is there and holds something else than metrics of a pool, or would
    /// be on the mount: what the pool has there is not known yet, and writing it would wait for itself.
    pub(crate) fn open(self, directory: &Path) -> anyhow::Result<Target> {
        match self {
            Self::File(path) => {
                let above = path.parent().and_then(|above| above.canonicalize().ok());
                let directory = directory.canonicalize().ok();
                if above
                    .zip(directory)
                    .is_some_and(|(above, directory)| above.starts_with(directory))
                {
                    bail!(
                        "{}: metrics of a mount do not go to a file on it",
                        crate::name::shown(&path)
                    );
                }
                ensure_replaceable(&path)?;
                Ok(Target::File(path))
            }
            Self::Page(addresses) => TcpListener::bind(addresses.as_slice())
                .map(Target::Page)
                .with_context(|| format!("{addresses:?}: cannot listen there for metrics")),
        }
    }
}

impl Target {
    /// Gives metrics of `source` from now on.
    ///
    /// # Errors
    /// There is no thread to be had; the file cannot be written.
    pub(crate) fn start(self, source: Source) -> anyhow::Result<Metrics> {
        let (background, file) = match self {
            Self::File(path) => {
                let file = Arc::new(MetricsFile {
                    path,
                    number: AtomicU64::new(0),
                });
                let shown = || format!("{}: cannot write metrics", crate::name::shown(&file.path));
                file.write(&source).with_context(shown)?;
                let written = Arc::clone(&file);
                (
                    Background::spawn(move |stop| write_file(stop, &written, &source)),
                    Some(file),
                )
            }
            Self::Page(listener) => (
                Background::spawn(move |stop| serve(stop, &listener, &source)),
                None,
            ),
        };
        Ok(Metrics {
            _background: background.context("no thread for metrics")?,
            _file: file,
        })
    }
}

/// Nobody's file goes because its name was given.
fn ensure_replaceable(path: &Path) -> anyhow::Result<()> {
    let mut begin = [0; BEGIN.len()];
    let shown = || format!("{}: cannot be read", crate::name::shown(path));
    // Opening a pipe would wait for somebody who writes.
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.with_context(shown)?,
    };
    if !metadata.is_file() {
        bail!("{}: metrics go to a regular file", crate::name::shown(path));
    }
    let mut file = std::fs::File::open(path).with_context(shown)?;
    if metadata.len() == 0 || (file.read_exact(&mut begin).is_ok() && begin == *BEGIN) {
        return Ok(());
    }
    bail!(
        "{}: holds something else than metrics of a pool; remove it, or give another name",
        crate::name::shown(path)
    )
}

fn write_file(stop: &UnixStream, file: &MetricsFile, source: &Source) {
    let mut was_written = true;
    loop {
        let written = file.write(source);
        match &written {
            Err(error) if was_written => tracing::error!(path = %file.path.display(), %error, "no metrics"),
            _ => {}
        }
        was_written = written.is_ok();
        let next = Instant::now() + INTERVAL;
        loop {
            let rest = next.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            match wait_readable(&mut [PollFd::new(stop, PollFlags::IN)], Some(rest)).as_deref() {
                Ok([false]) => {}
                _ => return,
            }
        }
    }
}

/// Replaces `path` at once; gives the inode number of the new file.
fn replace(path: &Path, text: &str) -> io::Result<u64> {
    let Some(directory) = path.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut file = tempfile::Builder::new()
        .prefix(".udax-metrics-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    let file = file.persist(path)?;
    Ok(file.metadata()?.ino())
}

fn serve(stop: &UnixStream, listener: &TcpListener, source: &Source) {
    loop {
        let mut fds = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match wait_readable(&mut fds, None).as_deref() {
            Ok([false, true]) => {}
            Ok([false, false]) => continue,
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "metrics end");
                return;
            }
        }
        if let Ok((client, _)) = listener.accept()
            && let Err(error) = answer(client, source)
        {
            tracing::debug!(%error, "a request for metrics");
        }
    }
}

fn answer(mut client: TcpStream, source: &Source) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let (status, text) = match read_request(&mut client)? {
        Request::Metrics => ("200 OK", exposition::text(&source.snapshot())),
        Request::Other => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        Request::NoGet => ("405 Method Not Allowed", "only GET\n".to_owned()),
        Request::Malformed => ("400 Bad Request", "no request of HTTP/1.1\n".to_owned()),
    };
    let (kind, length) = (exposition::CONTENT_TYPE, text.len());
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    Metrics,
    Other,
    NoGet,
    Malformed,
}

fn read_request(client: &mut TcpStream) -> io::Result<Request> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    loop {
        if let Some(request) = parse(&head) {
            return Ok(request);
        }
        if head.len() >= MAX_HEAD {
            return Ok(Request::Malformed);
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(rest))?;
        let mut part = [0; 1024];
        let count = client.read(&mut part)?;
        if count == 0 {
            return Ok(Request::Malformed);
        }
        head.extend_from_slice(part.get(..count).unwrap_or_default());
    }
}

/// What is asked for; none while the head is not whole.
fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(Request::Malformed),
        Ok(httparse::Status::Complete(_)) => Some(match (request.method, request.path) {
            (Some("GET"), Some(path)) if path.split('?').next() == Some("/metrics") => Request::Metrics,
            (Some("GET"), _) => Request::Other,
            _ => Request::NoGet,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_once_they_are_whole() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: a\r\n"), None);
        let whole = |line: &str| parse(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(whole("GET /metrics?x=1 HTTP/1.1"), Some(Request::Metrics));
        assert_eq!(whole("GET / HTTP/1.1"), Some(Request::Other));
        assert_eq!(whole("POST /metrics HTTP/1.1"), Some(Request::NoGet));
        assert_eq!(parse(b"\x16\x03\x01\x02\x00"), Some(Request::Malformed));
    }

    #[test]
    fn only_loopback_addresses_and_files_in_directories_are_targets() {
        for refused in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9180", "/nowhere/at/all/f", "/"] {
            assert!(Place::parse(refused).is_err(), "{refused}");
        }
        let open = |text: &str| Place::parse(text).and_then(|place| place.open(Path::new("/nowhere")));
        assert!(matches!(open("127.0.0.1:0").unwrap(), Target::Page(_)));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("udax:1.prom");
        assert!(matches!(open(file.to_str().unwrap()).unwrap(), Target::File(_)));
    }
}
