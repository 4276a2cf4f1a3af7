//! What a file or device seems to hold already, so that making a pool does not destroy it by mistake.

use std::path::Path;

use udax_disk::Disk;
use udax_media::BLOCK_BYTES;
use udax_pmem::Region;

use crate::error::{Error, Result};

/// Bytes looked at from the start: beyond every known place of a filesystem's or a table's magic number.
const HEAD_BYTES: u64 = 128 << 10;
/// Bytes looked at from the end: copies of partition tables and of RAID metadata.
const TAIL_BYTES: u64 = 64 << 10;

const DATA_DEVICE: &str = "the data device of a udax pool";

/// Where known formats have their magic numbers (from blkid's and the kernel's headers).
const SIGNATURES: [(usize, &[u8], &str); 12] = [
    (0, b"uDEV", DATA_DEVICE),
    (0, b"uDAX", "a udax pool"),
    (0, b"XFSB", "an XFS filesystem"),
    (1080, &[0x53, 0xef], "an ext2, ext3 or ext4 filesystem"),
    (65600, b"_BHRfS_M", "a btrfs filesystem"),
    (510, &[0x55, 0xaa], "a partition table"),
    (4096, b"NVDIMM_DAX_INFO\0", "a namespace label"),
    (0, b"PMEMPOOL", "a PMDK pool"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS filesystem"),
    (4086, b"SWAPSPACE2", "swap space"),
];

/// Fails if the start or the end of `region` is not all zero.
///
/// # Errors
/// `NotBlank` with what it seems to be; a media error.
pub(crate) fn check_blank(region: &Region) -> Result<()> {
    match find(region.len(), |at, to| Ok(region.read(at, to)?))? {
        Some(found) => Err(Error::NotBlank { found }),
        None => Ok(()),
    }
}

/// As [`check_blank`], of the data device `name`.
///
/// # Errors
/// `DeviceNotBlank` with what it seems to be; `Disk`.
pub(crate) fn check_blank_disk(disk: &Disk, name: &Path) -> Result<()> {
    match find(disk.len(), |at, to| Ok(disk.read(at, to)?))? {
        Some(found) => Err(Error::DeviceNotBlank {
            device: name.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

/// What the first block of a disk says that it is, if that is not a data device.
pub(crate) fn of_first_block(block: &[u8]) -> Option<&'static str> {
    let found = known(block)?;
    (found != DATA_DEVICE).then_some(found)
}

/// What the first bytes say that all of it is.
fn known(head: &[u8]) -> Option<&'static str> {
    let is_there = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let found = SIGNATURES.iter().find(|(at, magic, _)| is_there(*at, magic));
    found.map(|(_, _, name)| *name)
}

/// What there is in the first and last bytes of `len` that `read` gives.
fn find(len: u64, read: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<Option<&'static str>> {
    let part = |at: u64, length: u64| {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        read(at, &mut bytes)?;
        Ok::<_, Error>(bytes)
    };
    let head = part(0, HEAD_BYTES.min(len))?;
    if let Some(name) = known(&head) {
        return Ok(Some(name));
    }
    let tail_at = len.saturating_sub(TAIL_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
    let tail = part(tail_at, len - tail_at)?;
    let is_blank = head.iter().chain(&tail).all(|byte| *byte == 0);
    Ok((!is_blank).then_some("data of an unknown kind"))
}
