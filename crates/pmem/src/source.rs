//! Files and devices behind regions: opened, locked, sized.
//!
//! The lock is a flock of the whole file, shared for readers. It lives as long as the `Source`, whatever other
//! handles of the file the process has.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

use crate::domain::{self, DaxDevice, SYSFS};
use crate::medium;
use crate::{RegionError, Result};

/// Length and offset of mappings of ordinary files.
const PAGE: u64 = 4096;
/// Pools hold the files of all users: nobody else reads them.
const MODE: u32 = 0o600;

/// Not in libc (linux/magic.h).
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// What is behind a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A file of a filesystem.
    File {
        /// It is in memory (tmpfs, ramfs, hugetlbfs): no power failure is survived.
        is_memory: bool,
        /// What lengths of mappings must be multiples of.
        granule: u64,
    },
    /// A DAX device.
    Device(DaxDevice),
}

/// A file or device, locked.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: Flock<File>,
    kind: Kind,
    /// Made by this open.
    is_new: bool,
}

/// What is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// An existing file or device, for reading.
    Read,
    /// An existing file or device.
    Write,
    /// As `Write`; a file that does not exist is made.
    Create,
}

impl Source {
    /// Opens and locks.
    ///
    /// # Errors
    /// `Busy`; `Io`: what open(2) gives, or neither a file nor a DAX device.
    pub(crate) fn open(path: &Path, mode: Mode) -> Result<Self> {
        let io = |what| move |source: std::io::Error| RegionError::io(path, what, source);
        let absent =
            |advice: String| RegionError::io(path, "open", std::io::Error::new(ErrorKind::NotFound, advice));
        // A device that is used otherwise may have no path: a file of its name must not be made instead.
        if is_device_name(path) && !path.exists() {
            return Err(absent(advice_for_absent(path)));
        }
        let (file, is_new) = open_file(path, mode).map_err(|error| {
            // Or a path, and nobody behind it.
            if is_device_name(path) && error.raw_os_error() == Some(libc::ENXIO) {
                absent(advice_for_absent(path))
            } else {
                io("open")(error)
            }
        })?;
        let metadata = file.metadata().map_err(io("stat"))?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            let filesystem = fstatfs(&file).map_err(|errno| RegionError::io(path, "statfs", errno))?;
            let filesystem = filesystem.filesystem_type();
            let is_hugetlb = filesystem == HUGETLBFS_MAGIC;
            Kind::File {
                is_memory: is_hugetlb || [TMPFS_MAGIC, RAMFS_MAGIC].contains(&filesystem),
                granule: if is_hugetlb { metadata.blksize() } else { PAGE },
            }
        } else if file_type.is_char_device() {
            let device = domain::dax_device(Path::new(SYSFS), metadata.rdev());
            Kind::Device(device.map_err(io("look up the DAX device"))?)
        } else {
            let mut message = "neither a regular file nor a DAX device".to_owned();
            if file_type.is_block_device()
                && let Some(advice) = medium::advice_for_block(Path::new(SYSFS), metadata.rdev())
            {
                message = format!("{message}: {advice}");
            }
            let source = std::io::Error::new(ErrorKind::InvalidInput, message);
            return Err(RegionError::io(path, "open", source));
        };
        let argument = match mode {
            Mode::Read => FlockArg::LockSharedNonblock,
            Mode::Write | Mode::Create => FlockArg::LockExclusiveNonblock,
        };
        match Flock::lock(file, argument) {
            Ok(file) => Ok(Self {
                path: path.to_path_buf(),
                file,
                kind,
                is_new,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(RegionError::Busy {
                path: path.display().to_string(),
                holder: holder(metadata.dev(), metadata.ino()).unwrap_or_default(),
            }),
            Err((_, errno)) => Err(RegionError::io(path, "lock", errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// An error of this source.
    pub(crate) fn io(&self, what: &'static str, source: impl Into<std::io::Error>) -> RegionError {
        RegionError::io(&self.path, what, source)
    }

    /// The sysfs directory of the block device under the file's filesystem, where it has one.
    pub(crate) fn device_directory(&self, sysfs: &Path) -> Option<PathBuf> {
        let device = self.file.metadata().ok()?.dev();
        domain::device_directory(sysfs, "block", device).ok()
    }

    /// Bytes there are.
    ///
    /// # Errors
    /// What stat gives.
    pub(crate) fn len(&self) -> Result<u64> {
        match &self.kind {
            Kind::Device(device) => Ok(device.size),
            Kind::File { .. } => Ok(self
                .file
                .metadata()
                .map_err(|error| self.io("stat", error))?
                .len()),
        }
    }

    /// Gives a file `len` bytes, with blocks under all of them, so that no store can meet a full filesystem. A device
    /// must have that many. On an error a file is as long as before.
    ///
    /// # Errors
    /// `TooSmall` for a device; `Io`: no space.
    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        let old = self.len()?;
        if matches!(self.kind, Kind::Device(_)) {
            return if len <= old {
                Ok(())
            } else {
                Err(self.too_small(old, len))
            };
        }
        self.file
            .set_len(len)
            .map_err(|error| self.io("set the length", error))?;
        let allocated = self.allocate(len);
        if allocated.is_err() && old < len {
            self.file
                .set_len(old)
                .map_err(|error| self.io("set the length back", error))?;
        }
        allocated
    }

    fn allocate(&self, len: u64) -> Result<()> {
        let Ok(signed) = i64::try_from(len) else {
            return Err(self.io("allocate", Errno::EFBIG));
        };
        if len == 0 {
            return Ok(());
        }
        loop {
            match fallocate(&*self.file, FallocateFlags::empty(), 0, signed) {
                Err(Errno::EINTR) => {}
                // The filesystem cannot: a full one will be a media error of a store.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
                Err(errno) => return Err(self.io("allocate", errno)),
            }
        }
    }

    /// That it has fewer bytes than needed.
    pub(crate) fn too_small(&self, len: u64, needed: u64) -> RegionError {
        RegionError::TooSmall {
            path: self.path.display().to_string(),
            len,
            needed,
        }
    }

    /// Makes length and blocks of a file durable, and the name of a new one.
    ///
    /// # Errors
    /// What fsync gives.
    pub(crate) fn sync(&self) -> Result<()> {
        if matches!(self.kind, Kind::Device(_)) {
            return Ok(());
        }
        self.file.sync_all().map_err(|error| self.io("fsync", error))?;
        if self.is_new {
            let parent = match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| self.io("fsync its directory", error))?;
        }
        Ok(())
    }

    /// As [`crate::Region::deep_flush`].
    ///
    /// # Errors
    /// What fsync, or writing the attribute of a device's region, gives.
    pub(crate) fn deep_flush(&self) -> Result<()> {
        match &self.kind {
            Kind::Device(device) => domain::deep_flush(&device.directory),
            Kind::File { .. } => self.file.sync_data(),
        }
        .map_err(|error| self.io("flush deeply", error))
    }

    /// Makes a page of a file good again, on which the medium has lost its bytes; whether that worked. Its content is
    /// zeros or undefined. In memory the page is given back and another one taken; elsewhere the filesystem is told to
    /// write it, which on persistent memory clears the poison. A device has no such door: stores of whole lines may
    /// clear it, and the caller must look whether they have; what the kernel lists stays bad until `ndctl
    /// clear-errors`.
    pub(crate) fn clear_page(&self, page: u64) -> bool {
        let is_inside = self.len().is_ok_and(|len| page + PAGE <= len);
        let Ok(signed) = i64::try_from(page) else {
            return false;
        };
        match &self.kind {
            Kind::File {
                is_memory: true,
                granule,
            } if is_inside && *granule == PAGE => {
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&*self.file, hole, signed, PAGE.cast_signed()).is_ok()
                    && fallocate(&*self.file, FallocateFlags::empty(), signed, PAGE.cast_signed()).is_ok()
            }
            Kind::File { is_memory: false, .. } if is_inside => {
                self.file.write_all_at(&[0; 4096], page).is_ok()
            }
            Kind::Device(device) => {
                // The store says itself whether it has helped, if that cannot be read.
                let listed = domain::bad_ranges(device).unwrap_or_default();
                is_inside && !listed.iter().any(|bad| bad.start < page + PAGE && bad.end > page)
            }
            Kind::File { .. } => false,
        }
    }

    /// Whether the file has bytes of its own at `page`, no hole; of a device, yes.
    pub(crate) fn has_data_at(&self, page: u64) -> bool {
        let Ok(signed) = i64::try_from(page) else {
            return false;
        };
        match self.kind {
            Kind::File { .. } => lseek(&*self.file, signed, Whence::SeekData).is_ok_and(|at| at == signed),
            Kind::Device(_) => true,
        }
    }

    /// The path of a file that this open has made.
    pub(crate) fn new_path(&self) -> Option<&Path> {
        self.is_new.then_some(self.path.as_path())
    }
}

/// Whether it is where devices are: who gives a name there does not want a file.
fn is_device_name(path: &Path) -> bool {
    path.parent() == Some(Path::new("/dev"))
}

/// What to do where a DAX device is missing: it is in another mode, or there is none.
fn advice_for_absent(path: &Path) -> String {
    medium::advice_for_missing(Path::new(SYSFS), path).unwrap_or_else(|| {
        "no such device: 'ndctl list --regions --namespaces' and 'daxctl list' show what there is, and \
             'ndctl create-namespace --mode=devdax' makes one"
            .to_owned()
    })
}

/// Opens; also whether the file is new.
fn open_file(path: &Path, mode: Mode) -> std::io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // So that a fifo does not make us wait.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    if mode == Mode::Read {
        return Ok((options.open(path)?, false));
    }
    options.write(true).mode(MODE);
    if mode == Mode::Create {
        match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => return Ok((result?, true)),
        }
    }
    Ok((options.open(path)?, false))
}

/// Looks at /proc/locks before the holder goes without a name.
const HOLDER_LOOKS: usize = 16;

/// `" by process 123 (name)"` of the first holder of a flock on this inode.
///
/// The kernel counts its way back into the list for each read of it, so that locks which others release meanwhile
/// hide some that are held: a few large reads, and another look when nothing was found.
fn holder(device: u64, inode: u64) -> Option<String> {
    let pid = (0..HOLDER_LOOKS).find_map(|_| find_holder(&read_locks().ok()?, device, inode))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(match name.trim() {
        "" => format!(" by process {pid}"),
        name => format!(" by process {pid} ({name})"),
    })
}

fn read_locks() -> std::io::Result<String> {
    let mut locks = Vec::with_capacity(1 << 16);
    File::open("/proc/locks")?.read_to_end(&mut locks)?;
    Ok(String::from_utf8_lossy(&locks).into_owned())
}

/// Lines are `1: FLOCK ADVISORY WRITE 9044 fe:00:5350030 0 EOF` (proc_locks(5)); those who wait have `->` in front.
/// Holders in another pid namespace are shown as 0.
fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
2: FLOCK  ADVISORY  WRITE 22 fe:01:77 0 EOF
3: FLOCK  ADVISORY  WRITE 33 fe:00:77 0 EOF
3: -> FLOCK  ADVISORY  WRITE 44 fe:00:77 0 EOF
4: FLOCK  ADVISORY  WRITE 0 fe:00:88 0 EOF
garbage
";

    #[test]
    fn the_holder_is_the_flock_of_the_same_device_and_inode() {
        let device = libc::makedev(0xfe, 0);
        assert_eq!(find_holder(LOCKS, device, 77), Some(33));
        assert_eq!(find_holder(LOCKS, device, 88), None);
        assert_eq!(find_holder(LOCKS, device, 99), None);
    }
}
