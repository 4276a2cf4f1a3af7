//! `udax mount` and mount.udax: a pool as a directory, with the exit statuses of mount(8).
//!
//! Without `--foreground` the command starts itself once more as a daemon ([`daemon`]) and waits until that one says
//! that the mount works, or ends; so an error is told where the command was given. [`serve`] is what the daemon does.

mod daemon;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use udax_fuse::Options;

use crate::live::metrics::Place;

/// Exit status: the mount failed (mount(8)).
pub(crate) const FAILED: u8 = 32;
/// Exit status: wrong command line or options (mount(8)).
pub(crate) const USAGE: u8 = 1;

/// Mount a pool on a directory, through FUSE
///
/// In fstab, with the links that 'udax links' makes:
///
///    /dev/dax0.0  /srv/data  udax  defaults,noatime  0  0
///
/// Stop it with 'udax umount DIRECTORY', which waits until the pool is closed, umount(8), which does
/// not, or SIGTERM to its process. 'udax top', 'stats' and 'scrub' of a mount ask its process by a
/// socket, in /run/udax for root, else in $XDG_RUNTIME_DIR or $UDAX_RUNTIME_DIR. The kernel makes a
/// writable mount read-only, and writable again: 'mount -i -o remount,ro DIRECTORY'.
///
/// Options, separated by commas after -o:
///
///   ro, rw           change nothing (needs a pool that was closed cleanly), or all (the default)
///   norecovery       with ro: show a pool that was not closed cleanly, and leave it so
///   noatime          never renew access times
///   nodiratime       never renew those of directories
///   relatime         renew them when they are a day old or not after the last change (the default)
///   lazytime         accepted: times alone are always written later
///   sync             each write is followed by what fsync does
///   dax=always       all files are reached by memory access (the default)
///   dax=inode        those with the DAX flag are ('udax attr +dax', FS_IOC_FSSETXATTR); the others
///                    are reached through a page cache
///   dax=never        none is
///   cache=N          that page cache has N MiB; default 256
///   data=DEVICE      where the pool's data device is, which the pool keeps; default: where it was
///                    last. In a pool with one, dax=always is dax=inode, and dax=never is refused
///   msync            survive power failures also where the pool is a file on an ordinary disk
///   populate         take the page faults of the pool at once
///   allow_other, allow_root, noallow_other
///                    who may look besides who mounts; if root mounts, all by default
///   nosuid, nodev, noexec
///                    as for any mount; users other than root have the first two always
///   uidmap=P:M:N, gidmap=P:M:N
///                    users or groups P to P+N-1 of the pool are M to M+N-1 on the mount
///   entry_timeout=S, attr_timeout=S
///                    seconds that the kernel may remember names and attributes
///   threads=N        threads that serve; default one a processor, but 4 to 16
///   metrics=FILE, metrics=HOST:PORT
///                    as --metrics
///   log=LEVEL        what is logged: error, warn, info, debug, trace, or a filter of lines
///   log_file=FILE    where to; default: standard error
///
/// Exit status: 0 mounted, 1 wrong command line or option, 32 not mounted.
#[derive(Parser, Debug)]
#[command(name = "mount.udax", version, max_term_width = 100, verbatim_doc_comment)]
pub(crate) struct Mount {
    /// Options; see above
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground, and log to standard error
    #[arg(long)]
    foreground: bool,
    /// Mount read-only, as -o ro
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Accepted for mount(8): the default
    #[arg(short = 'w', hide = true)]
    _read_write: bool,
    /// For mount(8): do everything but mount
    #[arg(short = 'f', hide = true)]
    fake: bool,
    /// For mount(8): there is no mtab
    #[arg(short = 'n', hide = true)]
    _no_mtab: bool,
    /// For mount(8): options that are not known are passed over
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// Log what is done, as -o log=info
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Give metrics to Prometheus: in FILE, replaced every five seconds (node_exporter's textfile collector reads
    /// FILE.prom), or at http://HOST:PORT/metrics, where HOST is a loopback address
    #[arg(long, value_name = "FILE|HOST:PORT")]
    metrics: Option<String>,
    /// For mount(8): the type, which is known
    #[arg(short = 't', hide = true)]
    _kind: Option<String>,
    /// What the starting process does for its daemon
    #[arg(long, hide = true)]
    daemon: bool,
    /// The file or device
    pool: PathBuf,
    /// Where to
    directory: PathBuf,
}

impl Mount {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (mut options, metrics) = match self.parse() {
            Ok(parsed) => parsed,
            Err(error) => return Ok(crate::failure::report(&error, USAGE)),
        };
        let pool = std::path::absolute(&self.pool)
            .with_context(|| format!("{}: not a path", crate::name::shown(&self.pool)))?;
        let directory = std::path::absolute(&self.directory)
            .with_context(|| format!("{}: not a path", crate::name::shown(&self.directory)))?;
        // A daemon's working directory is another one.
        if let Some(data) = &mut options.data {
            *data = std::path::absolute(&*data)
                .with_context(|| format!("{}: not a path", crate::name::shown(data)))?;
        }
        if self.fake {
            return Ok(ExitCode::SUCCESS);
        }
        if self.daemon {
            daemon::drop_inherited()?;
        }
        if self.foreground || self.daemon {
            self.start_log(&options)?;
            serve::serve(&pool, &directory, (&options, metrics), self.ready())
        } else {
            daemon::start((&pool, &directory), &self.lists(), self.metrics.as_deref())
        }
    }

    fn ready(&self) -> serve::Ready {
        if self.daemon {
            serve::Ready::Tell
        } else {
            serve::Ready::Stay
        }
    }

    /// The options one by one, as a daemon is given them too.
    fn lists(&self) -> Vec<String> {
        let given = self.options.iter().flat_map(|list| list.split(','));
        let mut options: Vec<String> = given.map(str::to_owned).collect();
        if self.sloppy {
            options.retain(|option| {
                let parsed = Options::parse([option.as_str()]);
                !matches!(parsed, Err(udax_fuse::OptionError::Unknown(_)))
            });
        }
        if self.read_only {
            options.push("ro".to_owned());
        }
        if self.verbose {
            options.push("log=info".to_owned());
        }
        options
    }

    /// What the options say, and where metrics go to.
    fn parse(&self) -> anyhow::Result<(Options, Option<Place>)> {
        let options = Options::parse(self.lists().iter().map(String::as_str))?;
        if let Some(level) = &options.log_level {
            filter(level)?;
        }
        let metrics = self.metrics.as_deref().or(options.metrics.as_deref());
        let metrics = metrics.map(Place::parse).transpose()?;
        Ok((options, metrics))
    }

    /// Log lines to where the options say, as many as they or the environment variable `UDAX_LOG` ask for.
    fn start_log(&self, options: &Options) -> anyhow::Result<()> {
        let asked = options
            .log_level
            .clone()
            .or_else(|| std::env::var("UDAX_LOG").ok());
        // Somewhere that nobody reads any more, or that is full: the mount goes on.
        let log = tracing_subscriber::fmt().log_internal_errors(false);
        let log = log.with_env_filter(filter(asked.as_deref().unwrap_or("warn"))?);
        // That a subscriber is there already is no failure: a test's.
        let _ = match &options.log_file {
            None => log.with_writer(std::io::stderr).try_init(),
            Some(path) => {
                let file = std::fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("{}: cannot open the log", crate::name::shown(path)))?;
                log.with_ansi(false).with_writer(file).try_init()
            }
        };
        Ok(())
    }
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level)
        .with_context(|| format!("mount option 'log={level}' is no level or filter of log lines"))
}
