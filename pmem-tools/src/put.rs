//! `udax put`: copies files and trees of the host into a pool.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use udax::{FileKind, Filesystem};

use crate::copy::{self, Host, InPool, Plan, Root, Summary, Tally};
use crate::failure;
use crate::output::{Output, OutputArgs};
use crate::pool::{self, WriteArgs};
use crate::pool_path::PoolPath;
use crate::progress::Progress;

const AFTER_HELP: &str = "\
What exists in the pool:
  A file gets its name when it is whole, with owner, times and attributes: an
  interrupted or failed copy leaves nothing of a new file, and leaves what it
  would have replaced. Other names of a replaced file keep the old content.
  A file is replaced by whatever comes, and a symbolic link, fifo, socket or
  device by one of its own kind only: it is neither followed nor written to.
  (cp -a writes into devices; cp --remove-destination replaces them.)
  A directory takes what comes; what it has besides stays. It is not replaced,
  and replaces nothing.

Links and special files:
  A symbolic link is copied as it is, also when it is given as SRC; SRC/.
  copies what a link to a directory names. Hard links among what is copied
  stay hard links. Fifos, sockets and devices are made, not read.

Permissions:
  Sources must be readable. Owners are kept as numbers, whoever copies: a pool
  checks no permissions, and who can write its file can do everything in it.

Examples:
  udax put report.txt POOL:/             the file, as /report.txt
  udax put report.txt POOL:/old.txt      the file, as /old.txt
  udax put /etc POOL:/                   the directory, as /etc
  udax put /etc/. POOL:/backup           what is in it, into /backup
  udax put --msync /etc POOL:/           POOL is on an ordinary disk";

/// Copy files and directories into a pool, as 'cp -a' does
///
/// Kept are modes, owners, times, symbolic and hard links, holes, device nodes and extended attributes with
/// ACLs. A file that cannot be copied is named, the others are copied, and the exit status is 1.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Put {
    /// Threads. Default: one a processor
    #[arg(long, short = 'j')]
    threads: Option<usize>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    format: OutputArgs,
    /// What to copy. With a trailing /. the content of a directory
    #[arg(required = true, num_args = 1.., value_name = "SRC")]
    sources: Vec<PathBuf>,
    /// Where to: an existing directory of the pool, or the new name of a single source
    #[arg(value_name = "POOL:/DIR")]
    destination: PoolPath,
}

impl Put {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        self.check_sources()?;
        let summary = pool::change(&self.destination.pool, self.write, |filesystem| {
            self.copy(filesystem)
        })?;
        print_summary(output, self.format, &summary)
    }

    /// Refuses standard input, for which '-' stands elsewhere, unless there is a file of that name.
    fn check_sources(&self) -> anyhow::Result<()> {
        let dash = Path::new("-");
        if self.sources.iter().any(|source| source == dash) && !dash.exists() {
            bail!("-: standard input cannot be copied: give the name of a file");
        }
        Ok(())
    }

    fn copy(&self, filesystem: &Filesystem) -> anyhow::Result<Summary> {
        let host = Host::beside(&self.destination.pool);
        let scan = Tally::new(Progress::hidden());
        let plan = Plan::collect(&host, self.roots(filesystem)?, u64::MAX, &scan);
        let scanned = scan.finish();
        let tally = Tally::new(if self.format.is_json() {
            Progress::hidden()
        } else {
            Progress::of_bytes(plan.bytes)
        });
        let threads = self.threads.unwrap_or_else(copy::default_threads);
        copy::copy(
            &host,
            &InPool::new(filesystem, &self.destination.pool),
            &plan,
            threads,
            &tally,
        );
        Ok(tally.finish().with_failures_of(scanned))
    }

    fn roots(&self, filesystem: &Filesystem) -> anyhow::Result<Vec<Root>> {
        let target = &self.destination.path;
        let kind = match filesystem.stat(target) {
            Ok(stat) => Some(stat.kind),
            Err(udax::Error::NotFound) => None,
            Err(error) => return Err(anyhow!(error).context(format!("{}: cannot look", self.destination))),
        };
        if kind == Some(FileKind::Directory) {
            let roots = self.sources.iter().map(|source| Root {
                source: source.clone(),
                target: copy::landing_name(source).map_or_else(|| target.clone(), |name| target.join(name)),
            });
            return Ok(roots.collect());
        }
        match self.sources.as_slice() {
            [source] => Ok(vec![Root {
                source: source.clone(),
                target: target.clone(),
            }]),
            _ => bail!(
                "{}: is no directory: make it with 'udax mkdir' to copy several sources into it",
                self.destination
            ),
        }
    }
}

/// Prints what was copied; the exit status is 1 when something failed.
pub(crate) fn print_summary(
    output: &mut Output,
    format: OutputArgs,
    summary: &Summary,
) -> anyhow::Result<ExitCode> {
    if format.is_json() {
        output.json(summary)?;
    } else {
        writeln!(output, "{}", summary.sentence())?;
    }
    Ok(match summary.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(failure::FAILED),
    })
}
