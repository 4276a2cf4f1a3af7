//! Making and finding a pool's data device: the headers at both of its ends, and that it is this pool's.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use udax_disk::{Access, BlockMedium, Disk, DiskError};
use udax_media::device::{DeviceHeader, MAX_DEVICE_BYTES, MIN_DEVICE_BYTES};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, Superblock};

use crate::error::{Error, Result};
use crate::options::{DataSource, DaxMode, FormatOptions, MountOptions};
use crate::signature;

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
    let header = DeviceHeader {
        pool: superblock.uuid,
        device: device.uuid,
        blocks: device.blocks,
    };
    let lost = verify(&disk, &header).map_err(|why| Error::NotDevice { path, why })?;
    if let Some(lost) = lost.filter(|_| !options.read_only && !options.private) {
        restore(&disk, &header, lost);
    }
    // What a private pool writes stays in memory, here as there.
    Ok(Some(match options.private {
        true => Arc::new(disk.overlaid()),
        false => disk,
    }))
}

/// The path of the data device, which is there and this pool's.
pub(crate) fn find(superblock: &Superblock) -> Result<Option<PathBuf>> {
    let options = MountOptions {
        dax: DaxMode::Inode,
        read_only: true,
        ..MountOptions::default()
    };
    open(superblock, &options)?;
    let device = superblock.device.as_ref();
    Ok(device.map(|device| PathBuf::from(OsStr::from_bytes(&device.path))))
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

/// Writes a copy of the header that is lost anew. Where the device does not take it, the other has to do.
fn restore(disk: &Disk, header: &DeviceHeader, (copy, at): (u32, u64)) {
    match disk
        .write(at, header.encode(copy).as_slice())
        .and_then(|()| disk.flush())
    {
        Ok(()) => tracing::warn!(at, "the data device's damaged header was written anew"),
        Err(error) => {
            tracing::error!(at, %error, "the data device's damaged header cannot be written anew");
        }
    }
}

/// That the disk is the device, by one of its headers: the other may be lost, and is given.
///
/// # Errors
/// Why it is not.
fn verify(disk: &Disk, expected: &DeviceHeader) -> std::result::Result<Option<(u32, u64)>, String> {
    let bytes = expected.blocks * BLOCK_BYTES;
    if disk.len() < bytes {
        return Err(format!(
            "it has {} bytes, the pool's data device {bytes}",
            disk.len()
        ));
    }
    let read = |(copy, at): (u32, u64)| {
        let mut bytes = [0; BLOCK_SIZE];
        disk.read(at, &mut bytes).map_err(|error| error.to_string())?;
        DeviceHeader::decode(&bytes, copy).map_err(|error| error.to_string())
    };
    let places = places(expected);
    let headers = places.map(read);
    for found in headers.iter().flatten() {
        if found.pool != expected.pool {
            return Err(format!("it belongs to pool {}", found.pool));
        }
        if found != expected {
            return Err(format!(
                "it is device {} of this pool, which now has {}",
                found.device, expected.device
            ));
        }
    }
    let lost = match headers {
        [Ok(_), Ok(_)] => return Ok(None),
        [Err(why), Err(_)] => return Err(why),
        [Err(why), Ok(_)] => (places[0], why),
        [Ok(_), Err(why)] => (places[1], why),
    };
    let ((copy, at), why) = lost;
    tracing::error!(at, why, "one of the data device's two headers is damaged");
    Ok(Some((copy, at)))
}
