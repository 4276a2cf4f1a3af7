//! Whether the crash tests find a protection's absence: each fault in a process of its own, since it is for good.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use udax_crash::Domain;
use udax_sync::fault::Fault;

use crate::explore::Effort;
use crate::run::{Campaign, Limits, Sequences, sequences};
use crate::workload::{Workload, alphabet, task_list};

/// Little of each moment, so that many moments are seen: what a fault breaks, it breaks often.
const EFFORT: Effort = Effort::of_all_moments(16, 4, 4);

/// How a run ends that has found an image that breaks a promise: nothing else that goes wrong is taken for that.
pub const VIOLATION: u8 = 3;

/// After so many actions a pool grows.
const GROW_EVERY: usize = 8;

/// After so many actions comes one with a data device.
const DEVICE_EVERY: usize = 2;

/// After so many actions comes one of several records.
const TASK_EVERY: usize = 3;

/// After so many actions come threads that use each other's blocks.
const REUSE_EVERY: usize = 20;

/// What is gone through to find `fault` on such a machine.
pub fn campaign(fault: Fault, domain: Domain, seed: u64, limits: Limits) -> Campaign {
    let grow = || Workload::Grow(vec![0, 1]);
    // What takes long and shows few faults is first for these only.
    let mut workloads = match fault {
        Fault::SplitShift | Fault::UnfencedRebuild => moved(),
        _ => Vec::new(),
    };
    workloads.extend([grow(), Workload::Lanes { records: 700 }]);
    workloads.extend(settled().into_iter().map(tiered));
    let mut tasks = (0..task_list().len()).map(Workload::Many);
    let single = Sequences {
        length: 1,
        sample: None,
    };
    // In turn, so that what only one kind of file has is found as soon as what all have. The samples of a workload that
    // comes again are others.
    for (index, workload) in sequences(single, seed).into_iter().enumerate() {
        if index.is_multiple_of(GROW_EVERY) {
            workloads.extend([summed(grow()), grow()]);
        }
        if index.is_multiple_of(REUSE_EVERY) {
            workloads.push(Workload::Reuse {
                threads: 2,
                rounds: 12,
            });
        }
        if index.is_multiple_of(DEVICE_EVERY) {
            workloads.push(tiered(workload.clone()));
        }
        workloads.extend([cached(workload.clone()), summed(workload.clone()), workload]);
        if index.is_multiple_of(TASK_EVERY) {
            workloads.extend(tasks.next());
        }
    }
    for (seed, pair) in (seed..).zip(sequences(
        Sequences {
            length: 2,
            sample: Some(200),
        },
        seed,
    )) {
        if seed.is_multiple_of(3) {
            workloads.push(summed(pair.clone()));
        }
        workloads.push(pair);
        if seed.is_multiple_of(4) {
            workloads.push(Workload::Random {
                seed,
                operations: 200,
            });
        }
    }
    Campaign {
        workloads,
        domains: vec![domain],
        effort: EFFORT,
        seed,
        limits,
        threads: 0,
    }
}

/// The same with checksums of data.
fn summed(workload: Workload) -> Workload {
    Workload::Summed(Box::new(workload))
}

/// The same with files in the page cache.
fn cached(workload: Workload) -> Workload {
    Workload::Cached(Box::new(workload))
}

/// The same with a data device.
fn tiered(workload: Workload) -> Workload {
    Workload::Tiered(Box::new(workload))
}

/// What matters most with a data device: what was overwritten there is promised, or given to another file.
pub fn settled() -> Vec<Workload> {
    actions(&[
        "overwrite-fsync",
        "overwrite-dsync",
        "write-clone",
        "write-dedupe",
        "write-exchange",
        "unlink-reuse",
        "cut-reuse",
    ])
}

/// What gives extents other places in their files, few of them and many.
fn moved() -> Vec<Workload> {
    let mut workloads = actions(&["collapse", "insert"]);
    let task = task_list().iter().position(|task| task.name == "exchange");
    workloads.extend(task.map(Workload::Many));
    workloads
}

/// The actions of these names, each a workload.
fn actions(names: &[&str]) -> Vec<Workload> {
    let index = |name: &str| alphabet().iter().position(|action| action.name == name);
    let found = names.iter().filter_map(|name| index(name));
    found.map(|index| Workload::Actions(vec![index])).collect()
}

/// All faults that the crash tests find.
pub fn faults() -> impl Iterator<Item = Fault> {
    Fault::CRASH.iter().chain(Fault::DEVICE).copied()
}

/// Lets `program`, which is this package's, hunt for `fault` on such a machine; what it printed first.
///
/// # Errors
/// When nothing is found within `time`, or the program cannot be run.
pub fn hunt(program: &Path, fault: Fault, domain: Domain, time: Duration) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(["hunt", fault.name(), "--domain", domain.name()])
        .args(["--seconds", &time.as_secs().to_string()])
        .stderr(Stdio::null())
        .output()
        .context("start of the hunt")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default().to_owned();
    ensure!(
        output.status.code() == Some(i32::from(VIOLATION)),
        "{} was not found ({}): {text}",
        fault.name(),
        output.status
    );
    Ok(first)
}
