//! `udax get`: copies files and trees out of a pool.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use udax::Filesystem;

use crate::copy::{self, Host, InPool, Plan, Root, Summary, Tally};
use crate::output::{Output, OutputArgs};
use crate::pool;
use crate::pool_path::PoolPath;
use crate::progress::Progress;
use crate::put::print_summary;

const AFTER_HELP: &str = "\
What exists at the destination:
  A file gets its name when it is whole, with owner, times and attributes.
  Until then it is beside it, as .NAME.udax-PID-N, which a failure, an
  interruption or a termination removes. What it replaces is there until
  then; other names of that keep the old content.
  A file is replaced by whatever comes, and a symbolic link, fifo, socket or
  device by one of its own kind only: it is neither followed nor written to.
  (cp -a writes into devices; cp --remove-destination replaces them.)
  A directory takes what comes; what it has besides stays. It is not replaced,
  and replaces nothing.

Links and special files:
  A symbolic link is copied as it is. Hard links among what is copied stay
  hard links. Devices need root.

Permissions:
  The destination's directories must be writable. Who is not root becomes the
  owner of everything, and loses set-user-id and set-group-id bits of others'
  files; attributes that cannot be set are counted at the end. The pool itself
  is only read, also when its file is read-only or it was not closed cleanly.

Examples:
  udax get POOL:/report.txt .            the file, into this directory
  udax get POOL:/report.txt old.txt      the file, as old.txt
  udax get POOL:/etc /tmp                the directory, as /tmp/etc
  udax get POOL:/etc/. /tmp/etc          what is in it, into /tmp/etc
  udax get POOL:/ everything             all of the pool";

/// Copy a file or directory out of a pool, as 'cp -a' does
///
/// Kept are modes, times, symbolic and hard links, holes, device nodes, extended attributes with ACLs, and
/// for root owners. A file that cannot be copied is named, the others are copied, and the exit status is 1.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Get {
    /// Threads. Default: one a processor
    #[arg(long, short = 'j')]
    threads: Option<usize>,
    #[command(flatten)]
    format: OutputArgs,
    /// What to copy. With a trailing /. the content of a directory
    #[arg(value_name = "POOL:/PATH")]
    source: PoolPath,
    /// Where to: an existing directory, or the new name
    #[arg(value_name = "DST")]
    destination: PathBuf,
}

impl Get {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let filesystem = pool::open_for_reading(&self.source.pool)?;
        let result = self.copy(&filesystem);
        let closed = pool::close(&self.source.pool, filesystem);
        let summary = result?;
        closed?;
        print_summary(output, self.format, &summary)
    }

    fn copy(&self, filesystem: &Filesystem) -> anyhow::Result<Summary> {
        let from = InPool::new(filesystem, &self.source.pool);
        let host = Host::beside(&self.source.pool);
        if host.is_pool(&self.destination) {
            bail!(
                "{}: is the pool itself: choose another destination",
                crate::name::shown(&self.destination)
            );
        }
        let target = match copy::landing_name(&self.source.path) {
            Some(name) if self.destination.is_dir() => self.destination.join(name),
            _ => self.destination.clone(),
        };
        let root = Root {
            source: self.source.path.clone(),
            target,
        };
        let scan = Tally::new(Progress::hidden());
        let plan = Plan::collect(&from, vec![root], u64::MAX, &scan);
        let scanned = scan.finish();
        let tally = Tally::new(if self.format.is_json() {
            Progress::hidden()
        } else {
            Progress::of_bytes(plan.bytes)
        });
        let threads = self.threads.unwrap_or_else(copy::default_threads);
        copy::copy(&from, &host, &plan, threads, &tally);
        Ok(tally.finish().with_failures_of(scanned))
    }
}
