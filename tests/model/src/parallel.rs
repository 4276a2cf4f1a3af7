//! Many threads on one pool: each in a directory of its own with a model of its own, and all of them in a shared
//! directory, where names are counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use anyhow::{Context, anyhow, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{FileKind, Filesystem, MountOptions, NewInode, OpenFlags, Owner, RenameMode};

use crate::compare::{Comparer, Scope, Times};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::pool::{Pool, check};
use crate::run::{Session, Summary, now, since};
use crate::verify::verify;

const POOL_BYTES: u64 = 1 << 30;
const SHARED_NAMES: u32 = 40;
const NEW: NewInode = NewInode {
    permissions: 0o755,
    owner: Owner { uid: 0, gid: 0 },
};

/// Runs `operations` operations in each of `threads` threads on a new pool in `path`, in each thread half of them in
/// its own directory and half in the shared one, then checks everything.
///
/// # Errors
/// The first difference.
pub fn run(path: &Path, threads: u64, seed: u64, operations: usize) -> anyhow::Result<()> {
    Pool::create(path, POOL_BYTES)?.close()?;
    let filesystem = Filesystem::open(path, &MountOptions::default())?;
    filesystem.create_dir("shared", NEW)?;
    let results: Vec<anyhow::Result<(Worker, i64)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let filesystem = filesystem.clone();
                scope.spawn(move || work(path, filesystem, thread, seed, operations))
            })
            .collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        workers.into_iter().map(join).collect()
    });
    let mut names = 0;
    let mut workers = Vec::new();
    for result in results {
        let (worker, balance) = result?;
        names += balance;
        workers.push(worker);
    }
    for worker in &mut workers {
        worker.compare()?;
    }
    verify_shared(&filesystem, names)?;
    drop(workers);
    filesystem.close().context("close")?;
    check(path)
}

/// A thread's own directory.
struct Worker {
    session: Session<Pool>,
    directory: String,
}

impl Worker {
    fn compare(&mut self) -> anyhow::Result<()> {
        self.session.model.close_all();
        let Session {
            target,
            model,
            comparer,
            ..
        } = &mut self.session;
        verify(target, model, None, comparer).map_err(|error| anyhow!("{}: {error}", self.directory))
    }
}

fn work(
    path: &Path,
    filesystem: Filesystem,
    thread: u64,
    seed: u64,
    operations: usize,
) -> anyhow::Result<(Worker, i64)> {
    let directory = format!("/thread{thread}");
    let before = now();
    filesystem.create_dir(&directory, NEW)?;
    let model = Model::new(0o755, NEW.owner, since(before));
    let mut worker = Worker {
        session: Session {
            target: Pool::within(path, filesystem.clone(), directory.as_bytes()),
            model,
            comparer: Comparer::new(Times::Compared, Scope::Subtree),
            is_small: false,
        },
        directory,
    };
    let mut generator = Generator::new(seed.wrapping_mul(1_000).wrapping_add(thread), Profile::Confined);
    let mut churn = SmallRng::seed_from_u64(seed ^ (thread << 32));
    let mut summary = Summary::default();
    let mut balance = 0;
    for index in 0..operations {
        if index % 2 == 0 {
            balance += churn_shared(&filesystem, &mut churn).with_context(|| format!("operation {index}"))?;
        } else {
            let operation = generator.next(&worker.session.model);
            let result = worker.session.apply(&operation, &mut summary);
            result.map_err(|error| anyhow!("thread {thread}, operation {index} {operation:?}: {error}"))?;
        }
    }
    for slot in 0..crate::operation::SLOTS {
        let close = crate::operation::Operation::Close { slot };
        let result = worker.session.apply(&close, &mut summary);
        result.map_err(|error| anyhow!("thread {thread}, close: {error}"))?;
    }
    Ok((worker, balance))
}

/// One operation in the shared directory; how many names it added.
///
/// Other threads decide whether it succeeds, so that only these errors are none.
fn churn_shared(filesystem: &Filesystem, random: &mut SmallRng) -> anyhow::Result<i64> {
    use nix::errno::Errno;

    let first = format!("shared/{}", random.random_range(0..SHARED_NAMES));
    let second = format!("shared/{}", random.random_range(0..SHARED_NAMES));
    let (result, added) = match random.random_range(0..8) {
        0 | 1 => {
            let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
            let written = filesystem
                .open_file(&first, flags, NEW)
                .and_then(|file| file.append(&[7; 100]));
            (written.map(|_| ()), 1)
        }
        2 => (filesystem.create_dir(&first, NEW).map(|_| ()), 1),
        3 => (filesystem.unlink(&first), -1),
        4 => (filesystem.remove_dir(&first), -1),
        5 => (filesystem.link(&first, &second), 1),
        6 => (filesystem.rename(&first, &second, RenameMode::NoReplace), 0),
        _ => (filesystem.rename(&first, &second, RenameMode::Exchange), 0),
    };
    match result.map_err(|error| error.errno()) {
        Ok(()) => Ok(added),
        Err(Errno::ENOENT | Errno::EEXIST | Errno::EISDIR | Errno::ENOTDIR | Errno::EPERM) => Ok(0),
        Err(errno) => Err(anyhow!("in the shared directory: {errno}")),
    }
}

/// The shared directory has as many names as the threads made, and each inode as many as it says.
fn verify_shared(filesystem: &Filesystem, names: i64) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let found = filesystem.read_dir("shared", cookie, 100)?;
        let Some(last) = found.last() else {
            break;
        };
        cookie = last.cookie;
        entries.extend(
            found
                .into_iter()
                .filter(|entry| entry.name != b"." && entry.name != b".."),
        );
    }
    ensure!(
        i64::try_from(entries.len()) == Ok(names),
        "the shared directory has {} names, and {names} were made",
        entries.len()
    );
    let mut links: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in &entries {
        *links.entry(entry.ino.raw()).or_default() += 1;
    }
    for entry in &entries {
        let path = format!("shared/{}", String::from_utf8_lossy(&entry.name));
        let stat = filesystem.stat_link(&path)?;
        ensure!(
            stat.ino == entry.ino && stat.kind == entry.kind,
            "{path} is not what the directory says"
        );
        let expected = match stat.kind {
            FileKind::Directory => 2,
            _ => links.get(&entry.ino.raw()).copied().unwrap_or(0),
        };
        ensure!(
            stat.nlink == expected,
            "{path} has {} names instead of {expected}",
            stat.nlink
        );
        ensure!(
            stat.kind == FileKind::Directory || stat.size == 100,
            "{path} has {} bytes",
            stat.size
        );
    }
    Ok(())
}
