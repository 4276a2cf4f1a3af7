//! Runs random operations on a pool and compares them with the model.
//!
//! `--seed N --ops N [--seeds K] [--mib N]`: K sequences on udax, from seed N on. A failing one is cut down.
//! `--files plain|summed|cached|switched|tiered`: how the pool keeps the data of files.
//! `--kernel DIR`: the same in a directory of the kernel's file system, to judge the model.
//! `--shrink-seconds N`: how long a failing sequence is cut down, 120 when not given.
//! `--kills N --threads T --seed S`: writers of T threads with pins are killed, N in all; with `--files cached`,
//! `switched` or `tiered`, those whose files are in the page cache; with `--without FAULT`, which miss a protection.
//! `--writer POOL --seed N [--threads T [--memory KIB] [--files FILES]]`, `--recover POOL [--memory KIB]`: what is
//! killed then; not for people.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use udax_sync::fault::{self, Fault};
use udax_test_model::operation::Operation;
use udax_test_model::pool::Files;
use udax_test_model::run::{Failure, Plan, judge_model, pool_path, replay_on_kernel};
use udax_test_model::{killed, shrink};

const USAGE: &str =
    "usage: udax-test-model [--seed N] [--ops N] [--seeds K] [--mib N] [--files FILES] [--kernel DIR]
   or: udax-test-model --kills N [--threads T] [--seed N] [--files FILES [--without FAULT]]
FILES: plain, summed, cached, switched, tiered";
/// How long a failing sequence is cut down, in seconds.
const SHRINK_SECONDS: u64 = 120;
/// Threads of a writer that is killed.
const DEFAULT_THREADS: u16 = 4;
/// Killed writers between two lines of output.
const KILLS_PER_LINE: u64 = 500;

#[derive(Debug)]
struct Arguments {
    seed: u64,
    seeds: u64,
    operations: usize,
    mib: u64,
    files: Files,
    shrink: Duration,
    kernel: Option<PathBuf>,
    writer: Option<PathBuf>,
    recover: Option<PathBuf>,
    kills: u64,
    threads: Option<u16>,
    memory: Option<u64>,
    without: Option<Fault>,
}

fn parse() -> anyhow::Result<Arguments> {
    let mut arguments = Arguments {
        seed: 1,
        seeds: 1,
        operations: 100_000,
        mib: 1024,
        files: Files::Plain,
        shrink: Duration::from_secs(SHRINK_SECONDS),
        kernel: None,
        writer: None,
        recover: None,
        kills: 0,
        threads: None,
        memory: None,
        without: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        match name.as_str() {
            "--seed" => arguments.seed = value.parse()?,
            "--seeds" => arguments.seeds = value.parse()?,
            "--ops" => arguments.operations = value.parse()?,
            "--mib" => arguments.mib = value.parse()?,
            "--files" => {
                arguments.files = Files::named(&value).with_context(|| {
                    format!(
                        "{value} are no files
{USAGE}"
                    )
                })?;
            }
            "--shrink-seconds" => arguments.shrink = Duration::from_secs(value.parse()?),
            "--kernel" => arguments.kernel = Some(value.into()),
            "--writer" => arguments.writer = Some(value.into()),
            "--recover" => arguments.recover = Some(value.into()),
            "--kills" => arguments.kills = value.parse()?,
            "--memory" => arguments.memory = Some(value.parse()?),
            "--without" => arguments.without = Some(value.parse()?),
            "--threads" => arguments.threads = Some(value.parse()?),
            _ => bail!("{name} is unknown\n{USAGE}"),
        }
    }
    Ok(arguments)
}

fn main() -> anyhow::Result<()> {
    let arguments = parse()?;
    if let Some(pool) = &arguments.writer {
        arguments.without.map_or(Ok(()), fault::inject)?;
        return match arguments.threads {
            Some(threads) if arguments.files.are_cached() => {
                killed::cached::write(pool, arguments.seed, threads, arguments.files)
            }
            Some(threads) => killed::threads::write(pool, arguments.seed, threads, arguments.memory),
            None => killed::write(pool, arguments.seed),
        };
    }
    if let Some(pool) = &arguments.recover {
        return killed::threads::recover(pool, arguments.memory);
    }
    if arguments.kills > 0 {
        return kill(&arguments);
    }
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        let start = Instant::now();
        let summary = match &arguments.kernel {
            Some(base) => {
                let directory = tempfile::tempdir_in(base)?;
                judge_model(directory.path(), seed, arguments.operations).map_err(|failure| {
                    explain((seed, arguments.shrink), &failure, |operations| {
                        let directory = tempfile::tempdir_in(base).ok()?;
                        replay_on_kernel(directory.path(), operations)
                    })
                })?
            }
            None => {
                let plan = Plan {
                    pool: pool_path(&format!("model-{seed}")),
                    pool_bytes: arguments.mib << 20,
                    files: arguments.files,
                    seed,
                    operations: arguments.operations,
                };
                plan.run().map_err(|failure| {
                    explain((seed, arguments.shrink), &failure, |operations| {
                        plan.replay(operations)
                    })
                })?
            }
        };
        println!(
            "seed {seed}: {summary:?} in {:.1} s",
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn kill(arguments: &Arguments) -> anyhow::Result<()> {
    let (seed, threads) = (arguments.seed, arguments.threads.unwrap_or(DEFAULT_THREADS));
    let program = std::env::current_exe().context("this program's path")?;
    let pool = pool_path("killed-threads");
    let kept = if arguments.files.are_cached() {
        let shape = (threads, arguments.files);
        let mut arena = killed::cached::Arena::new(&program, &pool, seed, shape)?;
        if let Some(fault) = arguments.without {
            arena = arena.without(fault);
        }
        kill_many(arguments, |seed| {
            arena.kill_one(seed)?;
            Ok(arena.tally())
        })?;
        arena.empty()?
    } else {
        let mut arena = killed::threads::Arena::new(&program, &pool, seed, threads)?;
        kill_many(arguments, |seed| {
            arena.kill_one(seed)?;
            Ok(arena.tally())
        })?;
        arena.empty()?
    };
    println!("emptied, it keeps {kept} blocks more than a new pool");
    Ok(())
}

fn kill_many(
    arguments: &Arguments,
    mut kill_one: impl FnMut(u64) -> anyhow::Result<killed::Tally>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let seed = arguments.seed;
    for number in 0..arguments.kills {
        let tally = kill_one(seed.wrapping_add(number))
            .with_context(|| format!("writer {number} from seed {seed}"))?;
        if (number + 1) % KILLS_PER_LINE == 0 || number + 1 == arguments.kills {
            let minutes = start.elapsed().as_secs_f64() / 60.0;
            let rate = f64::from(u32::try_from(number + 1)?) / minutes;
            println!("{rate:.0} kills a minute: {tally:?}");
        }
    }
    Ok(())
}

fn explain(
    (seed, limit): (u64, Duration),
    failure: &Failure,
    replay: impl Fn(&[Operation]) -> Option<String>,
) -> anyhow::Error {
    eprintln!(
        "seed {seed}: operation {}: {}",
        failure.trace.len(),
        failure.difference
    );
    eprintln!("cutting the sequence down for at most {} s", limit.as_secs());
    let trace = shrink::shrink(&failure.trace, limit, |operations| replay(operations).is_some());
    let difference = replay(&trace).unwrap_or_else(|| failure.difference.clone());
    anyhow::anyhow!("seed {seed}: {}", Failure { trace, difference })
}
