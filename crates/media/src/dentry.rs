//! Directory entries: the values of a directory's tree.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | inode number |
//! | 8 | kind of the inode (file type bits of its mode, shifted right by 12) |
//! | 9 | length of the name |
//! | 10.. | the name |

use crate::inode::FileKind;
use crate::kinds::InodeNo;
use crate::name;

/// Bytes before the name.
pub const HEADER_SIZE: usize = 10;
/// Bytes of the longest entry.
pub const MAX_SIZE: usize = HEADER_SIZE + crate::MAX_NAME_BYTES;

/// A directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dentry<'b> {
    /// The inode it names.
    pub ino: InodeNo,
    /// The inode's kind.
    pub kind: FileKind,
    /// The name.
    pub name: &'b [u8],
}

impl<'b> Dentry<'b> {
    /// The entry's bytes in `buffer`, and how many.
    pub fn encode<'o>(&self, buffer: &'o mut [u8; MAX_SIZE]) -> &'o [u8] {
        let name = self
            .name
            .get(..self.name.len().min(crate::MAX_NAME_BYTES))
            .unwrap_or_default();
        let end = HEADER_SIZE + name.len();
        let (head, rest) = buffer.split_at_mut(HEADER_SIZE);
        head[..8].copy_from_slice(&self.ino.raw().to_le_bytes());
        head[8] = self.kind.raw();
        head[9] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        rest[..name.len()].copy_from_slice(name);
        &buffer[..end]
    }

    /// The entry in a value; `None` when the kind is unknown, the inode number 0, the length wrong or the name not
    /// one.
    pub fn decode(value: &'b [u8]) -> Option<Self> {
        let (head, name) = value.split_first_chunk::<HEADER_SIZE>()?;
        let (ino, tail) = head.split_first_chunk::<8>()?;
        let [kind, length] = tail else { return None };
        let entry = Self {
            ino: InodeNo(u64::from_le_bytes(*ino)),
            kind: FileKind::from_raw(*kind)?,
            name,
        };
        let is_sound = entry.ino.raw() != 0 && usize::from(*length) == name.len() && name::is_valid(name);
        is_sound.then_some(entry)
    }
}
