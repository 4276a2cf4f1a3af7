//! A block device or file, opened for direct reads and writes: [`BlockMedium`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread;

use crate::ring::{Request, Rings};
use crate::{BLOCK, DiskError, Medium, Write};

/// How long the lock of a process that is gone may be met, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// What a medium is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading: others may read too.
    Read,
    /// Reading and writing: nobody else has it.
    Write,
}

/// A block device or file.
#[derive(Debug)]
pub struct BlockMedium {
    path: PathBuf,
    file: Flock<File>,
    len: u64,
    /// Without `O_DIRECT`: what is read or written goes through the cache of the kernel.
    is_direct: bool,
    rings: Rings,
    /// Whether it was told that there is no io_uring.
    has_told: AtomicBool,
}

impl BlockMedium {
    /// Opens and locks it. What a killed process had under way the kernel ends after the process, and keeps its lock so
    /// long: that is waited for, for at most two seconds.
    ///
    /// # Errors
    /// `Open`; `Busy`, also for a device with a mounted filesystem; `LargeBlocks`.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::try_open(path, access) {
                Err(DiskError::Busy { .. }) if Instant::now() < end => thread::sleep(PAUSE),
                opened => return opened,
            }
        }
    }

    fn try_open(path: &Path, access: Access) -> Result<Self, DiskError> {
        let failed = |what| move |source: io::Error| DiskError::open(path, what, source);
        let metadata = std::fs::metadata(path).map_err(failed("stat"))?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            let source = io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a block device nor a regular file",
            );
            return Err(DiskError::open(path, "open", source));
        }
        // O_EXCL without O_CREAT: nobody has the device mounted, nor mounts it.
        let is_writer = access == Access::Write;
        let exclusive = if is_device && is_writer { libc::O_EXCL } else { 0 };
        let open = |flags| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(is_writer)
                .custom_flags(exclusive | flags);
            options.open(path)
        };
        let (file, is_direct) = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::warn!(path = %path.display(), "no O_DIRECT here: the kernel caches the data device");
                (open(0), false)
            }
            other => (other, true),
        };
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => DiskError::Busy {
                path: path.to_owned(),
            },
            _ => DiskError::open(path, "open", error),
        })?;
        if is_writer && is_device && is_read_only(&metadata) {
            // The kernel opens it all the same, and refuses the first write.
            return Err(DiskError::open(path, "open", Errno::EROFS));
        }
        let bytes = logical_block(&file, is_device);
        if is_direct && bytes > BLOCK {
            return Err(DiskError::LargeBlocks {
                path: path.to_owned(),
                bytes,
            });
        }
        let argument = match access {
            Access::Read => FlockArg::LockSharedNonblock,
            Access::Write => FlockArg::LockExclusiveNonblock,
        };
        let mut file = Flock::lock(file, argument).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => DiskError::Busy {
                path: path.to_owned(),
            },
            errno => DiskError::open(path, "lock", errno),
        })?;
        let len = file.seek(SeekFrom::End(0)).map_err(failed("find the end"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len: len / BLOCK * BLOCK,
            is_direct,
            rings: Rings::default(),
            has_told: AtomicBool::new(false),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel's cache is passed by.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Why there is no io_uring is told once.
    fn tell(&self, error: &io::Error) {
        if !self.has_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.path.display(), %error, "no io_uring: one request at a time");
        }
    }
}

/// Whether the kernel takes no writes for a block device: sysfs(5), `ro`. Where it does not say, it may take them.
fn is_read_only(device: &Metadata) -> bool {
    let number = device.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let said = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    said.is_ok_and(|said| said.trim() == "1")
}

/// What requests must be multiples of; 512 where nobody says.
fn logical_block(file: &File, is_device: bool) -> u64 {
    if is_device {
        return rustix::fs::ioctl_blksszget(file).map_or(512, u64::from);
    }
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(file, "", flags, rustix::fs::StatxFlags::DIOALIGN);
    found.map_or(512, |found| u64::from(found.stx_dio_offset_align))
}

impl Medium for BlockMedium {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        let mut ring = match self.rings.take() {
            Ok(ring) => ring,
            Err(error) => {
                self.tell(&error);
                return self
                    .file
                    .read_exact_at(to, at)
                    .map_err(|source| DiskError::Failed {
                        what: "read",
                        at,
                        source,
                    });
            }
        };
        let result = ring.run(&self.file, vec![Request::Read { at, to }]);
        self.rings.give_back(ring);
        result
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let mut ring = match self.rings.take() {
            Ok(ring) => ring,
            Err(error) => {
                self.tell(&error);
                return writes.iter().try_for_each(|write| {
                    let written = self.file.write_all_at(write.bytes, write.at);
                    written.map_err(|source| DiskError::Failed {
                        what: "write",
                        at: write.at,
                        source,
                    })
                });
            }
        };
        let requests = writes.iter().map(|write| Request::Write {
            at: write.at,
            from: write.bytes,
        });
        let result = ring.run(&self.file, requests.collect());
        self.rings.give_back(ring);
        result
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|source| DiskError::Failed {
            what: "flush",
            at: 0,
            source,
        })
    }
}
