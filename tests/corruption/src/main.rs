//! Damages sample pools in every way and judges what becomes of them; `--help` tells the rest.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use clap::Parser;
use udax_test_corruption::damage::Kind;
use udax_test_corruption::run::{Plan, Samples, Tally, count, repeat, run};
use udax_test_corruption::sample::Ending;

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
#[command(about = "Damages small pools in every way and judges what is found, mended and lost")]
struct Arguments {
    /// Every case, instead of a sample
    #[arg(long)]
    all: bool,
    /// At most so many cases of each kind and ending
    #[arg(long, default_value_t = 300, conflicts_with = "all")]
    limit: usize,
    /// Only this kind: flip, bit, swap, zeros, ones, older, torn
    #[arg(long)]
    kind: Option<Kind>,
    /// Only pools left so: clean, killed, cut, tiered
    #[arg(long)]
    ending: Option<String>,
    /// Where values and choices come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Workers; 0 for one a processor
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Let power fail in each repair, too, and judge at most so many images of each moment
    #[arg(long, value_name = "IMAGES")]
    interrupted: Option<usize>,
    /// Only this case, as a failure names it
    #[arg(long)]
    case: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let samples = Samples::make()?;
    if let Some(case) = &arguments.case {
        println!(
            "{case}: {}",
            repeat(&samples, case, arguments.interrupted)?.name()
        );
        return Ok(());
    }
    let is_wanted = |ending: &Ending| {
        arguments
            .ending
            .as_deref()
            .is_none_or(|name| name == ending.name())
    };
    let plan = Plan {
        kinds: arguments.kind.map_or(Kind::ALL.to_vec(), |kind| vec![kind]),
        endings: Ending::ALL.into_iter().filter(is_wanted).collect(),
        limit: (!arguments.all).then_some(arguments.limit),
        seed: arguments.seed,
        threads: arguments.threads,
        interrupted: arguments.interrupted,
    };
    for (ending, kind, count) in count(&samples, &plan) {
        eprintln!("{:6} {:6} {count} cases", ending.name(), kind.name());
    }
    let start = Instant::now();
    let last = Cell::new(start);
    let told = |done: usize, all: usize, failed: usize| {
        if last.get().elapsed() > TOLD_EVERY {
            last.set(Instant::now());
            eprintln!(
                "{done} of {all} cases, {failed} failed, {:.0} s",
                start.elapsed().as_secs_f64()
            );
        }
    };
    // A panic is caught, and told with its case.
    std::panic::set_hook(Box::new(|_| {}));
    let tally = run(&samples, &plan, &told)?;
    print(&tally, &plan, start.elapsed());
    anyhow::ensure!(tally.failed == 0, "{} cases failed", tally.failed);
    Ok(())
}

fn print(tally: &Tally, plan: &Plan, took: Duration) {
    let interrupted = plan
        .interrupted
        .map_or_else(String::new, |images| format!(" --interrupted {images}"));
    for ((ending, kind, outcome), count) in &tally.outcomes {
        println!(
            "{:6} {:6} {:18} {count}",
            ending.name(),
            kind.name(),
            outcome.name()
        );
    }
    for (what, count) in &tally.unnoticed {
        println!("unnoticed: {what}: {count}");
    }
    for (case, why) in &tally.failures {
        println!("cargo run --release -p udax-test-corruption -- --case {case}{interrupted}\n    {why}");
    }
    if tally.interrupted > 0 {
        println!("{} images of interrupted repairs", tally.interrupted);
    }
    println!("{} cases in {:.1} s", tally.cases(), took.as_secs_f64());
}
