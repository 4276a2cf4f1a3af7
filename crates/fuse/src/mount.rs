//! Mounting, serving and stopping.
//!
//! [`Mount::new`] returns when the kernel has the mount, [`Mount::start`] when a request of a program was answered: the
//! mount works then. [`Serving::wait`] returns when it is gone, whoever unmounted it. A [`Stopper`] unmounts from
//! another thread.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fuser::{Config, MountOption, SessionACL};
use rustix::mount::UnmountFlags;
use udax::Filesystem;
use udax_sync::{OnceLock, thread};

use crate::data::MAX_REQUEST_BYTES;
use crate::invalidator::Invalidator;
use crate::meter::Meters;
use crate::mounts::Mounted;
use crate::options::{Audience, KernelFlag, Options};
use crate::server::Server;

/// The most threads without being told: a request rarely waits, so more than processors help little.
const MAX_DEFAULT_THREADS: usize = 16;
/// The fewest: one that waits for a pin must not stop all others.
const MIN_DEFAULT_THREADS: usize = 4;
const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// Why a pool cannot be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The directory is none, or cannot be looked at.
    #[error("{directory}: cannot mount there: {why}; give an existing directory", directory = .directory.display())]
    Directory {
        /// Where it was to be mounted.
        directory: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// A pool is mounted there whose process was killed.
    #[error("{directory}: cannot mount there: the process of what is mounted there is gone; end that with 'udax umount \
        {directory}'", directory = .directory.display())]
    Gone {
        /// Where that is mounted.
        directory: PathBuf,
    },
    /// The list of mounts cannot be read; without it a mount could not be ended.
    #[error("/proc/self/mountinfo: {0}")]
    Mounts(io::Error),
    /// The kernel's side is missing.
    #[error("/dev/fuse: {0}; load it with 'modprobe fuse', or give the container the device")]
    NoDevice(io::Error),
    /// The kernel's side is there, but not for this user.
    #[error("/dev/fuse: {0}; mount as root, or let root give users the device")]
    Forbidden(io::Error),
    /// A user other than root needs the helper.
    #[error("{directory}: cannot mount: {why}; users other than root need fusermount3, of the package fuse3",
        directory = .directory.display())]
    NoHelper {
        /// Where it was to be mounted.
        directory: PathBuf,
        /// What was met.
        why: io::Error,
    },
    /// The kernel or the helper refused.
    #[error("{directory}: cannot mount: {why}", directory = .directory.display())]
    Refused {
        /// Where it was to be mounted.
        directory: PathBuf,
        /// What they said.
        why: io::Error,
    },
    /// The root directory of the pool cannot be read.
    #[error(transparent)]
    Pool(#[from] udax::Error),
    /// It cannot be unmounted.
    #[error("{directory}: cannot unmount: {why}", directory = .directory.display())]
    Unmount {
        /// Where it is mounted.
        directory: PathBuf,
        /// What the kernel or the helper said.
        why: io::Error,
    },
    /// Serving ended with an error.
    #[error("the connection to the kernel failed: {0}")]
    Serve(io::Error),
}

/// A mounted pool that is not served yet. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    session: fuser::Session<Server>,
    directory: PathBuf,
    /// As the kernel lists it.
    own: Option<Mounted>,
    meters: Meters,
}

impl Mount {
    /// Mounts `filesystem` on `directory`; `source` is shown as what is mounted.
    ///
    /// The kernel keeps names, attributes and pages, for ever unless [`Options`] give times. Whoever changes something
    /// through another clone of `filesystem` tells it with [`Mount::invalidator`].
    ///
    /// # Errors
    /// What is missing, or who refused. Nothing is mounted then.
    pub fn new(
        filesystem: Filesystem,
        directory: &Path,
        source: &str,
        options: &Options,
    ) -> Result<Self, MountError> {
        let directory = check_directory(directory)?;
        check_device()?;
        let invalidator = Arc::new(OnceLock::new());
        let server = Server::new(filesystem, options, Arc::clone(&invalidator))?;
        let meters = server.meters.clone();
        let list = || Mounted::all(&directory).map_err(MountError::Mounts);
        let before = list()?;
        let session = fuser::Session::new(server, &directory, &config(options, source))
            .map_err(|why| refused(directory.clone(), why))?;
        // Not the topmost: somebody may have mounted something over it at once. Without the list it could not be found
        // when it is to end, and ends now.
        let mut mounts = list()?.into_iter();
        invalidator.get_or_init(|| Invalidator::new(session.notifier()));
        let own = mounts.rfind(|mount| mount.is_pool() && !before.contains(mount));
        if let Some(own) = &own {
            widen_read_ahead(own);
        }
        Ok(Self {
            session,
            directory,
            own,
            meters,
        })
    }

    /// What stops the mount from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            directory: self.directory.clone(),
            own: self.own.clone(),
        }
    }

    /// What tells the kernel of changes that are made beside the mount. It keeps the connection to the kernel open.
    pub fn invalidator(&self) -> Invalidator {
        Invalidator::new(self.session.notifier())
    }

    /// How many requests of each kind there were, and how long they took.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// As the kernel lists it; none if somebody has unmounted it before it could be found there.
    pub fn mounted(&self) -> Option<&Mounted> {
        self.own.as_ref()
    }

    /// Begins to answer requests, in threads of its own.
    ///
    /// That the mount works another process can see: one that waits for an answer of its own, and is killed meanwhile,
    /// never ends.
    ///
    /// # Errors
    /// There are no threads for it; it is unmounted then.
    pub fn start(self) -> Result<Serving, MountError> {
        let stopper = self.stopper();
        let nothing = thread::Builder::new().spawn(|| Ok(()));
        let nothing = nothing.map_err(MountError::Serve)?;
        // Never dropped: fuser 0.18 takes a mount that has gone for one that is there, and would unmount what is on the
        // directory by then, such as what was there before.
        let mut background = ManuallyDrop::new(self.session.spawn().map_err(MountError::Serve)?);
        let guard = std::mem::replace(&mut background.guard, nothing);
        Ok(Serving { guard, stopper })
    }
}

/// A mount that answers requests.
#[derive(Debug)]
pub struct Serving {
    /// Ends with the last thread that serves.
    guard: thread::JoinHandle<io::Result<()>>,
    stopper: Stopper,
}

impl Serving {
    /// Waits until the mount is gone. The filesystem that was given is not used any more then. A descriptor of
    /// `/dev/fuse` stays open until the process ends.
    ///
    /// # Errors
    /// The connection to the kernel failed; it is unmounted then.
    pub fn wait(self) -> Result<(), MountError> {
        let failure = match self.guard.join() {
            Ok(Ok(())) => return Ok(()),
            // A mount that is taken away in use ends so for threads that were about to ask for more (the kernel's
            // `fuse_dev_do_read`).
            Ok(Err(why)) if why.raw_os_error() == Some(rustix::io::Errno::CONNABORTED.raw_os_error()) => {
                return Ok(());
            }
            Ok(Err(why)) => why,
            Err(_) => io::Error::other("a thread that serves has panicked"),
        };
        // Nobody would answer there. Where the list cannot be read, for want of a descriptor, it is what was mounted.
        let directories = match self.stopper.places() {
            Ok(places) => places.into_iter().map(|mount| mount.directory).collect(),
            Err(_) => vec![self.stopper.directory],
        };
        for directory in directories.iter().rev() {
            let _ = unmount(directory, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
        Err(MountError::Serve(failure))
    }
}

/// Ends a mount.
#[derive(Clone, Debug)]
pub struct Stopper {
    /// Where it was mounted.
    directory: PathBuf,
    own: Option<Mounted>,
}

impl Stopper {
    /// Unmounts, also where it was moved to (`mount --move`), and all that is bound to it (`mount --bind`). Programs
    /// that use it do not hinder that: what they still do gives errors. What was written through mappings is written
    /// back before. What nobody has mounted any more is no error.
    ///
    /// # Errors
    /// Something else is mounted over it; the kernel refuses.
    pub fn stop(&self) -> Result<(), MountError> {
        let failed = |directory: &Path| {
            let directory = directory.to_owned();
            |why| MountError::Unmount { directory, why }
        };
        let places = self.places().map_err(failed(&self.directory))?;
        for place in places.iter().rev() {
            leave(place).map_err(failed(&place.directory))?;
        }
        Ok(())
    }

    /// Where it is mounted now, the latest last.
    fn places(&self) -> io::Result<Vec<Mounted>> {
        self.own.as_ref().map_or(Ok(Vec::new()), Mounted::everywhere)
    }
}

/// Unmounts one of the places of a mount.
fn leave(place: &Mounted) -> io::Result<()> {
    let directory = &place.directory;
    if !Mounted::find(directory)?.is_some_and(|topmost| topmost.is_same(place)) {
        return Err(io::Error::other(
            "something else is mounted over it: unmount that first",
        ));
    }
    match unmount(directory, UnmountFlags::empty()) {
        Err(why) if why.kind() == io::ErrorKind::ResourceBusy => {}
        other => return other,
    }
    tracing::warn!(directory = %directory.display(), "in use: those who use it lose it");
    if let Ok(root) = std::fs::File::open(directory)
        && let Err(error) = rustix::fs::syncfs(&root)
    {
        tracing::warn!(%error, "not all that was written through mappings is durable");
    }
    unmount(directory, UnmountFlags::FORCE | UnmountFlags::DETACH)
}

/// Unmounts `directory`; with `lazy` at once, and for those who use it when they are done.
///
/// # Errors
/// Busy, or no mount; a user other than root has no fusermount3.
pub fn unmount_directory(directory: &Path, lazy: Lazy) -> Result<(), MountError> {
    let flags = match lazy {
        Lazy::Yes => UnmountFlags::DETACH,
        Lazy::No => UnmountFlags::empty(),
    };
    unmount(directory, flags).map_err(|why| MountError::Unmount {
        directory: directory.to_owned(),
        why,
    })
}

/// Whether those who use a mount keep it until they are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lazy {
    /// They do.
    Yes,
    /// With users it is not unmounted.
    No,
}

fn unmount(directory: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(directory, flags) {
        Err(rustix::io::Errno::PERM) => unmount_by_helper(directory, flags),
        other => Ok(other?),
    }
}

/// Users other than root may unmount what they have mounted with fusermount3 only.
fn unmount_by_helper(directory: &Path, flags: UnmountFlags) -> io::Result<()> {
    let mut helper = Command::new(HELPER);
    helper.env("LC_ALL", "C").arg("-u");
    if flags.contains(UnmountFlags::DETACH) {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(directory).output().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("fusermount3: {error}; install the package fuse3, or unmount as root"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    // It tells the kernel's errors in words only; ours is not translated, as it is started without a locale.
    let kind = if told.contains("Device or resource busy") {
        io::ErrorKind::ResourceBusy
    } else {
        io::ErrorKind::Other
    };
    Err(io::Error::new(kind, told))
}

fn check_directory(directory: &Path) -> Result<PathBuf, MountError> {
    let failed = |why: io::Error| {
        let is_gone = why.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error());
        // So answers a connection that has ended (the kernel's `fuse_dentry_revalidate`).
        let around = is_gone.then(|| Mounted::around(directory));
        match around.and_then(Result::ok).flatten() {
            Some(mounted) => MountError::Gone {
                directory: mounted.directory,
            },
            None => MountError::Directory {
                directory: directory.to_owned(),
                why,
            },
        }
    };
    let found = directory.canonicalize().map_err(failed)?;
    let metadata = found.metadata().map_err(failed)?;
    if metadata.is_dir() {
        Ok(found)
    } else {
        Err(failed(io::Error::from(io::ErrorKind::NotADirectory)))
    }
}

fn check_device() -> Result<(), MountError> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map(drop)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => MountError::Forbidden(error),
            _ => MountError::NoDevice(error),
        })
}

/// Lets the kernel read ahead as much as a request can ask for, where we may say so: by itself it stays below what is
/// usual for disks.
fn widen_read_ahead(mounted: &Mounted) {
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device);
    if let Err(error) = std::fs::write(setting, (MAX_REQUEST_BYTES / 1024).to_string()) {
        tracing::debug!(%error, "read-ahead stays as it is");
    }
}

fn refused(directory: PathBuf, why: io::Error) -> MountError {
    // The protocol library mounts as root, and asks the helper when it may not. What starting a missing helper gives
    // depends on the path.
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && Command::new(HELPER).arg("-V").output().is_err() {
        MountError::NoHelper { directory, why }
    } else {
        MountError::Refused { directory, why }
    }
}

/// A value in a list of options, as fusermount3 reads it (libfuse's `fuse_opt_add_opt_escaped`).
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,")
}

fn config(options: &Options, source: &str) -> Config {
    let has = |flag| options.flags.contains(&flag);
    let is_root = rustix::process::geteuid().is_root();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(match is_root {
            true => source.to_owned(),
            // For the helper it is one of a list.
            false => escaped(source),
        }),
        // `Subtype` would not reach the kernel where no helper mounts.
        MountOption::CUSTOM("subtype=udax".to_owned()),
        MountOption::DefaultPermissions,
    ];
    let choices = [
        (options.read_only, MountOption::RO),
        // Only root may lend what set-id bits and device nodes give.
        (is_root && !has(KernelFlag::NoSuid), MountOption::Suid),
        (is_root && !has(KernelFlag::NoDev), MountOption::Dev),
        (has(KernelFlag::NoExec), MountOption::NoExec),
        (options.no_atime, MountOption::NoAtime),
        (options.sync, MountOption::Sync),
        (has(KernelFlag::DirSync), MountOption::DirSync),
    ];
    let chosen = choices.into_iter().filter(|(is_chosen, _)| *is_chosen);
    config.mount_options.extend(chosen.map(|(_, option)| option));
    config.acl = match options.audience {
        Audience::ByMounter if is_root => SessionACL::All,
        Audience::ByMounter | Audience::Mounter => SessionACL::Owner,
        Audience::All => SessionACL::All,
        Audience::MounterAndRoot => SessionACL::RootAndOwner,
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(match options.threads {
        0 => processors.clamp(MIN_DEFAULT_THREADS, MAX_DEFAULT_THREADS),
        threads => threads,
    });
    config.clone_fd = true;
    config
}
