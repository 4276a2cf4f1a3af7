//! Mounting and serving, until somebody unmounts or a signal comes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use udax::{DataSource, Filesystem, MountOptions};
use udax_fuse::{Mount, Mounted, Options, Stopper};
use udax_journal::JournalError;
use udax_sync::thread;

use super::daemon;
use crate::live::metrics::{Place, Target};
use crate::live::{self, MountFacts, Source};
use crate::{failure, pool};

/// Whom to tell that the mount works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ready {
    /// The process that started this one as a daemon.
    Tell,
    /// Nobody: it is in the foreground.
    Stay,
}

/// How the mount is to be, and who is told of it.
#[derive(Debug)]
struct View<'o> {
    options: &'o Options,
    metrics: Option<Target>,
    ready: Ready,
}

/// Serves `pool` on `directory` until it is unmounted.
pub(super) fn serve(
    pool: &Path,
    directory: &Path,
    (options, metrics): (&Options, Option<Place>),
    ready: Ready,
) -> anyhow::Result<ExitCode> {
    // A descriptor for each file that somebody opens, and for each thread that serves; a pool or data device that is a
    // file may be longer than what the one who mounts may write.
    for resource in [Resource::Nofile, Resource::Fsize] {
        let limit = getrlimit(resource);
        let most = Rlimit {
            current: limit.maximum,
            ..limit
        };
        if let Err(error) = setrlimit(resource, most) {
            tracing::debug!(?resource, %error, "a limit stays as it is");
        }
    }
    // Before the pool is opened: an address that is taken is no reason to replay a journal.
    let metrics = metrics.map(|metrics| metrics.open(directory)).transpose()?;
    if ready == Ready::Tell {
        daemon::detach()?;
    }
    let filesystem = open(pool, options)?;
    let view = View {
        options,
        metrics,
        ready,
    };
    let served = mount_and_serve(&filesystem, (pool, directory), view);
    let closed = pool::close(pool, filesystem);
    if let Err(error) = &closed {
        // Who has unmounted it is not told: this is all that says what became of it.
        tracing::error!(pool = %pool.display(), error = failure::line(error), "what was not synced may be lost");
    }
    served?;
    closed?;
    tracing::info!(pool = %pool.display(), "closed");
    Ok(ExitCode::SUCCESS)
}

fn mount_and_serve(
    filesystem: &Filesystem,
    (pool, directory): (&Path, &Path),
    view: View<'_>,
) -> anyhow::Result<()> {
    let View {
        options,
        metrics,
        ready,
    } = view;
    // Before the mount, which nobody serves at first: what asks for a file below it then would wait for ever.
    let source = Source::new(pool, filesystem).of_this_process();
    let nothing = (ready == Ready::Tell).then(daemon::open_nothing).transpose()?;
    let sockets = live::make_runtime_directory(Some(directory));
    // The same: a signal that comes between the two must not leave it without a process.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let name = pool.to_string_lossy();
    let mount = Mount::new(filesystem.clone(), directory, &name, options)?;
    let handle = signals.handle();
    let stopper = mount.stopper();
    let signalled = stopper.clone();
    let listener = thread::Builder::new().spawn(move || stop_at_signals(signals, &signalled))?;
    tracing::info!(pool = %name, directory = %directory.display(), "mounted");
    let facts = MountFacts {
        directory,
        device: mount.mounted().and_then(Mounted::device_number).unwrap_or(0),
        is_read_only: options.read_only,
        meters: mount.meters(),
    };
    let source = source.with_mount(facts);
    let serving = mount.start()?;
    // What serves them may lie on the mount itself.
    let shown = metrics.map(|target| target.start(source.clone())).transpose();
    let live = live::Server::start(source, sockets);
    let shown = shown.and_then(|metrics| {
        nothing.map(daemon::tell_serving).transpose()?;
        Ok(metrics)
    });
    let (metrics, failure) = match shown {
        Ok(metrics) => (metrics, None),
        Err(error) => {
            // Nobody would end what cannot be unmounted.
            if let Err(why) = stopper.stop() {
                return Err(error.context(why));
            }
            (None, Some(error))
        }
    };
    let served = serving.wait();
    // What they have of the pool keeps it open.
    drop(live);
    drop(metrics);
    handle.close();
    if listener.join().is_err() {
        tracing::error!("what listens for signals has panicked");
    }
    served?;
    failure.map_or(Ok(()), Err)
}

fn stop_at_signals(mut signals: Signals, stopper: &Stopper) {
    for signal in &mut signals {
        tracing::info!(signal, "stopping");
        if let Err(error) = stopper.stop() {
            // Most likely somebody has unmounted it meanwhile.
            tracing::error!(%error, "cannot stop");
        }
    }
}

fn open(pool: &Path, options: &Options) -> anyhow::Result<Filesystem> {
    let mount_options = MountOptions {
        // What is replayed in memory only looks writable to the library.
        read_only: options.read_only && !options.no_recovery,
        private: options.no_recovery,
        no_atime: options.no_atime || options.read_only,
        no_directory_atime: options.no_directory_atime,
        msync: options.msync,
        populate: options.populate,
        dax: options.dax,
        cache_bytes: options.cache_bytes,
        data: options.data.clone().map(DataSource::Path),
        ..MountOptions::default()
    };
    if !options.read_only {
        return pool::open_for_writing(pool, &mount_options);
    }
    pool::try_open(pool, &mount_options).map_err(|error| {
        if matches!(error, udax::Error::Journal(JournalError::Unclean)) {
            return anyhow!(
                "{}: was not closed cleanly: mount it once without 'ro', which replays its journal, or add 'norecovery' to \
                 see it as it is",
                crate::name::shown(pool)
            );
        }
        failure::of_pool(pool, failure::OPEN, error)
    })
}
