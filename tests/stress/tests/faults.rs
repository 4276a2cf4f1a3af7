//! The contest finds a filesystem that lacks one of its protections, within seconds. Only in a build that can lack one
//! (`ci/faults`), and without debug assertions, which would find some of them first.
#![cfg(udax_faults)]

use std::time::Duration;

use anyhow::ensure;
use udax_stress::{EngineKind, Finding, Kind, Options, StressError, Ways, Witness};
use udax_sync::fault::{self, Fault};
use udax_test_stress::StressPool;

fn is_caught(fault: Fault, engine: &EngineKind) -> anyhow::Result<()> {
    is_caught_in(fault, engine, Ways::AsOpened)
}

/// Each test is a process of its own: a fault is injected for good.
fn is_caught_in(fault: Fault, engine: &EngineKind, ways: Ways) -> anyhow::Result<()> {
    fault::inject(fault)?;
    for (seed, witness) in [
        (1, Witness::BytesAndHolders),
        (2, Witness::Bytes),
        (3, Witness::Bytes),
    ] {
        let options = Options {
            seed,
            duration: Duration::from_secs(20),
            witness,
            engine: engine.clone(),
            ways,
            ..Options::default()
        };
        let report = match StressPool::new(64 << 20)?.contest(&options) {
            Err(error) if matches!(error.downcast_ref(), Some(StressError::NoDma { .. })) => {
                println!("skipped: {error}");
                return Ok(());
            }
            report => report?,
        };
        let name = fault.name();
        let first = report.findings.first();
        let what = first.map_or("nothing", |first| &first.what);
        println!("{name}, seed {seed}, {:.3} s: {what}", report.seconds);
        let of_bytes = [
            Kind::Stray,
            Kind::Garbage,
            Kind::TwoHolders,
            Kind::SnapshotChanged,
            Kind::Lost,
        ];
        let of_bytes: Vec<&Finding> = (report.findings.iter())
            .filter(|finding| of_bytes.contains(&finding.kind))
            .collect();
        // Foreign bytes in the pool's own blocks are told by the place that cannot be read any more.
        let has_damage = report.findings.iter().any(|one| one.kind == Kind::Corrupt);
        ensure!(
            !of_bytes.is_empty() || has_damage,
            "{name} is not found: {report:#?}"
        );
        ensure!(
            of_bytes.is_empty() || of_bytes.iter().any(|one| !one.history.is_empty()),
            "nothing says what happened to the block: {report:#?}"
        );
    }
    Ok(())
}

#[test]
fn a_break_that_does_not_wait_is_caught() -> anyhow::Result<()> {
    is_caught(Fault::SkipWait, &EngineKind::Simulated)
}

#[test]
fn entries_that_are_left_behind_are_caught() -> anyhow::Result<()> {
    is_caught(Fault::SkipDelete, &EngineKind::Simulated)
}

#[test]
fn blocks_that_are_freed_while_pinned_are_caught() -> anyhow::Result<()> {
    is_caught(Fault::EarlyFree, &EngineKind::Simulated)
}

#[test]
fn a_cache_that_is_not_written_before_its_file_is_reached_by_memory_access_is_caught() -> anyhow::Result<()> {
    is_caught_in(Fault::UnsettledSwitch, &EngineKind::Simulated, Ways::Switched)
}

#[test]
fn a_break_that_does_not_wait_for_real_dma_is_caught() -> anyhow::Result<()> {
    is_caught(Fault::SkipWait, &EngineKind::IoUring(std::env::temp_dir()))
}
