//! The command line: the subcommands, and which one the program's own name asks for.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use signal_hook::consts::SIGXFSZ;

use crate::output::Output;
use crate::{
    attr, bench, cat, completions, demo, df, dump, failure, fsck, get, grow, info, links, list, man, mkdir,
    mkfs, mount, mv, put, remove, scrub, stat, stats, stress, tier, top, tree, umount,
};

/// Persistent-memory pools: make, fill, read, check and repair them
///
/// A place in a pool is written POOL:/PATH; POOL is a file or a device, and ends at the first ":/".
#[derive(Parser, Debug)]
#[command(name = "udax", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Mkfs(mkfs::Mkfs),
    Fsck(fsck::Fsck),
    Scrub(scrub::Scrub),
    Mount(mount::Mount),
    Umount(umount::Unmount),
    Top(top::Top),
    Info(info::Info),
    Put(put::Put),
    Get(get::Get),
    Ls(list::List),
    Tree(tree::Tree),
    Cat(cat::Cat),
    Stat(stat::Stat),
    Stats(stats::Stats),
    Attr(attr::Attr),
    Tier(tier::Tier),
    Mkdir(mkdir::Mkdir),
    Rm(remove::Remove),
    Mv(mv::Move),
    Df(df::Df),
    Grow(grow::Grow),
    Dump(dump::Dump),
    Demo(demo::Demo),
    #[command(hide = true)]
    DemoWriter(demo::DemoWriter),
    Bench(bench::Bench),
    Stress(stress::Stress),
    Man(man::Man),
    Completions(completions::Completions),
    Links(links::Links),
}

/// The whole command, for man pages and completions.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// The exit statuses of failures: those of the program that a command stands in for.
#[derive(Clone, Copy, Debug)]
struct Statuses {
    failed: u8,
    usage: u8,
}

impl Statuses {
    /// Those of a program called `name`, or of the subcommand `first`.
    fn of(name: &OsStr, first: Option<&OsString>) -> Self {
        let first = first.and_then(|first| first.to_str());
        match (name.to_str(), first) {
            (Some("fsck.udax"), _) => Self::FSCK,
            (Some("mount.udax" | "mount.fuse.udax"), _) => Self::MOUNT,
            (Some("mkfs.udax"), _) => Self::OWN,
            (_, Some("fsck")) => Self::FSCK,
            (_, Some("mount" | "umount")) => Self::MOUNT,
            _ => Self::OWN,
        }
    }

    const OWN: Self = Self {
        failed: failure::FAILED,
        usage: failure::USAGE,
    };
    const FSCK: Self = Self {
        failed: fsck::OPERATIONAL,
        usage: fsck::USAGE,
    };
    const MOUNT: Self = Self {
        failed: mount::FAILED,
        usage: mount::USAGE,
    };
}

/// Runs a command line.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    // With somebody who listens, a file that may not become so long (ulimit -f) is an error and not the end.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        tracing::debug!(%error, "SIGXFSZ stays as it is");
    }
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let name = name.unwrap_or_default().to_owned();
    let statuses = Statuses::of(&name, arguments.get(1));
    let command = match name.to_str() {
        Some("mkfs.udax") => mkfs::Mkfs::try_parse_from(arguments).map(Command::Mkfs),
        Some("fsck.udax") => fsck::Fsck::try_parse_from(arguments).map(Command::Fsck),
        Some("mount.udax" | "mount.fuse.udax") => mount::Mount::try_parse_from(arguments).map(Command::Mount),
        _ => Cli::try_parse_from(arguments).map(|cli| cli.command),
    };
    match command {
        Ok(command) => execute(command, statuses),
        Err(error) => refuse(&error, statuses),
    }
}

fn execute(command: Command, statuses: Statuses) -> ExitCode {
    // A mount's options say what it logs.
    if !matches!(command, Command::Mount(_)) {
        start_log();
    }
    let mut output = Output::stdout();
    let result = command.run(&mut output).and_then(|code| {
        output.flush()?;
        Ok(code)
    });
    result.unwrap_or_else(|error| failure::report(&error, statuses.failed))
}

impl Command {
    fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::Mkfs(command) => command.run(output),
            Self::Fsck(command) => command.run(output),
            Self::Scrub(command) => command.run(output),
            Self::Mount(command) => command.run(),
            Self::Umount(command) => command.run(),
            Self::Top(command) => command.run(output),
            Self::Info(command) => command.run(output),
            Self::Put(command) => command.run(output),
            Self::Get(command) => command.run(output),
            Self::Ls(command) => command.run(output),
            Self::Tree(command) => command.run(output),
            Self::Cat(command) => command.run(output),
            Self::Stat(command) => command.run(output),
            Self::Stats(command) => command.run(output),
            Self::Attr(command) => command.run(),
            Self::Tier(command) => command.run(),
            Self::Mkdir(command) => command.run(),
            Self::Rm(command) => command.run(),
            Self::Mv(command) => command.run(),
            Self::Df(command) => command.run(output),
            Self::Grow(command) => command.run(output),
            Self::Dump(command) => command.run(output),
            Self::Demo(command) => command.run(output),
            Self::DemoWriter(command) => command.run(output),
            Self::Bench(command) => command.run(output),
            Self::Stress(command) => command.run(output),
            Self::Man(command) => command.run(),
            Self::Completions(command) => command.run(output),
            Self::Links(command) => command.run(),
        }
    }
}

/// Prints clap's message: help and version on standard output with status 0, mistakes on standard error.
fn refuse(error: &clap::Error, statuses: Statuses) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(statuses.usage)
}

/// Log lines on standard error, as the environment variable `UDAX_LOG` asks (for example `debug`).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("UDAX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
