//! The same contest on a directory of a kernel's filesystem: for ext4 and XFS, with DAX and without.
//!
//! Files are mapped, and direct reads of another file go into the mappings while threads change the files with
//! `ftruncate`, `fallocate`, `rename`, `unlink` and `FICLONE`. No processor touches a mapping, so that a page that has
//! gone is an `EFAULT` of a read and no signal.
//!
//! What is certain there: what a read of the file finds is of the block's owner. With DAX, a change waits until reads
//! into the pages have ended. Without, it takes the pages out of the file, and the reads end in pages that are
//! nobody's. In both cases nothing of theirs may show up where a block has changed hands since; that is judged.
//!
//! Without DAX the kernel promises less: an earlier owner's words sometimes come back in the same file (ext4, Linux
//! 6.18), or zeros replace what has moved. Perhaps because a page that a direct read stores to cannot be split from a
//! larger folio, and stays in the file when a part of that is punched or moved. Such blocks are counted and told, and
//! are no finding; a word of another *file* is one, always.
//!
//! The kernel pins pages only when a read starts, so that an engine cannot know whose they are at that moment: a
//! steward, who has marked blocks, waits until no engine is *starting* on that file, and an engine that starts asks for
//! reads that never wait for a worker of the kernel (`RWF_NOWAIT`): when the call returns, pages are pinned or it has
//! failed.

#[expect(unsafe_code, reason = "the kernel maps files and is given their addresses")]
mod dma;
mod engine;
mod files;
mod steward;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::options::{Options, StressError};
use crate::referee::{Actor, Referee};
use crate::report::{CacheCounts, DaxCounts, DeviceCounts, Kind, Report};
use crate::run::{Running, Stop, join, named_actor, spawn, watch};
use crate::tally::Operation;
use engine::Engine;
use files::{MappedFile, Slot};
use steward::Mutator;

/// What all threads share.
#[derive(Debug)]
pub(crate) struct DirectoryContest {
    referee: Referee,
    directory: PathBuf,
    is_dax: bool,
    slots: Vec<Slot>,
    files: AtomicU64,
    /// Operations that this filesystem does not have.
    unsupported: Mutex<Vec<&'static str>>,
}

impl std::ops::Deref for DirectoryContest {
    type Target = Referee;

    fn deref(&self) -> &Referee {
        &self.referee
    }
}

impl DirectoryContest {
    /// Makes a file for a slot.
    fn make_file(&self, slot: &Slot) -> std::io::Result<Arc<MappedFile>> {
        let id = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{}.{id}", slot.number));
        MappedFile::create(path, slot).map(Arc::new)
    }

    fn is_supported(&self, operation: Operation) -> bool {
        !self.unsupported.lock().contains(&operation.name())
    }

    /// The result of an operation: what is not supported is noted, a full filesystem counted, all else is a finding.
    fn settle<T>(&self, operation: Operation, file: &MappedFile, result: std::io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOSPC) => self.tally.refuse(operation),
            // FICLONE answers ENOTTY where there is nobody who knows it, fallocate EINVAL for other block sizes.
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL) => {
                let mut unsupported = self.unsupported.lock();
                if !unsupported.contains(&operation.name()) {
                    unsupported.push(operation.name());
                }
            }
            _ => {
                let what = format!("{} of {}: {error}", operation.name(), file.path.display());
                self.find(Kind::Failed, what, file.history(None));
            }
        }
        None
    }
}

/// Holds a contest in a new directory in `parent`, which is removed again if nothing is found.
///
/// Of the options, `engine` and `witness` are not asked: engines are the kernel's, and the bytes are all there is.
///
/// # Errors
/// `Options`; `Directory` when files cannot be made there; `NoDma` without io_uring or `O_DIRECT`; `Thread`.
pub fn run_directory(parent: &Path, options: &Options, stop: &Stop) -> Result<Report, StressError> {
    options.check()?;
    let directory = parent.join(format!("udax-stress-{}", std::process::id()));
    let failed = |source| StressError::Directory {
        path: directory.clone(),
        source,
    };
    fs::create_dir(&directory).map_err(failed)?;
    let contest = Arc::new(DirectoryContest {
        referee: Referee::new(options),
        directory: directory.clone(),
        is_dax: files::is_dax(&directory).map_err(failed)?,
        slots: (0..options.files).map(Slot::new).collect(),
        files: AtomicU64::new(0),
        unsupported: Mutex::new(Rank::Leaf, Vec::new()),
    });
    let result = hold(&contest, stop);
    let findings = contest.take_findings();
    // What an operation has failed at says nothing in the files.
    let has_evidence = findings.iter().any(|finding| finding.kind != Kind::Failed);
    if !has_evidence {
        fs::remove_dir_all(&directory).map_err(failed)?;
    }
    result?;
    Ok(Report {
        seed: options.seed,
        seconds: contest.elapsed().as_secs_f64(),
        dma: contest.tally.dma(),
        dax: DaxCounts::default(),
        cache: CacheCounts::default(),
        device: DeviceCounts::default(),
        operations: contest.tally.operations(),
        notes: notes(&contest),
        findings,
    })
}

fn hold(contest: &Arc<DirectoryContest>, stop: &Stop) -> Result<(), StressError> {
    for slot in &contest.slots {
        let file = contest.make_file(slot).map_err(|source| StressError::Directory {
            path: contest.directory.clone(),
            source,
        })?;
        slot.replace(Some(file));
    }
    let mut running = Vec::new();
    let started = start(contest, &mut running);
    if started.is_err() {
        contest.end();
    }
    let held = Vec::new;
    watch(contest, &running, stop, &held);
    contest.end();
    let is_back = join(contest, running, &held);
    started?;
    if is_back {
        let actor = Actor::new(0, "the end".to_owned());
        for slot in &contest.slots {
            if let Some(file) = slot.current() {
                contest.judge_file(&actor, &file);
                slot.replace(None);
            }
        }
    }
    Ok(())
}

fn start(contest: &Arc<DirectoryContest>, running: &mut Vec<Running>) -> Result<(), StressError> {
    let engines = contest.options.engines;
    for number in 0..engines + contest.options.threads {
        let actor = named_actor(number, number < engines);
        let (shared, known) = (Arc::clone(contest), Arc::clone(&actor));
        let thread = if number < engines {
            let engine = Engine::new(shared, known)?;
            spawn(actor, move || engine.run())?
        } else {
            let mutator = Mutator::new(shared, known);
            spawn(actor, move || mutator.run())?
        };
        running.push(thread);
    }
    Ok(())
}

/// What was left out, and what that means.
fn notes(contest: &DirectoryContest) -> Vec<String> {
    let unsupported = contest.unsupported.lock();
    let mut notes: Vec<String> = unsupported
        .iter()
        .map(|operation| format!("{operation}: not supported here, left out"))
        .collect();
    notes.push(if contest.is_dax {
        "the files are DAX: changes wait for direct reads into their pages".to_owned()
    } else {
        "the files are not DAX: changes do not wait for direct reads".to_owned()
    });
    if !contest.is_dax {
        notes.push("clone: left out, so that words of another file tell a stray".to_owned());
    }
    let overtaken = contest.tally.dma().overtaken_blocks;
    if overtaken > 0 {
        notes.push(format!(
            "{overtaken} times a block had lost what was stored, or had it back: no finding where files are not DAX"
        ));
    }
    notes
}
