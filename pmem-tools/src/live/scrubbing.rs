//! Scrubs of a pool in use: others ask the process that has it open for one.
//!
//! A request is a line: [`REQUEST`], and the most bytes to read in a second, 0 for as fast as it goes. The answers are
//! lines of JSON, [`Word`]s; the last of them is no step. One scrub goes on at a time. It ends with who asked for it,
//! and with the process.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use udax::{Filesystem, ScrubFinding, ScrubKind, ScrubOptions, ScrubReport};
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread::{self, JoinHandle};

use super::send_line;

/// What a request begins with.
pub(super) const REQUEST: u8 = b's';

/// How often somebody is told how far it is.
const INTERVAL: Duration = Duration::from_millis(200);

/// An answer.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// How far it is: bytes looked at, and those that were in use when it began.
    Step { done: u64, total: u64 },
    /// It came to its end.
    Report(Report),
    /// Why it did not.
    Failed(String),
}

/// What a scrub found, as [`ScrubReport`].
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Report {
    pub(crate) bytes: u64,
    pub(crate) units: u64,
    pub(crate) inodes: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) unverified_bytes: u64,
    pub(crate) findings: Vec<Finding>,
}

/// One thing that is wrong, as [`ScrubFinding`].
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) place: String,
    pub(crate) inode: Option<u64>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) what: String,
}

/// As [`ScrubKind`], the worst last.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    WrongData,
    LostData,
    Metadata,
}

impl From<ScrubReport> for Report {
    fn from(report: ScrubReport) -> Self {
        Self {
            bytes: report.bytes,
            units: report.units,
            inodes: report.inodes,
            verified_bytes: report.verified_bytes,
            unverified_bytes: report.unverified_bytes,
            findings: report.findings.into_iter().map(Finding::from).collect(),
        }
    }
}

impl From<ScrubFinding> for Finding {
    fn from(finding: ScrubFinding) -> Self {
        Self {
            kind: match finding.kind {
                ScrubKind::WrongData => Kind::WrongData,
                ScrubKind::LostData => Kind::LostData,
                _ => Kind::Metadata,
            },
            place: finding.place.to_string(),
            inode: finding.inode.map(udax_media::InodeNo::raw),
            path: finding.path,
            what: finding.what,
        }
    }
}

/// The scrub that goes on, if one does. Dropped, it ends.
#[derive(Debug, Default)]
pub(super) struct Scrubs {
    thread: Option<JoinHandle<()>>,
    state: Arc<State>,
}

/// What the thread of a scrub and its process tell each other.
#[derive(Debug, Default)]
struct State {
    /// It goes on. Cleared before the last word is said, after which another one may be asked for.
    is_busy: AtomicBool,
    /// It shall end.
    is_stopped: AtomicBool,
}

impl Scrubs {
    /// Scrubs for `client`, who has sent `request`, in a thread.
    pub(super) fn start(&mut self, mut client: UnixStream, request: &[u8], filesystem: &Filesystem) {
        let rate = match rate_of(request) {
            None => Err("this is no request for a scrub"),
            Some(_) if self.state.is_busy.load(Ordering::Acquire) => {
                Err("another scrub of this pool is going on")
            }
            Some(rate) => Ok(NonZero::new(rate)),
        };
        let options = match rate {
            Ok(rate) => ScrubOptions { rate },
            Err(why) => {
                let _ = send_line(&mut client, &Word::Failed(why.to_owned()));
                return;
            }
        };
        let (filesystem, state) = (filesystem.clone(), Arc::clone(&self.state));
        // The work takes the other one with it.
        let told = client.try_clone().ok();
        let work = move || scrub(client, &filesystem, options, &state);
        // The last one has said its last word.
        self.join();
        self.state.is_busy.store(true, Ordering::Release);
        match thread::Builder::new().name("udax-scrub".to_owned()).spawn(work) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => {
                self.state.is_busy.store(false, Ordering::Release);
                tracing::warn!(%error, "no thread for a scrub");
                if let Some(mut client) = told {
                    let why = format!("no thread for it: {error}");
                    let _ = send_line(&mut client, &Word::Failed(why));
                }
            }
        }
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a scrub has panicked");
        }
    }
}

impl Drop for Scrubs {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::Relaxed);
        self.join();
    }
}

fn rate_of(request: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(request.strip_prefix(&[REQUEST])?).ok()?;
    // One that is longer than it may be is cut, and no line.
    text.strip_suffix('\n')?.trim_end().parse().ok()
}

fn scrub(mut client: UnixStream, filesystem: &Filesystem, options: ScrubOptions, state: &State) {
    let mut told = Instant::now();
    let scrubbed = filesystem.scrub(options, &mut |step| {
        if state.is_stopped.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if told.elapsed() < INTERVAL {
            return ControlFlow::Continue(());
        }
        told = Instant::now();
        let word = Word::Step {
            done: step.done,
            total: step.total,
        };
        match send_line(&mut client, &word) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let word = match scrubbed {
        Ok(report) if report.is_complete => Word::Report(report.into()),
        Ok(_) => Word::Failed("the pool is being closed".to_owned()),
        Err(error) => Word::Failed(error.to_string()),
    };
    state.is_busy.store(false, Ordering::Release);
    // Who has gone needs no answer.
    let _ = send_line(&mut client, &word);
}
