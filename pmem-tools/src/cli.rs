//! The command line: the subcommands, and which one the program's own name asks for.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::output::Output;
use crate::{
    bench, cat, completions, demo, df, dump, failure, fsck, get, grow, info, links, list, man, mkdir, mkfs,
    mv, put, remove, scrub, stat, stress, tree,
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
    Info(info::Info),
    Put(put::Put),
    Get(get::Get),
    Ls(list::List),
    Tree(tree::Tree),
    Cat(cat::Cat),
    Stat(stat::Stat),
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

/// Runs a command line.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    start_log();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let is_fsck = name == Some(OsStr::new("fsck.udax"))
        || (name != Some(OsStr::new("mkfs.udax")) && arguments.get(1).is_some_and(|first| first == "fsck"));
    let command = if name == Some(OsStr::new("mkfs.udax")) {
        mkfs::Mkfs::try_parse_from(arguments).map(Command::Mkfs)
    } else if name == Some(OsStr::new("fsck.udax")) {
        fsck::Fsck::try_parse_from(arguments).map(Command::Fsck)
    } else {
        Cli::try_parse_from(arguments).map(|cli| cli.command)
    };
    match command {
        Ok(command) => execute(command, is_fsck),
        Err(error) => refuse(&error, is_fsck),
    }
}

fn execute(command: Command, is_fsck: bool) -> ExitCode {
    let mut output = Output::stdout();
    let result = command.run(&mut output).and_then(|code| {
        output.flush()?;
        Ok(code)
    });
    let status = if is_fsck {
        fsck::OPERATIONAL
    } else {
        failure::FAILED
    };
    result.unwrap_or_else(|error| failure::report(&error, status))
}

impl Command {
    fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::Mkfs(command) => command.run(output),
            Self::Fsck(command) => command.run(output),
            Self::Scrub(command) => command.run(output),
            Self::Info(command) => command.run(output),
            Self::Put(command) => command.run(output),
            Self::Get(command) => command.run(output),
            Self::Ls(command) => command.run(output),
            Self::Tree(command) => command.run(output),
            Self::Cat(command) => command.run(output),
            Self::Stat(command) => command.run(output),
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
fn refuse(error: &clap::Error, is_fsck: bool) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(if is_fsck { fsck::USAGE } else { failure::USAGE })
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
