//! The contest finds a filesystem that lacks one of its protections, within seconds. Only in a build that can lack one
//! (`ci/faults`), and without debug assertions, which would find some of them first.
#![cfg(udax_faults)]

use std::time::Duration;

use anyhow::{Context, ensure};
use udax_stress::{EngineKind, Kind, Options, StressError, Witness};
use udax_sync::fault::{self, Fault};
use udax_test_stress::StressPool;

/// Each test is a process of its own: a fault is injected for good.
fn is_caught(fault: Fault, engine: &EngineKind) -> anyhow::Result<()> {
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
        let is_corruption = |kind| {
            matches!(
                kind,
                Kind::Stray | Kind::TwoHolders | Kind::Garbage | Kind::Corrupt
            )
        };
        let corruption = report.findings.iter().find(|finding| is_corruption(finding.kind));
        let corruption = corruption.with_context(|| format!("{name} is not found: {report:#?}"))?;
        ensure!(
            !corruption.history.is_empty(),
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
fn a_break_that_does_not_wait_for_real_dma_is_caught() -> anyhow::Result<()> {
    is_caught(Fault::SkipWait, &EngineKind::IoUring(std::env::temp_dir()))
}
