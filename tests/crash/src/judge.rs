//! Whether an image is right: it checks, recovers, holds what was promised, goes on working, closes and checks.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use udax::{FileKind, Filesystem, MountOptions, NewInode, OpenFlags, Owner};
use udax_check::{CheckOptions, Report, Silent};
use udax_crash::{Cut, Domain, Happened, Image, Medium, Pick};
use udax_pmem::Region;
use udax_test_model::model::{Body, Model, ROOT};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Text};
use udax_test_model::run::Summary;
use udax_test_model::verify::verify;

use crate::base::{State, data_source, session};
use crate::promise::{Candidate, Promise};
use crate::record::Share;

/// Bytes by which files become longer, so that what lies behind their ends is seen: in the last block, and extents that
/// a truncation of several records should have freed.
const LONGER: u64 = (8 << 20) + 5000;

/// How much is done with a recovered pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// It is compared.
    Compare,
    /// And used: files become longer, which shows what lies behind their ends; new ones are made.
    Use,
}

/// What the recovery, and the closing right after it, stored.
pub type Recovery = Vec<Happened>;

/// Judges `image`.
///
/// # Errors
/// What is wrong with it.
pub fn judge(image: &Image, promises: &[Promise], depth: Depth) -> Result<Recovery, String> {
    let judged = catch_unwind(AssertUnwindSafe(|| try_judge(image, promises, depth)));
    judged.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

fn try_judge(image: &Image, promises: &[Promise], depth: Depth) -> Result<Recovery, String> {
    let region = image.region().map_err(|error| error.to_string())?;
    check(&region).map_err(|problems| format!("the check before recovery: {problems}"))?;
    let (region, trace) = image.recorded_with_device().map_err(|error| error.to_string())?;
    let options = MountOptions {
        // Comparing reads everything, and closing would make that durable.
        no_atime: true,
        // What is written to a data device is written by the closing.
        no_flusher: true,
        data: data_source(image, &trace),
        ..MountOptions::default()
    };
    let filesystem =
        Filesystem::open_region(region, &options).map_err(|error| format!("recovery: {error}"))?;
    let mut kept = usize::MAX;
    for promise in promises {
        let state = compare(&filesystem, promise)?;
        if depth == Depth::Use {
            // What is done from here on was not promised.
            kept = kept.min(trace.len());
            go_on(&filesystem, promise, state).map_err(|error| format!("after recovery: {error}"))?;
        }
    }
    filesystem.close().map_err(|error| format!("close: {error}"))?;
    let mut recovery = trace.take();
    let mut medium = Medium::new(Domain::Flush, image.clone());
    for event in &recovery {
        medium.happen(event);
    }
    recovery.truncate(kept);
    let closed = medium.image(&Cut::now(Pick::Least));
    let region = closed.region().map_err(|error| error.to_string())?;
    let report = check(&region).map_err(|problems| format!("the check after recovery: {problems}"))?;
    if report.orphans > 0 {
        return Err(format!("{} orphans are left after the recovery", report.orphans));
    }
    if let (
        [
            Promise {
                emptied: Some(least), ..
            },
        ],
        Depth::Use,
    ) = (promises, depth)
    {
        let left = emptied(&closed).map_err(|error| format!("when all is removed: {error}"))?;
        if left > *least {
            return Err(format!(
                "{left} blocks are in use when all is removed, not {least}"
            ));
        }
    }
    Ok(recovery)
}

/// Removes all that is in the pool with the bytes of `image`; how many blocks are in use then.
///
/// # Errors
/// What hinders that; problems that the check finds.
pub fn emptied(image: &Image) -> Result<u64, String> {
    let (region, trace) = image.recorded_with_device().map_err(|error| error.to_string())?;
    let options = MountOptions {
        no_flusher: true,
        data: data_source(image, &trace),
        ..MountOptions::default()
    };
    let filesystem = Filesystem::open_region(region, &options).map_err(|error| error.to_string())?;
    remove_all(&filesystem, Path::new("/")).map_err(|error| error.to_string())?;
    filesystem.close().map_err(|error| error.to_string())?;
    let mut medium = Medium::new(Domain::Flush, image.clone());
    for event in trace.take() {
        medium.happen(&event);
    }
    let closed = medium.image(&Cut::now(Pick::Least));
    let region = closed.region().map_err(|error| error.to_string())?;
    Ok(check(&region)?.used_blocks)
}

fn remove_all(filesystem: &Filesystem, directory: &Path) -> udax::Result<()> {
    for entry in filesystem.read_dir(directory, 0, usize::MAX)? {
        if [&b"."[..], b".."].contains(&entry.name.as_slice()) {
            continue;
        }
        let path = directory.join(OsStr::from_bytes(&entry.name));
        if entry.kind == FileKind::Directory {
            remove_all(filesystem, &path)?;
            filesystem.remove_dir(&path)?;
        } else {
            filesystem.unlink(&path)?;
        }
    }
    Ok(())
}

/// Checks a pool that nobody has open.
///
/// # Errors
/// The problems that are found.
pub fn check(region: &Region) -> Result<Report, String> {
    let options = CheckOptions {
        threads: 1,
        data: true,
        ..CheckOptions::default()
    };
    let report = udax_check::check(region, &options, &Silent).map_err(|error| error.to_string())?;
    match report.problems.is_empty() {
        true => Ok(report),
        false => Err(format!("{:?}", report.problems)),
    }
}

/// The candidate that is there.
fn compare(filesystem: &Filesystem, promise: &Promise) -> Result<State, String> {
    let mut differences = Vec::new();
    for candidate in &promise.candidates {
        match fits(filesystem, promise, candidate) {
            Ok(state) => return Ok(state),
            Err(difference) => differences.push(format!("not {}: {difference}", candidate.what)),
        }
    }
    Err(format!("{}: {}", promise.share, differences.join("; ")))
}

fn fits(filesystem: &Filesystem, promise: &Promise, candidate: &Candidate) -> Result<State, String> {
    let mut state = State::clone(&candidate.state);
    crash(&mut state);
    let torn: Option<Model> = candidate.torn.as_ref().map(|torn| {
        let mut torn = State::clone(torn);
        crash(&mut torn);
        torn.model
    });
    let mut session = session(filesystem.clone(), &promise.share, state);
    if let Some(history) = &promise.history {
        let (base, last) = candidate.versions;
        history.adopt(&mut session, base, last)?;
        // Those of writes become durable with their bytes, or before.
        session.comparer.ignore_times();
    }
    if let Some((rule, after)) = &candidate.part {
        rule.adopt(&mut session, &after.model)?;
        // Each record has its own.
        session.comparer.ignore_times();
    }
    verify(
        &mut session.target,
        &mut session.model,
        torn.as_ref(),
        &mut session.comparer,
    )?;
    names_are_there(filesystem, &promise.share, &session.model)?;
    if torn.is_some() {
        session.model.adopt_bytes(&mut session.target)?;
    }
    Ok(State {
        model: session.model,
        comparer: session.comparer,
    })
}

/// Whether a directory that others use too has exactly the names of `model` among those that are the share's.
fn names_are_there(filesystem: &Filesystem, share: &Share, model: &Model) -> Result<(), String> {
    if share.names.is_empty() {
        return Ok(());
    }
    let expected: BTreeSet<Vec<u8>> = match &model.inode(ROOT).body {
        Body::Directory { entries, .. } => entries.keys().cloned().collect(),
        _ => BTreeSet::new(),
    };
    let directory = Path::new("/").join(&share.directory);
    let entries = filesystem
        .read_dir(&directory, 0, usize::MAX)
        .map_err(|error| format!("{}: {error}", share.directory))?;
    let own = entries
        .iter()
        .filter_map(|entry| entry.name.strip_prefix(share.names.as_bytes()));
    let found: BTreeSet<Vec<u8>> = own.map(<[u8]>::to_vec).collect();
    match found == expected {
        true => Ok(()),
        false => {
            let differ = found.symmetric_difference(&expected);
            let differ: Vec<_> = differ.map(|name| Text(name.clone())).collect();
            Err(format!("there, or not there, are {differ:?}"))
        }
    }
}

/// What a crash does to what is known: files are closed, and lazy times may be lost.
fn crash(state: &mut State) {
    let now = udax_test_model::run::now();
    let _ = state
        .model
        .apply(&Operation::Crash, udax_test_model::run::since(now));
    state.comparer.forget_changes();
}

/// Uses the recovered pool.
fn go_on(filesystem: &Filesystem, promise: &Promise, state: State) -> Result<(), String> {
    let mut longer: Vec<(Vec<u8>, u64)> = Vec::new();
    for (id, path) in state.model.paths() {
        if let Body::File(content) = &state.model.inode(id).body
            && content.size() < 1 << 40
        {
            longer.push((path, content.size() + LONGER));
        }
    }
    let new = NewInode {
        permissions: 0o755,
        owner: Owner::default(),
    };
    let text = |path: &str| Text::from(path.as_bytes());
    let file = |what| Operation::File { slot: 0, what };
    let data = Data { seed: 5, len: 9000 };
    let mut operations: Vec<Operation> = longer
        .into_iter()
        .map(|(path, size)| Operation::Node {
            path: Text(path),
            what: NodeOperation::Truncate { size },
        })
        .collect();
    operations.extend([
        Operation::Name(NameOperation::CreateDir {
            path: text("after"),
            new,
        }),
        Operation::Open {
            slot: 0,
            path: text("after/file"),
            flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
            new,
        },
        file(FileOperation::Write { offset: 100, data }),
        Operation::Name(NameOperation::Unlink {
            path: text("after/file"),
        }),
        file(FileOperation::Read { offset: 0, len: 9100 }),
        Operation::Close { slot: 0 },
    ]);
    let mut session = session(filesystem.clone(), &promise.share, state);
    let mut summary = Summary::default();
    for operation in &operations {
        let done = session.apply(operation, &mut summary);
        done.map_err(|error| format!("{operation:?}: {error}"))?;
    }
    verify(
        &mut session.target,
        &mut session.model,
        None,
        &mut session.comparer,
    )
}
