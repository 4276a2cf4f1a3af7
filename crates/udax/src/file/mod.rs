//! Open files.

use std::io::{IoSlice, IoSliceMut};

use crate::error::Result;
use crate::options::{AllocateMode, DirEntry, SetAttributes, Stat};

/// An open file or directory. `Send + Sync`; all operations take offsets.
#[derive(Debug)]
pub struct File {}

#[expect(clippy::todo, reason = "interface only, on a branch")]
#[expect(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "interface only, on a branch"
)]
impl File {
    /// Bytes read: fewer than asked only at the end of the file.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> Result<usize> {
        todo!("{to:?} {offset}")
    }
    pub fn read_vectored_at(&self, to: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        todo!("{to:?} {offset}")
    }
    /// Durable on return. With `APPEND` the offset is ignored.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        todo!("{bytes:?} {offset}")
    }
    pub fn write_vectored_at(&self, bytes: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        todo!("{bytes:?} {offset}")
    }
    /// At the end of the file, atomically; gives the offset it went to.
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        todo!("{bytes:?}")
    }
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    pub fn truncate(&self, size: u64) -> Result<()> {
        todo!("{size}")
    }
    pub fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        todo!("{mode:?} {offset} {len}")
    }
    /// The first byte of data at or after `offset` (`SEEK_DATA`).
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        todo!("{offset}")
    }
    /// The first hole at or after `offset`, or the end of the file (`SEEK_HOLE`).
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        todo!("{offset}")
    }
    /// Copies inside the pool (`copy_file_range`); bytes copied.
    pub fn copy_range(&self, offset: u64, to: &File, to_offset: u64, len: u64) -> Result<u64> {
        todo!("{offset} {to:?} {to_offset} {len}")
    }
    pub fn stat(&self) -> Result<Stat> {
        todo!()
    }
    pub fn set_attributes(&self, set: SetAttributes) -> Result<Stat> {
        todo!("{set:?}")
    }
    /// As `Filesystem::read_dir`, of this open directory.
    pub fn read_dir(&self, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        todo!("{cookie} {limit}")
    }
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        todo!("{name:?}")
    }
}
