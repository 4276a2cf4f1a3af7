//! Contests of some seconds, with fixed seeds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use udax_stress::{EngineKind, Failing, Options, Report, Stop, StressError, Ways};
use udax_test_stress::StressPool;

const MIB: u64 = 1 << 20;

fn hold(options: &Options, bytes: u64) -> anyhow::Result<Report> {
    hold_on(&StressPool::new(bytes)?, options)
}

fn hold_on(pool: &StressPool, options: &Options) -> anyhow::Result<Report> {
    let report = pool.contest(options)?;
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    assert!(
        report.is_clean(),
        "seed {}: {} findings",
        report.seed,
        report.findings.len()
    );
    pool.check()?;
    // The contest was one.
    assert!(
        report.dma.transfers > 100 && report.dax.retries > 10,
        "{report:#?}"
    );
    assert!(
        report.dma.judged_blocks > 1000 && report.dma.recycled_blocks > 100,
        "{report:#?}"
    );
    Ok(report)
}

#[test]
fn no_store_through_a_pin_reaches_a_block_that_has_changed_hands() -> anyhow::Result<()> {
    for seed in [1, 2] {
        let options = Options {
            seed,
            duration: Duration::from_secs(4),
            ..Options::default()
        };
        let report = hold(&options, 64 * MIB)?;
        assert!(report.dma.unlinked_transfers > 0, "{report:#?}");
    }
    Ok(())
}

#[test]
fn nor_when_the_pool_is_nearly_full() -> anyhow::Result<()> {
    let options = Options {
        seed: 3,
        duration: Duration::from_secs(4),
        files: 30,
        ..Options::default()
    };
    hold(&options, 16 * MIB)?;
    Ok(())
}

#[test]
fn nor_when_files_are_switched_between_memory_access_and_a_cache_that_is_too_small() -> anyhow::Result<()> {
    let is_long = std::env::var_os("UDAX_LONG").is_some();
    for (seed, bytes) in [(6, 64 * MIB), (7, 16 * MIB)] {
        let options = Options {
            seed,
            duration: Duration::from_secs(if is_long { 250 } else { 4 }),
            ways: Ways::Switched,
            ..Options::default()
        };
        let report = hold(&options, bytes)?;
        println!("{report:#?}");
        let switches = report
            .operations
            .iter()
            .find(|count| count.operation == "switch DAX");
        assert!(
            switches.is_some_and(|count| count.count > 100 + count.refused),
            "{report:#?}"
        );
        // The cache was full, and dirty.
        assert!(
            report.cache.evicted > 100 && report.cache.most_dirty > 10,
            "{report:#?}"
        );
    }
    Ok(())
}

#[test]
fn nor_when_the_data_device_fails_now_and_then() -> anyhow::Result<()> {
    let is_long = std::env::var_os("UDAX_LONG").is_some();
    for (seed, one_in) in [(8, 10), (9, 100)] {
        let pool = StressPool::tiered(64 * MIB, seed)?;
        let device = Arc::clone(pool.device().context("a data device")?);
        let options = Options {
            seed,
            duration: Duration::from_secs(if is_long { 250 } else { 4 }),
            ways: Ways::Switched,
            failing: Some(Failing { device, one_in }),
            ..Options::default()
        };
        let report = hold_on(&pool, &options)?;
        println!("{report:#?}");
        let device = &report.device;
        // Dozens, but where a sanitizer makes everything slow.
        assert!(
            device.failed_reads > 2 && device.failed_writes > 2 && device.failed_flushes > 2,
            "{device:?}"
        );
        assert!(device.refused > 10, "{device:?}");
    }
    Ok(())
}

#[test]
fn nor_does_real_dma() -> anyhow::Result<()> {
    let options = Options {
        seed: 4,
        duration: Duration::from_secs(4),
        engine: EngineKind::IoUring(std::env::temp_dir()),
        ..Options::default()
    };
    let pool = StressPool::new(64 * MIB)?;
    let report = match pool.contest(&options) {
        Err(error) if matches!(error.downcast_ref(), Some(StressError::NoDma { .. })) => {
            println!("skipped: {error}");
            return Ok(());
        }
        report => report?,
    };
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    assert!(report.is_clean(), "{} findings", report.findings.len());
    assert!(
        report.dma.dma_reads > 20 && report.dma.bytes > 1 << 20,
        "{report:#?}"
    );
    pool.check()
}

#[test]
fn nor_on_a_filesystem_of_the_kernel() -> anyhow::Result<()> {
    let options = Options {
        seed: 5,
        duration: Duration::from_secs(3),
        ..Options::default()
    };
    let directory = tempfile::tempdir()?;
    let report = match udax_stress::run_directory(directory.path(), &options, &Stop::default()) {
        Err(error @ StressError::NoDma { .. }) => {
            println!("skipped: {error}");
            return Ok(());
        }
        report => report?,
    };
    println!("{:#?}", report.notes);
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    assert!(report.is_clean(), "{} findings", report.findings.len());
    assert!(report.dma.dma_reads > 20, "{report:#?}");
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0);
    Ok(())
}
