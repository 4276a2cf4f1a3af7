//! Sequential write-back to a data device, against what fio with io_uring gives on the same one.
//!
//! ```text
//! cargo run --release -p udax-test-bench --bin write_back -- --data FILE_OR_DEVICE --mib 512 --rounds 5
//! ```
//! What is at `--data` is overwritten. A file is made if there is none, and written once before anything is measured,
//! so that its blocks are there. Each round runs fio (1 MiB requests, 32 under way, `O_DIRECT`, an fsync at the end,
//! which its own time may leave out) and the write-back of as many bytes that lie dirty in the cache; other load
//! disturbs both. The table gives each round, the last line the median of the ratios.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use udax::{DataSource, DaxMode, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};
use udax_test_bench::memory_path;

const MIB: u64 = 1 << 20;

struct Arguments {
    data: PathBuf,
    mib: u64,
    rounds: usize,
}

fn parse() -> Result<Arguments> {
    let (mut data, mut mib, mut rounds) = (None, 512, 5);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--data" => data = Some(PathBuf::from(value)),
            "--mib" => mib = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            other => bail!("no option {other}: --data PATH, --mib N and --rounds N"),
        }
    }
    Ok(Arguments {
        data: data.context("--data says which file or device to overwrite")?,
        mib,
        rounds,
    })
}

/// MiB a second of fio.
fn fio(data: &Path, mib: u64) -> Result<f64> {
    let output = Command::new("fio")
        .args([
            "--name=w",
            "--ioengine=io_uring",
            "--direct=1",
            "--rw=write",
            "--bs=1M",
        ])
        .args([
            "--iodepth=32",
            "--end_fsync=1",
            "--output-format=terse",
            "--terse-version=3",
        ])
        .arg(format!("--filename={}", data.display()))
        .arg(format!("--size={mib}M"))
        .output()
        .context("fio")?;
    ensure!(
        output.status.success(),
        "fio: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .find(|line| line.starts_with("3;"))
        .context("fio's line")?;
    // Field 49 of version 3: milliseconds of the writes.
    let milliseconds: f64 = line.split(';').nth(49).context("fio's runtime")?.parse()?;
    let mib: u32 = mib.try_into()?;
    Ok(f64::from(mib) * 1000.0 / milliseconds)
}

/// MiB a second of the write-back, and of writing and write-back together.
fn udax(pool: &Path, data: &Path, mib: u64) -> Result<(f64, f64)> {
    let source = DataSource::Path(data.to_owned());
    let format = FormatOptions {
        size: Some(256 * MIB),
        force: true,
        data: Some(source.clone()),
        ..FormatOptions::default()
    };
    Filesystem::format(pool, &format)?;
    let mount = MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        cache_bytes: 4 * mib * MIB,
        dirty_bytes: 2 * mib * MIB,
        data: Some(source),
        ..MountOptions::default()
    };
    let filesystem = Filesystem::open(pool, &mount)?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = filesystem.open_file("/f", flags, NewInode::with_permissions(0o600))?;
    let chunk = vec![0x5a; usize::try_from(MIB)?];
    let start = Instant::now();
    for number in 0..mib {
        file.write_at(&chunk, number * MIB)?;
    }
    let written = Instant::now();
    file.sync()?;
    let rate = |time: Duration| Ok::<_, anyhow::Error>(f64::from(u32::try_from(mib)?) / time.as_secs_f64());
    let rates = (rate(written.elapsed())?, rate(start.elapsed())?);
    drop(file);
    filesystem.close()?;
    Ok(rates)
}

fn main() -> Result<()> {
    let Arguments { data, mib, rounds } = parse()?;
    let pool = memory_path("write-back.pool");
    // A little more for headers, in what fio writes too.
    let bytes = (mib + 16) * MIB;
    if !data.exists() {
        std::fs::File::create(&data)?.set_len(bytes)?;
    }
    fio(&data, mib + 16)?;
    let mut ratios = Vec::new();
    println!("round  fio MiB/s  write-back MiB/s  with writes MiB/s  ratio");
    for round in 1..=rounds {
        let theirs = fio(&data, mib)?;
        let (ours, with_writes) = udax(&pool, &data, mib)?;
        ratios.push(ours / theirs);
        println!(
            "{round:5}  {theirs:9.0}  {ours:16.0}  {with_writes:17.0}  {:5.2}",
            ours / theirs
        );
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).context("no round")?;
    println!("median of the ratios: {median:.2}");
    std::fs::remove_file(&pool)?;
    Ok(())
}
