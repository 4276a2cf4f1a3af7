//! Making and finding a pool's data device: the headers at both of its ends, and that it is this pool's.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use udax_disk::{Access, BlockMedium, Disk, DiskError};
use udax_media::device::{DataDevice, DeviceHeader, MAX_DEVICE_BYTES, MIN_DEVICE_BYTES};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, Superblock};

use crate::error::{Error, Result};
use crate::options::{DataSource, DaxMode, FormatOptions, MountOptions};
use crate::signature;

/// What [`Filesystem::check_data_device`](crate::Filesystem::check_data_device) has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceReport {
    /// Where the device is.
    pub path: PathBuf,
    /// Those of its two headers that are damaged.
    pub damaged_headers: Vec<DamagedHeader>,
}

/// A header of a data device that cannot be read, or not be verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedHeader {
    copy: u32,
    /// The byte of the device that it begins at.
    pub at: u64,
    /// What is wrong with it.
    pub why: String,
    /// Whether it was written anew.
    pub is_mended: bool,
}

/// A device that a pool is about to be made with.
pub(crate) struct NewDevice {
    disk: Arc<Disk>,
    pub(crate) uuid: uuid::Uuid,
    pub(crate) path: Vec<u8>,
}

impl NewDevice {
    /// Opens it, and looks whether it holds something unless that does not matter.
    pub(crate) fn open(source: &DataSource, force: bool) -> Result<Self> {
        let (disk, path) = match source {
            DataSource::Disk(disk) => (Arc::clone(disk), Vec::new()),
            DataSource::Path(path) => {
                let medium = BlockMedium::open(path, Access::Write)?;
                (Arc::new(Disk::new(Arc::new(medium))), lasting_path(path))
            }
        };
        if !(MIN_DEVICE_BYTES..=MAX_DEVICE_BYTES).contains(&disk.len()) {
            return Err(Error::DeviceSize {
                path: PathBuf::from(OsStr::from_bytes(&path)),
                bytes: disk.len(),
            });
        }
        if !force {
            signature::check_blank_disk(&disk, Path::new(OsStr::from_bytes(&path)))?;
        }
        Ok(Self {
            disk,
            uuid: uuid::Uuid::new_v4(),
            path,
        })
    }

    /// The one that a pool, at this path if it has one, is to be made with, if it is to have one.
    ///
    /// # Errors
    /// As [`NewDevice::open`]; `Invalid` if it is the pool itself.
    pub(crate) fn of_format(pool: Option<&Path>, options: &FormatOptions) -> Result<Option<Self>> {
        let Some(source) = &options.data else {
            return Ok(None);
        };
        if let DataSource::Path(device) = source
            && pool.is_some_and(|pool| is_same_file(device, pool))
        {
            return Err(Error::Invalid("the data device is the pool itself"));
        }
        Ok(Some(Self::open(source, options.force)?))
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.disk.len() / BLOCK_BYTES
    }

    /// Writes both headers, durably.
    pub(crate) fn write_headers(&self, superblock: &Superblock) -> Result<()> {
        let header = DeviceHeader {
            pool: superblock.uuid,
            device: self.uuid,
            blocks: self.blocks(),
        };
        for (copy, at) in places(&header) {
            self.disk.write(at, header.encode(copy).as_slice())?;
        }
        Ok(self.disk.flush()?)
    }
}

/// Whether both paths lead to one file or device.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        // A device has other nodes elsewhere.
        Some(match found.rdev() {
            0 => (found.dev(), found.ino()),
            device => (device, 0),
        })
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// A path as the pool keeps it: links stay, as those in `/dev/disk` name a device that has another number tomorrow.
pub(crate) fn lasting_path(path: &Path) -> Vec<u8> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.into_os_string().into_vec()
}

/// The data device of the pool that `superblock` describes, if it has one.
///
/// # Errors
/// `Disk`, `NotDevice`; `NotSupported` for a mode of mounting that would need room for cached files in the pool.
pub(crate) fn open(superblock: &Superblock, options: &MountOptions) -> Result<Option<Arc<Disk>>> {
    let Some(device) = &superblock.device else {
        return match options.data {
            None => Ok(None),
            Some(_) => Err(Error::Invalid("the pool has no data device")),
        };
    };
    if options.dax == DaxMode::Never {
        return Err(Error::NotSupported("dax=never in a pool with a data device"));
    }
    let (disk, path) = match &options.data {
        Some(DataSource::Disk(disk)) => (Arc::clone(disk), PathBuf::new()),
        Some(DataSource::Path(path)) => (open_path(path, options)?, path.clone()),
        None => {
            let path = PathBuf::from(OsStr::from_bytes(&device.path));
            let disk = open_path(&path, options).map_err(|error| Error::NotDevice {
                path: path.clone(),
                why: error.reason(),
            })?;
            (disk, path)
        }
    };
    let header = header(superblock, device);
    let damaged = verify(&disk, &header).map_err(|why| Error::NotDevice { path, why })?;
    if let Some(damaged) = damaged.filter(|_| !options.read_only && !options.private) {
        restore(&disk, &header, &damaged);
    }
    // What a private pool writes stays in memory, here as there.
    Ok(Some(match options.private {
        true => Arc::new(disk.overlaid()),
        false => disk,
    }))
}

/// See [`crate::Filesystem::check_data_device`].
pub(crate) fn check(
    superblock: &Superblock,
    named: Option<&Path>,
    repair: bool,
) -> Result<Option<DeviceReport>> {
    let Some(device) = &superblock.device else {
        return match named {
            None => Ok(None),
            Some(_) => Err(Error::Invalid("the pool has no data device")),
        };
    };
    let recorded = Path::new(OsStr::from_bytes(&device.path));
    let path = named.unwrap_or(recorded).to_owned();
    let not_device = |why: String| Error::NotDevice {
        path: path.clone(),
        why,
    };
    let access = if repair { Access::Write } else { Access::Read };
    let disk = BlockMedium::open(&path, access).map_err(|error| not_device(error.reason()))?;
    let disk = Disk::new(Arc::new(disk));
    let header = header(superblock, device);
    let mut damaged_headers = damaged(&disk, &header).map_err(not_device)?;
    if damaged_headers.len() == places(&header).len() {
        if named.is_none() {
            return Err(not_device("both of its headers are damaged".to_owned()));
        }
        // Nothing tells that it is the device but who named it.
        let mut first = [0; BLOCK_SIZE];
        if disk.read(0, &mut first).is_ok()
            && let Some(found) = signature::of_first_block(&first)
        {
            return Err(not_device(format!("it holds {found}")));
        }
    }
    if repair {
        for damaged in &mut damaged_headers {
            damaged.is_mended = restore(&disk, &header, damaged);
        }
    }
    Ok(Some(DeviceReport {
        path,
        damaged_headers,
    }))
}

/// What the headers of the pool's device hold.
fn header(superblock: &Superblock, device: &DataDevice) -> DeviceHeader {
    DeviceHeader {
        pool: superblock.uuid,
        device: device.uuid,
        blocks: device.blocks,
    }
}

fn open_path(path: &Path, options: &MountOptions) -> std::result::Result<Arc<Disk>, DiskError> {
    let access = match options.read_only || options.private {
        true => Access::Read,
        false => Access::Write,
    };
    Ok(Arc::new(Disk::new(Arc::new(BlockMedium::open(path, access)?))))
}

/// The copies of the header, with the byte that each begins at.
fn places(header: &DeviceHeader) -> [(u32, u64); 2] {
    [(0, 0), (1, (header.blocks - 1) * BLOCK_BYTES)]
}

/// Writes a damaged copy of the header anew; whether the device took it. Where it does not, the other has to do.
fn restore(disk: &Disk, header: &DeviceHeader, damaged: &DamagedHeader) -> bool {
    let at = damaged.at;
    let written = disk
        .write(at, header.encode(damaged.copy).as_slice())
        .and_then(|()| disk.flush());
    match &written {
        Ok(()) => tracing::warn!(at, "the data device's damaged header was written anew"),
        Err(error) => {
            tracing::error!(at, %error, "the data device's damaged header cannot be written anew");
        }
    }
    written.is_ok()
}

/// That the disk is the device, by one of its headers: the other may be damaged, and is given.
///
/// # Errors
/// Why it is not.
fn verify(disk: &Disk, expected: &DeviceHeader) -> std::result::Result<Option<DamagedHeader>, String> {
    let mut damaged = damaged(disk, expected)?;
    let Some(one) = damaged.pop() else {
        return Ok(None);
    };
    // The first tells more of what else may be there.
    if let Some(first) = damaged.pop() {
        return Err(first.why);
    }
    tracing::error!(
        at = one.at,
        why = one.why,
        "one of the data device's two headers is damaged"
    );
    Ok(Some(one))
}

/// The headers that are damaged, of a disk that is large enough and whose others are the device's.
///
/// # Errors
/// Why it is not the device.
fn damaged(disk: &Disk, expected: &DeviceHeader) -> std::result::Result<Vec<DamagedHeader>, String> {
    let bytes = expected.blocks * BLOCK_BYTES;
    if disk.len() < bytes {
        return Err(format!(
            "it has {} bytes, the pool's data device {bytes}",
            disk.len()
        ));
    }
    let mut damaged = Vec::new();
    for (copy, at) in places(expected) {
        let mut bytes = [0; BLOCK_SIZE];
        let read = disk.read(at, &mut bytes).map_err(|error| error.to_string());
        let header =
            read.and_then(|()| DeviceHeader::decode(&bytes, copy).map_err(|error| error.to_string()));
        match header {
            Ok(found) if found.pool != expected.pool => {
                return Err(format!("it belongs to pool {}", found.pool));
            }
            Ok(found) if found != *expected => {
                return Err(format!(
                    "it is device {} of this pool, which now has {}",
                    found.device, expected.device
                ));
            }
            Ok(_) => {}
            Err(why) => damaged.push(DamagedHeader {
                copy,
                at,
                why,
                is_mended: false,
            }),
        }
    }
    Ok(damaged)
}
