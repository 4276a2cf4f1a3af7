//! Carries a plan out: directories first, then everything else in parallel, then hard links, and last the
//! attributes of directories, which the work inside them would have changed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use udax::FileKind;
use udax_sync::atomic::{AtomicUsize, Ordering};

use super::plan::{Item, Plan};
use super::tally::Tally;
use super::tree::{Kept, Source, Target};

/// Bytes copied at a time: a huge page, so that a large file's blocks can be allocated as such.
const CHUNK: usize = 2 << 20;

struct Copy<'c, S, T> {
    source: &'c S,
    target: &'c T,
    plan: &'c Plan,
    tally: &'c Tally,
}

/// Copies `plan` from `source` to `target` in `threads` threads. Failures are in `tally`.
pub(crate) fn copy<S: Source, T: Target>(source: &S, target: &T, plan: &Plan, threads: usize, tally: &Tally) {
    let copy = Copy {
        source,
        target,
        plan,
        tally,
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
                Err(error) => tally.fail(&item.target, &error),
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
    udax_sync::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
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
                    self.tally.fail(&item.target, &error);
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
            _ => Err(error.context("cannot make the directory")),
        }
    }

    fn copy_leaves(&self, missing: &HashSet<PathBuf>, threads: usize) {
        let leaves = self.plan.leaves();
        in_parallel(&leaves, threads, Vec::new, |buffer, index| {
            let Some(item) = self.plan.items.get(index) else {
                return;
            };
            if is_below(missing, item) {
                return;
            }
            match self.copy_leaf(item, buffer) {
                Ok(()) => self.tally.count(item.attributes.kind),
                Err(error) => self.tally.fail(&item.source, &error),
            }
        });
    }

    fn copy_leaf(&self, item: &Item, buffer: &mut Vec<u8>) -> Result<()> {
        match item.attributes.kind {
            FileKind::Regular => self.copy_file(item, buffer)?,
            FileKind::Symlink => {
                let content = self
                    .source
                    .link_target(&item.source)
                    .context("cannot read the link")?;
                self.replace(&item.target, |path| self.target.create_link(&content, path))?;
            }
            FileKind::Directory => {}
            kind @ (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice) => {
                let rdev = match kind {
                    FileKind::CharDevice | FileKind::BlockDevice => item.attributes.rdev,
                    _ => 0,
                };
                self.replace(&item.target, |path| self.target.create_node(path, kind, rdev))?;
            }
        }
        self.finish(item)
    }

    fn copy_file(&self, item: &Item, buffer: &mut Vec<u8>) -> Result<()> {
        let from = self.source.open(&item.source).context("cannot open")?;
        let error = match self.target.create_file(&item.target) {
            Ok(to) => return self.fill(&from, (to, &item.target), item, buffer),
            Err(error) => error,
        };
        match self.target.kind(&item.target) {
            Ok(Some(FileKind::Regular)) => {}
            Ok(Some(kind)) => return Err(error.context(in_the_way(kind))),
            _ => return Err(error.context("cannot create")),
        }
        // The old file stays until the new one is whole.
        let beside = beside(&item.target);
        let to = self.target.create_file(&beside).context("cannot create")?;
        self.fill(&from, (to, &beside), item, buffer)?;
        let replaced = self.target.replace(&beside, &item.target);
        if replaced.is_err() {
            let _ = self.target.remove(&beside);
        }
        replaced.context("cannot replace what is there")
    }

    /// Copies the content to a new file; removes it if that fails: half a file is worse than none.
    fn fill(
        &self,
        from: &S::File,
        (to, path): (T::File, &Path),
        item: &Item,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let copied = self.copy_content(from, &to, item, buffer);
        drop(to);
        if copied.is_err() {
            let _ = self.target.remove(path);
        }
        copied
    }

    fn copy_content(&self, from: &S::File, to: &T::File, item: &Item, buffer: &mut Vec<u8>) -> Result<()> {
        let size = item.attributes.size;
        let mut end = 0;
        if item.attributes.allocated >= size {
            end = self.copy_run(from, to, 0..size, buffer)?;
        } else {
            let mut offset = 0;
            while offset < size
                && let Some(run) = self
                    .source
                    .data_run(from, offset)
                    .context("cannot find the data")?
            {
                offset = run.end.min(size).max(offset + 1);
                end = self.copy_run(from, to, run.start..run.end.min(size), buffer)?;
            }
        }
        if end < size {
            self.target.set_size(to, size).context("cannot set the size")?;
        }
        Ok(())
    }

    /// Copies a run of data; gives the offset of its end, less than asked when the file has become shorter.
    fn copy_run(
        &self,
        from: &S::File,
        to: &T::File,
        run: std::ops::Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<u64> {
        if buffer.is_empty() {
            buffer.resize(CHUNK, 0);
        }
        let mut offset = run.start;
        while offset < run.end {
            // Up to the next multiple of the chunk, so that later chunks begin at huge pages.
            let aligned = CHUNK - usize::try_from(offset).unwrap_or(0) % CHUNK;
            let wanted = usize::try_from(run.end - offset).unwrap_or(CHUNK).min(aligned);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read = self
                .source
                .read_at(from, part, offset)
                .with_context(|| format!("cannot read at byte {offset}"))?;
            if read == 0 {
                break;
            }
            self.target
                .write_at(to, part.get(..read).unwrap_or_default(), offset)
                .with_context(|| format!("cannot write at byte {offset}"))?;
            let read = u64::try_from(read).unwrap_or(0);
            offset += read;
            self.tally.add_bytes(read);
        }
        Ok(offset)
    }

    fn link_names(&self, missing: &HashSet<PathBuf>) {
        for item in &self.plan.items {
            let Some(first) = item.link_to.and_then(|index| self.plan.items.get(index)) else {
                continue;
            };
            if is_below(missing, item) {
                continue;
            }
            match self.replace(&item.target, |path| self.target.hard_link(&first.target, path)) {
                Ok(()) => self.tally.count_hard_link(),
                Err(error) => self.tally.fail(&item.source, &error),
            }
        }
    }

    fn finish_dirs(&self, missing: &HashSet<PathBuf>) {
        let dirs = self.plan.items.iter().rev();
        for item in dirs.filter(|item| item.attributes.kind == FileKind::Directory) {
            if missing.contains(&item.target) {
                continue;
            }
            if let Err(error) = self.finish(item) {
                self.tally.fail(&item.target, &error);
            }
        }
    }

    /// Owner, extended attributes, mode and times, in the order in which none undoes another.
    fn finish(&self, item: &Item) -> Result<()> {
        let path = &item.target;
        self.target
            .set_owner(path, &item.attributes)
            .context("cannot set the owner")?;
        let xattrs = self
            .source
            .xattrs(&item.source)
            .context("cannot read the extended attributes")?;
        for xattr in xattrs {
            let kept = self
                .target
                .set_xattr(path, &xattr)
                .with_context(|| format!("cannot set the attribute {}", crate::name::escaped(&xattr.name)))?;
            if kept == Kept::No {
                self.tally.drop_xattr();
            }
        }
        self.target
            .set_mode_and_times(path, &item.attributes)
            .context("cannot set mode and times")
    }

    /// Makes something that is no regular file at `path`, in place of what is there already.
    fn replace<R>(&self, path: &Path, make: impl Fn(&Path) -> Result<R>) -> Result<R> {
        let error = match make(path) {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        match self.target.kind(path) {
            Ok(Some(kind @ FileKind::Directory)) => Err(error.context(in_the_way(kind))),
            Ok(Some(_)) => {
                self.target.remove(path).context("cannot replace what is there")?;
                make(path).context("cannot create")
            }
            _ => Err(error.context("cannot create")),
        }
    }
}

/// Why a file cannot go where something of this kind is.
fn in_the_way(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "a directory is where a file must be",
        FileKind::Symlink => "a symbolic link is where a file must be: it is neither followed nor replaced",
        FileKind::CharDevice | FileKind::BlockDevice => "a device is there, which is not replaced",
        FileKind::Fifo | FileKind::Socket => "a fifo or socket is there, which is not replaced",
        FileKind::Regular => "a file is there",
    }
}

/// Another name in the same directory, which nobody else uses.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let name = name.get(..name.len().min(200)).unwrap_or_default();
    let name = [b".", name, format!(".udax-{}", std::process::id()).as_bytes()].concat();
    path.with_file_name(crate::name::path(&name))
}

/// Whether the directory that `item` goes to could not be made.
fn is_below(missing: &HashSet<PathBuf>, item: &Item) -> bool {
    !missing.is_empty()
        && item
            .target
            .parent()
            .is_some_and(|parent| missing.contains(parent))
}
