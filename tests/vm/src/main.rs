//! Tests on real persistent memory: a virtual machine with an NVDIMM, in three modes.
//!
//! [`Machine`](machine::Machine) runs a job in it; `suite` is everything that is run in one boot, `power` kills
//! machines while a writer runs, and judges what they leave; `poison` is what runs inside. `ci/vm` builds what is
//! needed and starts this.
#![forbid(unsafe_code)]

mod machine;
mod mode;
mod poison;
mod power;
mod suite;
mod unmet;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use machine::Board;
use mode::Mode;
use power::Plan;
use verdict::{End, Lost, Verdict};

/// What the machine boots and what runs in it.
#[derive(clap::Args, Clone, Debug)]
struct Kit {
    #[command(flatten)]
    board: Board,
    /// The `udax` command
    #[arg(long, default_value = "target/debug/udax")]
    udax: PathBuf,
    /// The killed writer
    #[arg(long, default_value = "target/debug/udax-test-model")]
    writer: PathBuf,
    /// The tests of regions, an executable of `cargo test -p udax-pmem --test region --no-run`
    #[arg(long)]
    region: PathBuf,
    /// Where images of memories are made, some of 448 MiB at once
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    images: PathBuf,
    /// Modes; all when none is given
    #[arg(long = "mode", value_enum)]
    modes: Vec<Mode>,
}

impl Kit {
    fn modes(&self) -> Vec<Mode> {
        if self.modes.is_empty() {
            Mode::ALL.to_vec()
        } else {
            self.modes.clone()
        }
    }
}

/// Tests on real persistent memory, in a virtual machine
#[derive(Parser, Debug)]
// ci/vm gives some of them; who gives them again means the latter.
#[command(args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// In each mode, runs the suite once, then kills machines
    All {
        #[command(flatten)]
        kit: Kit,
        #[command(flatten)]
        plan: Plan,
        /// How long each contest of truncations against DMA takes, in seconds
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// End within so many seconds; what was not run by then, or could not be judged, is told, and no failure
        #[arg(long)]
        within: Option<u64>,
    },
    /// Only kills machines
    Kill {
        #[command(flatten)]
        kit: Kit,
        #[command(flatten)]
        plan: Plan,
    },
    /// Runs one command in the machine
    Run {
        #[command(flatten)]
        kit: Kit,
        /// The command, with its arguments; PMEM_DEV or PMEM_DIR says where the memory is
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Inside: pages of a pool lose their bytes
    Poison {
        /// A file or device, which is overwritten
        pool: PathBuf,
    },
}

/// Ends with this when something that was promised is lost: no second try makes that good.
const LOST: u8 = 3;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("ci/vm: {error:#}");
        ExitCode::from(if error.is::<Lost>() { LOST } else { 1 })
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::All {
            mut kit,
            plan,
            seconds,
            within,
        } => {
            let end = End::within(within);
            kit.board.end = end;
            let mut is_all = true;
            for mode in kit.modes() {
                let suite = end.run(&format!("{}: suite", mode.name()), || {
                    suite::run(&kit, mode, seconds)
                })?;
                let kills = end.run(&format!("{}: kills", mode.name()), || {
                    power::run(&kit, mode, plan)
                })?;
                is_all &= [suite, kills] == [Verdict::Passed; 2];
            }
            println!(
                "\nci/vm: {}, nothing is wrong",
                if is_all { "all was run" } else { "not all was run" }
            );
        }
        Command::Kill { kit, plan } => {
            for mode in kit.modes() {
                power::run(&kit, mode, plan)?;
            }
        }
        Command::Run { kit, command } => {
            let mode = match kit.modes[..] {
                [] => Mode::Devdax,
                [mode] => mode,
                _ => bail!("one command runs in one mode"),
            };
            return suite::command(&kit, mode, &command);
        }
        Command::Poison { pool } => {
            poison::run(&pool)?;
            unmet::run(Path::new("/dev/shm/unmet.pool"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
