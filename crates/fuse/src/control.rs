//! `IOCTL`: the file flags of `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`, `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS`, and
//! the generation (`FS_IOC_GETVERSION`).
//!
//! There is one flag, the DAX flag of files and directories. Cloning (`FICLONE`) does not come here: the kernel refuses
//! it for FUSE.

use fuser::{Errno, FileHandle, INodeNo};
use udax::Dax;

use crate::refusal::{Refusal, Result};
use crate::server::Server;

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)` of linux/fs.h.
const GET_XFLAGS: u32 = 0x801c_581f;
const SET_XFLAGS: u32 = 0x401c_5820;
/// `_IOR('f', 1, long)` and `_IOW('f', 2, long)`.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
/// `_IOR('v', 1, long)`.
const GET_VERSION: u32 = 0x8008_7601;
/// Bytes of `struct fsxattr`.
const FSXATTR_BYTES: usize = 28;
/// `FS_XFLAG_DAX` and `FS_DAX_FL`.
const XFLAG_DAX: u32 = 0x8000;
const FLAG_DAX: u32 = 0x0200_0000;

impl Server {
    /// Gives what the caller gets back.
    pub(crate) fn control(
        &self,
        (ino, handle): (INodeNo, FileHandle),
        command: u32,
        input: &[u8],
        room: u32,
    ) -> Result<Vec<u8>> {
        let stat = self.file(handle)?.stat()?;
        let (xflags, flags) = match stat.dax {
            Dax::On => (XFLAG_DAX, FLAG_DAX),
            Dax::Off => (0, 0),
        };
        match command {
            GET_XFLAGS => {
                let mut attributes = [0; FSXATTR_BYTES];
                put(&mut attributes, &xflags.to_le_bytes());
                Ok(fitting(&attributes, room))
            }
            GET_FLAGS => Ok(fitting(&u64::from(flags).to_le_bytes(), room)),
            GET_VERSION => Ok(fitting(&version(stat.generation), room)),
            SET_XFLAGS => {
                // `extsize`, `projid` and `cowextsize` follow: there are none to set. `nextents` is not set.
                let others = [4, 12, 16].map(|at| word(input, at));
                let known = word(input, 0).filter(|_| others == [Some(0); 3]);
                self.set_flag(ino, known, XFLAG_DAX)
            }
            SET_FLAGS => self.set_flag(ino, word(input, 0), FLAG_DAX),
            _ => Err(Refusal(Errno::ENOTTY)),
        }
    }

    /// Sets the DAX flag as a word of flags has it, which may have no other. Who may do so has been decided by the
    /// kernel, as whoever owns the file (`inode_owner_or_capable`).
    fn set_flag(&self, ino: INodeNo, flags: Option<u32>, dax: u32) -> Result<Vec<u8>> {
        let flags = flags.filter(|flags| flags & !dax == 0);
        let flags = flags.ok_or(Refusal(Errno::EOPNOTSUPP))?;
        let wanted = if flags & dax != 0 { Dax::On } else { Dax::Off };
        let node = self.node(ino)?;
        // With a data device also where it has it: an interrupted move of its data goes on.
        if node.stat()?.dax != wanted || self.filesystem.superblock().device.is_some() {
            node.set_dax(wanted)?;
        }
        Ok(Vec::new())
    }
}

/// What `FS_IOC_GETVERSION` gives: an `int`, whatever size its number says, and programs have room for no more.
fn version(generation: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = generation.to_le_bytes();
    [a, b, c, d]
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn put(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// What of `bytes` the caller has room for.
fn fitting(bytes: &[u8], room: u32) -> Vec<u8> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    bytes.get(..room.min(bytes.len())).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_as_long_as_programs_have_room_for() {
        assert_eq!(
            fitting(&version(0x1234_5678_9abc_def0), 8),
            0x9abc_def0_u32.to_le_bytes()
        );
        assert_eq!(fitting(&version(7), 2), [7, 0]);
    }
}
