//! Runs targets on the corpus and on bytes like it; `--help` tells the rest.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_test_fuzz::mutate::mutate;
use udax_test_fuzz::{TARGETS, corpus, target};

#[derive(Debug, Parser)]
#[command(about = "Runs fuzz targets on random changes of their corpus, without a sanitizer or guidance")]
struct Arguments {
    /// Targets; all when none is given
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where changes come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this file instead
    #[arg(long)]
    file: Option<PathBuf>,
    /// Make the corpus in this folder instead
    #[arg(long)]
    make_corpus: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(to) = &arguments.make_corpus {
        return corpus::make(to);
    }
    let names: Vec<&str> = if arguments.targets.is_empty() {
        TARGETS.iter().map(|(name, _)| *name).collect()
    } else {
        arguments.targets.iter().map(String::as_str).collect()
    };
    for name in names {
        if let Some(file) = &arguments.file {
            target(name)(&std::fs::read(file)?);
            continue;
        }
        let (start, mut runs) = (Instant::now(), 0_u64);
        let mut random = SmallRng::seed_from_u64(arguments.seed);
        let inputs = corpus::read(name)?;
        while start.elapsed() < Duration::from_secs(arguments.seconds) {
            let input = mutate(&inputs[random.random_range(0..inputs.len())], &mut random);
            if catch_unwind(AssertUnwindSafe(|| target(name)(&input))).is_err() {
                let path = std::env::temp_dir().join(format!("udax-fuzz-{name}-{runs}"));
                std::fs::write(&path, &input)?;
                anyhow::bail!("repeat it with --file {} {name}", path.display());
            }
            runs += 1;
        }
        println!("{name}: {runs} runs in {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
