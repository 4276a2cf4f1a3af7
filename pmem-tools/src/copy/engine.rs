//! Carries a plan out: directories first, then everything else in parallel, then hard links, and last the
//! attributes of directories, which the work inside them would have changed.
//!
//! Lock: rank Leaf, around the indices of what failed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use udax::FileKind;
use udax_sync::atomic::{AtomicUsize, Ordering};
use udax_sync::{Mutex, Rank};

use super::plan::{Item, Plan};
use super::tally::Tally;
use super::tree::{Kept, Source, Target, Thing};

/// Bytes copied at a time: a huge page, so that a large file's blocks can be allocated as such.
const CHUNK: usize = 2 << 20;

struct Copy<'c, S, T> {
    source: &'c S,
    target: &'c T,
    plan: &'c Plan,
    tally: &'c Tally,
    /// Items that were not copied: further names of them cannot be made.
    failed: Mutex<HashSet<usize>>,
}

/// Why something was not copied.
#[derive(Debug)]
struct Failed {
    /// The side and path that it is about, for messages.
    path: String,
    error: anyhow::Error,
}

type Step<R> = Result<R, Failed>;

/// Copies `plan` from `source` to `target` in `threads` threads. Failures are in `tally`.
pub(crate) fn copy<S: Source, T: Target>(source: &S, target: &T, plan: &Plan, threads: usize, tally: &Tally) {
    let copy = Copy {
        source,
        target,
        plan,
        tally,
        failed: Mutex::new(Rank::Leaf, HashSet::new()),
    };
    let missing = copy.create_dirs();
    copy.copy_leaves(&missing, threads);
    copy.link_names(&missing);
    copy.finish_dirs(&missing);
}

/// Reads every file of `plan` where it was copied to, and throws the bytes away.
pub(crate) fn read_all<T: Source>(target: &T, plan: &Plan, threads: usize, tally: &Tally) {
    in_parallel(
        &plan.leaves(),
        threads,
        || vec![0; CHUNK],
        |buffer, index| {
            let Some(item) = plan
                .items
                .get(index)
                .filter(|item| item.attributes.kind == FileKind::Regular)
            else {
                return;
            };
            match read_file(target, item, buffer, tally) {
                Ok(()) => tally.count(FileKind::Regular),
                Err(error) => tally.fail(&target.shown(&item.target), &error),
            }
        },
    );
}

fn read_file<T: Source>(target: &T, item: &Item, buffer: &mut [u8], tally: &Tally) -> Result<()> {
    let file = target.open(&item.target).context("cannot open")?;
    let mut offset = 0;
    loop {
        let read = target
            .read_at(&file, buffer, offset)
            .with_context(|| format!("cannot read at byte {offset}"))?;
        if read == 0 {
            return Ok(());
        }
        let read = u64::try_from(read).unwrap_or(0);
        tally.add_bytes(read);
        offset += read;
    }
}

/// Runs `work` on every index, in `threads` threads, each with a state of its own.
pub(crate) fn in_parallel<W>(
    indices: &[usize],
    threads: usize,
    new_state: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut state = new_state();
        // Relaxed: each value is taken once, and nothing else is passed through the counter.
        while let Some(index) = indices.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut state, *index);
        }
    };
    let threads = threads.clamp(1, indices.len().max(1));
    udax_sync::on_threads(threads, run);
}

impl<S: Source, T: Target> Copy<'_, S, T> {
    /// Makes the directories; gives those that could not be made, and all below them.
    fn create_dirs(&self) -> HashSet<PathBuf> {
        let mut missing = HashSet::new();
        for item in &self.plan.items {
            if item.attributes.kind != FileKind::Directory {
                continue;
            }
            if is_below(&missing, item) {
                missing.insert(item.target.clone());
                continue;
            }
            match self.create_dir(&item.target) {
                Ok(()) => self.tally.count(FileKind::Directory),
                Err(error) => {
                    self.tally.fail(&self.target.shown(&item.target), &error);
                    missing.insert(item.target.clone());
                }
            }
        }
        missing
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        let Err(error) = self.target.create_dir(path) else {
            return Ok(());
        };
        match self.target.kind(path) {
            Ok(Some(FileKind::Directory)) => Ok(()),
            Ok(Some(_)) => Err(error.context("a file is where a directory must be")),
            _ => Err(self.why_not_created(path, error)),
        }
    }

    fn copy_leaves(&self, missing: &HashSet<PathBuf>, threads: usize) {
        let leaves = self.plan.leaves();
        in_parallel(&leaves, threads, Vec::new, |buffer, index| {
            let Some(item) = self.plan.items.get(index) else {
                return;
            };
            let copied = if is_below(missing, item) {
                None
            } else {
                Some(self.copy_leaf(item, buffer))
            };
            match copied {
                Some(Ok(())) => return self.tally.count(item.attributes.kind),
                Some(Err(failed)) => self.tally.fail(&failed.path, &failed.error),
                None => {}
            }
            self.failed.lock().insert(index);
        });
    }

    fn copy_leaf(&self, item: &Item, buffer: &mut Vec<u8>) -> Step<()> {
        self.check_place(item)?;
        let content;
        let thing = match item.attributes.kind {
            FileKind::Symlink => {
                content = self.of_source(
                    item,
                    "cannot read the link",
                    self.source.link_target(&item.source),
                )?;
                Thing::Link(&content)
            }
            kind @ (FileKind::CharDevice | FileKind::BlockDevice) => Thing::Node(kind, item.attributes.rdev),
            kind @ (FileKind::Fifo | FileKind::Socket) => Thing::Node(kind, 0),
            FileKind::Regular | FileKind::Directory => return self.copy_file(item, buffer),
        };
        let new = self.create(item, thing)?;
        self.finish(item, &new)?;
        self.publish(item, new)
    }

    fn copy_file(&self, item: &Item, buffer: &mut Vec<u8>) -> Step<()> {
        let from = self.of_source(item, "cannot open", self.source.open(&item.source))?;
        let new = self.create(item, Thing::File)?;
        self.copy_content(&from, &new, item, buffer)?;
        self.finish(item, &new)?;
        self.publish(item, new)
    }

    /// Whether what is there may be replaced: a file by anything, and what is no file by what is of its own kind.
    fn check_place(&self, item: &Item) -> Step<()> {
        let there = self.of_target(item, "cannot look", self.target.kind(&item.target))?;
        match there {
            None | Some(FileKind::Regular) => Ok(()),
            Some(kind) if kind == item.attributes.kind && kind != FileKind::Directory => Ok(()),
            Some(kind) => Err(self.failed_target(item, anyhow!(in_the_way(kind)))),
        }
    }

    fn create(&self, item: &Item, thing: Thing<'_>) -> Step<T::New> {
        let created = self.target.create(&item.target, thing);
        created.map_err(|error| self.failed_target(item, self.why_not_created(&item.target, error)))
    }

    /// A missing directory is the reason that a user can do something about.
    fn why_not_created(&self, path: &Path, error: anyhow::Error) -> anyhow::Error {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        match parent.map(|parent| self.target.kind(parent)) {
            Some(Ok(None)) => error.context("cannot create: its directory does not exist"),
            _ => error.context("cannot create"),
        }
    }

    fn publish(&self, item: &Item, new: T::New) -> Step<()> {
        self.of_target(
            item,
            "cannot give the copy its name",
            self.target.publish(new, &item.target),
        )
    }

    /// Copies what can be read, which is the truth: files of `/proc` and `/sys` have other sizes than they tell, and
    /// files change while they are copied.
    fn copy_content(&self, from: &S::File, to: &T::New, item: &Item, buffer: &mut Vec<u8>) -> Step<()> {
        let size = item.attributes.size;
        if item.attributes.allocated >= size {
            return self.copy_run((from, to), item, 0..u64::MAX, buffer).map(drop);
        }
        let mut end = 0;
        let mut offset = 0;
        while offset < size
            && let Some(run) =
                self.of_source(item, "cannot find the data", self.source.data_run(from, offset))?
        {
            let until = run.end.min(size);
            offset = until.max(offset + 1);
            end = self.copy_run((from, to), item, run.start..until, buffer)?;
            if end < until {
                return self.of_target(item, "cannot set the size", self.target.set_size(to, end));
            }
        }
        if end < size {
            self.of_target(item, "cannot set the size", self.target.set_size(to, size))?;
        }
        self.copy_run((from, to), item, size..u64::MAX, buffer).map(drop)
    }

    /// Copies a run of data; gives the offset of its end, less than asked when the file has become shorter.
    fn copy_run(
        &self,
        (from, to): (&S::File, &T::New),
        item: &Item,
        run: std::ops::Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Step<u64> {
        if buffer.is_empty() {
            buffer.resize(CHUNK, 0);
        }
        let mut offset = run.start;
        while offset < run.end {
            // Up to the next multiple of the chunk, so that later chunks begin at huge pages.
            let aligned = CHUNK - usize::try_from(offset).unwrap_or(0) % CHUNK;
            let wanted = usize::try_from(run.end - offset).unwrap_or(CHUNK).min(aligned);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read = self.source.read_at(from, part, offset);
            let read = read.with_context(|| format!("cannot read at byte {offset}"));
            let read = read.map_err(|error| self.failed_source(item, error))?;
            if read == 0 {
                break;
            }
            let part = part.get(..read).unwrap_or_default();
            let written = self.target.write_at(to, part, offset);
            let written = written.with_context(|| format!("cannot write at byte {offset}"));
            written.map_err(|error| self.failed_target(item, error))?;
            let read = u64::try_from(read).unwrap_or(0);
            offset += read;
            self.tally.add_bytes(read);
        }
        Ok(offset)
    }

    fn link_names(&self, missing: &HashSet<PathBuf>) {
        for item in &self.plan.items {
            let Some(index) = item.link_to.filter(|_| !is_below(missing, item)) else {
                continue;
            };
            match self.link_name(item, index) {
                Ok(()) => self.tally.count_hard_link(),
                Err(failed) => self.tally.fail(&failed.path, &failed.error),
            }
        }
    }

    fn link_name(&self, item: &Item, index: usize) -> Step<()> {
        let first = self
            .plan
            .items
            .get(index)
            .filter(|_| !self.failed.lock().contains(&index));
        let Some(first) = first else {
            let error = anyhow!("another name of the same file, which was not copied");
            return Err(self.failed_source(item, error));
        };
        self.check_place(item)?;
        let new = self.create(item, Thing::Name(&first.target))?;
        self.publish(item, new)
    }

    fn finish_dirs(&self, missing: &HashSet<PathBuf>) {
        let dirs = self.plan.items.iter().rev();
        for item in dirs.filter(|item| item.attributes.kind == FileKind::Directory) {
            if missing.contains(&item.target) {
                continue;
            }
            if let Err(failed) = self.finish(item, &self.target.directory(&item.target)) {
                self.tally.fail(&failed.path, &failed.error);
            }
        }
    }

    /// Owner, extended attributes, mode and times, in the order in which none undoes another.
    fn finish(&self, item: &Item, new: &T::New) -> Step<()> {
        let owned = self.target.set_owner(new, &item.attributes);
        self.of_target(item, "cannot set the owner", owned)?;
        let xattrs = self.source.xattrs(&item.source);
        let xattrs = self.of_source(item, "cannot read the extended attributes", xattrs)?;
        for xattr in xattrs {
            let kept = self.target.set_xattr(new, &xattr).with_context(|| {
                let name = crate::name::escaped(&xattr.name);
                format!("cannot set the attribute {name}")
            });
            if kept.map_err(|error| self.failed_target(item, error))? == Kept::No {
                self.tally.drop_xattr();
            }
        }
        let set = self.target.set_mode_and_times(new, &item.attributes);
        self.of_target(item, "cannot set mode and times", set)
    }

    fn of_source<R>(&self, item: &Item, what: &'static str, result: Result<R>) -> Step<R> {
        result
            .context(what)
            .map_err(|error| self.failed_source(item, error))
    }

    fn of_target<R>(&self, item: &Item, what: &'static str, result: Result<R>) -> Step<R> {
        result
            .context(what)
            .map_err(|error| self.failed_target(item, error))
    }

    fn failed_source(&self, item: &Item, error: anyhow::Error) -> Failed {
        Failed {
            path: self.source.shown(&item.source),
            error,
        }
    }

    fn failed_target(&self, item: &Item, error: anyhow::Error) -> Failed {
        Failed {
            path: self.target.shown(&item.target),
            error,
        }
    }
}

/// Why something of this kind is not replaced.
fn in_the_way(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "a directory is where a file must be",
        FileKind::Symlink => "a symbolic link is there, which is neither followed nor replaced",
        FileKind::CharDevice | FileKind::BlockDevice => "a device is there, which is not replaced",
        FileKind::Fifo | FileKind::Socket => "a fifo or socket is there, which is not replaced",
        FileKind::Regular => "a file is there",
    }
}

/// Whether the directory that `item` goes to could not be made.
fn is_below(missing: &HashSet<PathBuf>, item: &Item) -> bool {
    !missing.is_empty()
        && item
            .target
            .parent()
            .is_some_and(|parent| missing.contains(parent))
}
