//! Content: `READ`, `WRITE`, `FSYNC`, `FALLOCATE`, `LSEEK`, `COPY_FILE_RANGE`.

use std::cell::RefCell;

use fuser::{Errno, FileHandle, INodeNo, WriteFlags};
use rustix::fs::FallocateFlags;
use udax::{AllocateMode, File};

use crate::privileges::{self, SetId};
use crate::refusal::{Refusal, Result};
use crate::server::{Caller, Server};

/// Bytes of a read or write request.
pub(crate) const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// The most that one `COPY_FILE_RANGE` copies: its reply has 32 bits, and a request should not take for ever.
const MAX_COPY_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: u64 = 4096;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

thread_local! {
    /// What a read is read into: the protocol library wants all of a reply in one piece.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) ino: INodeNo,
    pub(crate) handle: FileHandle,
    pub(crate) offset: u64,
}

/// Reads all of `to`, but for what is behind the end of the file. What cannot be read in the middle is an error of the
/// whole request: the kernel takes a short answer for the end of the file, and asks for its pages one by one after an
/// error.
fn read_wholly(file: &File, to: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + u64::try_from(done).unwrap_or(0))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

impl Server {
    /// Reads, and gives what was read to `send`.
    pub(crate) fn read(
        &self,
        handle: FileHandle,
        (offset, size): (u64, u32),
        send: impl FnOnce(Result<&[u8]>),
    ) {
        let size = usize::try_from(size.min(MAX_REQUEST_BYTES)).unwrap_or(0);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let room = buffer.get_mut(..size).unwrap_or_default();
            let read = crate::refusal::caught("read", || read_wholly(&*self.file(handle)?, room, offset));
            send(read.map(|count| room.get(..count).unwrap_or_default()));
        });
    }

    pub(crate) fn write(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        (offset, bytes): (u64, &[u8]),
        flags: WriteFlags,
    ) -> Result<u32> {
        let file = self.file(handle)?;
        let set_id = match flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            true => SetId::Kill,
            false => SetId::Keep,
        };
        self.take_privileges(ino, set_id)?;
        let count = file.write_at(bytes, offset)?;
        u32::try_from(count).map_err(|_| Refusal(Errno::EIO))
    }

    /// Before the content of `ino` changes.
    fn take_privileges(&self, ino: INodeNo, set_id: SetId) -> Result<()> {
        let node = self.node(ino)?;
        if privileges::kill(&node, set_id)? {
            // The kernel expects that, but asks only when it needs the attributes anyhow: not before it runs a
            // program with set-id bits that are gone.
            self.forget_attributes(node.ino());
        }
        Ok(())
    }

    pub(crate) fn sync(&self, handle: FileHandle) -> Result<()> {
        Ok(self.file(handle)?.sync()?)
    }

    pub(crate) fn allocate(
        &self,
        caller: Caller,
        (ino, handle): (INodeNo, FileHandle),
        mode: i32,
        (offset, len): (u64, u64),
    ) -> Result<()> {
        let mode = allocate_mode(mode).ok_or(Refusal(Errno::EOPNOTSUPP))?;
        let file = self.file(handle)?;
        self.take_privileges(ino, SetId::of_user(caller.uid))?;
        Ok(file.allocate(mode, offset, len)?)
    }

    pub(crate) fn seek(&self, handle: FileHandle, offset: i64, whence: i32) -> Result<i64> {
        let file = self.file(handle)?;
        let offset = u64::try_from(offset).map_err(|_| Refusal(Errno::ENXIO))?;
        let found = match whence {
            SEEK_DATA => file.seek_data(offset)?,
            SEEK_HOLE => file.seek_hole(offset)?,
            _ => return Err(Refusal(Errno::EINVAL)),
        };
        i64::try_from(found).map_err(|_| Refusal(Errno::EOVERFLOW))
    }

    /// Copies up to `len` bytes. Whole blocks are shared instead, where both sides have them whole.
    pub(crate) fn copy(&self, caller: Caller, from: Side, to: Side, len: u64) -> Result<u32> {
        let source = self.file(from.handle)?;
        let target = self.file(to.handle)?;
        let len = len.min(MAX_COPY_BYTES);
        self.take_privileges(to.ino, SetId::of_user(caller.uid))?;
        let copied = match share(&source, &target, (from.offset, to.offset), len) {
            Some(shared) => shared,
            None => source.copy_range(from.offset, &target, to.offset, len)?,
        };
        u32::try_from(copied).map_err(|_| Refusal(Errno::EIO))
    }
}

/// Lets `target` share the whole blocks of a range; gives how many bytes, or `None` when it must be copied.
fn share(source: &File, target: &File, (from, to): (u64, u64), len: u64) -> Option<u64> {
    let is_aligned = from.is_multiple_of(BLOCK_BYTES) && to.is_multiple_of(BLOCK_BYTES);
    if !is_aligned {
        return None;
    }
    let size = source.stat().ok()?.size;
    let whole = len.min(size.checked_sub(from)?) / BLOCK_BYTES * BLOCK_BYTES;
    if whole == 0 {
        return None;
    }
    match source.clone_range(from, target, to, whole) {
        Ok(()) => Some(whole),
        // Whatever it is, copying it tells, or can do it.
        Err(error) => {
            tracing::debug!(%error, "blocks are copied, not shared");
            None
        }
    }
}

/// What the flags of fallocate(2) mean.
fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;
    let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let modes = [
        (FallocateFlags::empty(), AllocateMode::Allocate),
        (KEEP, AllocateMode::KeepSize),
        (FallocateFlags::PUNCH_HOLE.union(KEEP), AllocateMode::PunchHole),
        (FallocateFlags::ZERO_RANGE, AllocateMode::ZeroRange),
        (
            FallocateFlags::ZERO_RANGE.union(KEEP),
            AllocateMode::ZeroRangeKeepSize,
        ),
        (FallocateFlags::COLLAPSE_RANGE, AllocateMode::Collapse),
        (FallocateFlags::INSERT_RANGE, AllocateMode::Insert),
        (FallocateFlags::UNSHARE_RANGE.union(KEEP), AllocateMode::Unshare),
    ];
    modes
        .into_iter()
        .find_map(|(known, mode)| (known == flags).then_some(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_flags_of_fallocate_mean_something() {
        assert_eq!(allocate_mode(0), Some(AllocateMode::Allocate));
        assert_eq!(allocate_mode(3), Some(AllocateMode::PunchHole));
        assert_eq!(allocate_mode(2), None);
        assert_eq!(allocate_mode(-1), None);
        assert_eq!(allocate_mode(0x80), None);
    }
}
