//! What files without DAX cost through the library: hits of the page cache beside a copy in memory, and a sync of one
//! dirty page in files of which much or little is cached.
//!
//! ```text
//! cargo run --release -p udax-test-bench --bin cached -- --gib 10
//! ```
//! Copies and hits take turns of less than a millisecond, and each pair gives a ratio, of which the median is shown:
//! what else the machine does meets both. The files whose syncs are compared are holes, of which `--gib` GiB or 64 MiB
//! are cached: as much memory is needed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use udax::{DaxMode, File, Filesystem, FormatOptions, MountOptions};
use udax_test_bench::{CREATE, NEW, memory_path};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// More than the processor's caches.
const BYTES: u64 = 64 * MIB;
/// Pairs of turns.
const ROUNDS: usize = 2000;
/// Copies or hits of a turn.
const TURN: u32 = 500;
/// Syncs of each file.
const SYNCS: usize = 1000;

/// Pages all over a file, in an order that no prefetcher knows.
struct Places(u64);

impl Places {
    fn next(&mut self, bytes: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % (bytes / PAGE) * PAGE
    }

    /// How long a turn takes.
    fn time(&mut self, what: &mut dyn FnMut(u64) -> Result<()>) -> Result<Duration> {
        let begin = Instant::now();
        for _ in 0..TURN {
            what(self.next(BYTES))?;
        }
        Ok(begin.elapsed())
    }
}

/// The median of `ratios`.
fn median(mut ratios: Vec<f64>) -> Result<f64> {
    ratios.sort_by(f64::total_cmp);
    ratios
        .get(ratios.len() / 2)
        .copied()
        .context("nothing was measured")
}

fn compare(
    name: &str,
    hit: &mut dyn FnMut(u64) -> Result<()>,
    copy: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut places = Places(1);
    let (mut ratios, mut hits, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let copied = places.time(copy)?;
        let hit = places.time(hit)?;
        ratios.push(hit.as_secs_f64() / copied.as_secs_f64());
        let each = |turn: Duration| turn.as_secs_f64() * 1e9 / f64::from(TURN);
        hits.push(each(hit));
        copies.push(each(copied));
    }
    println!(
        "{name:52} {:5.2} of a copy: {:.0} ns and {:.0} ns",
        median(ratios)?,
        median(hits)?,
        median(copies)?
    );
    Ok(())
}

fn range(at: u64) -> Result<std::ops::Range<usize>> {
    let from = usize::try_from(at)?;
    Ok(from..from + 4096)
}

/// Hits in a file of which all is cached and dirty, beside copies in `memory`.
fn hits(file: &File, name: &str, memory: &mut [u8]) -> Result<()> {
    let mut buffer = vec![0; 4096];
    let mut out = buffer.clone();
    let source = buffer.clone();
    compare(
        &format!("File::read_at, {name}"),
        &mut |at| {
            black_box(file.read_at(&mut buffer, at)?);
            Ok(())
        },
        &mut |at| {
            out.copy_from_slice(memory.get(range(at)?).context("a place in memory")?);
            black_box(&mut out);
            Ok(())
        },
    )?;
    compare(
        &format!("File::write_at over dirty pages, {name}"),
        &mut |at| {
            black_box(file.write_at(&source, at)?);
            Ok(())
        },
        &mut |at| {
            let to = memory.get_mut(range(at)?).context("a place in memory")?;
            to.copy_from_slice(black_box(&source));
            Ok(())
        },
    )
}

/// Nanoseconds of making a page dirty and syncing it, in a file of which `bytes` are cached.
fn sync_one_page(file: &File, bytes: u64) -> Result<f64> {
    let chunk = usize::try_from(MIB)?;
    let mut read = vec![0; chunk];
    for at in (0..bytes).step_by(chunk) {
        file.read_at(&mut read, at)?;
    }
    let mut places = Places(7);
    let mut nanoseconds = Vec::new();
    // Once before, so that each place has its block.
    for round in 0..2 {
        places.0 = 7;
        for _ in 0..SYNCS {
            let at = places.next(bytes);
            let begin = Instant::now();
            file.write_at(&[round; 4096], at)?;
            file.sync()?;
            if round == 1 {
                nanoseconds.push(begin.elapsed().as_secs_f64() * 1e9);
            }
        }
    }
    median(nanoseconds)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let gib: u64 = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => 1,
        (Some("--gib"), Some(number)) => number.parse()?,
        _ => bail!("--gib N and nothing else"),
    };
    let pool = memory_path("cached.pool");
    let format = FormatOptions {
        size: Some(512 * MIB),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &format)?;
    let options = MountOptions {
        dax: DaxMode::Never,
        no_flusher: true,
        cache_bytes: (gib << 30) + 1024 * MIB,
        dirty_bytes: 256 * MIB,
        ..MountOptions::default()
    };
    let filesystem = Filesystem::open(&pool, &options)?;
    let open = |path: &str| filesystem.open_file(path, CREATE, NEW);
    let mut memory = vec![1_u8; usize::try_from(BYTES)?];

    let file = open("/sequence")?;
    for at in (0..BYTES).step_by(4096) {
        file.write_at(&[1; 4096], at)?;
    }
    hits(&file, "written in sequence", &mut memory)?;
    let file = open("/pages")?;
    // Downwards: each page has a folio of its own.
    for page in (0..BYTES / PAGE).rev() {
        file.write_at(&[1; 4096], page * PAGE)?;
    }
    hits(&file, "written page by page", &mut memory)?;
    drop((file, memory));

    let (small, large) = (open("/small")?, open("/large")?);
    small.truncate(BYTES)?;
    large.truncate(gib << 30)?;
    let small = sync_one_page(&small, BYTES)?;
    let large = sync_one_page(&large, gib << 30)?;
    println!(
        "sync of one dirty page: {small:.0} ns with 64 MiB cached, {large:.0} ns with {gib} GiB: {:.2} times",
        large / small
    );
    std::fs::remove_file(&pool)?;
    Ok(())
}
