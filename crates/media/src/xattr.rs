//! Extended attributes: the values of an inode's attribute tree.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | length of the name, 1 to 255 |
//! | 1 | 0: the value follows the name; 1: the value is in blocks of its own |
//! | 2..4 | zero |
//! | 4..8 | length of the value, at most 65536 |
//! | 8.. | the full name, for example `user.comment` |
//! | then | the value; or its CRC-32C (4 bytes), the number of runs (4 bytes) and the runs: first block (8), blocks (8) |
//!
//! Value blocks hold nothing but the value, the rest of the last one is zero.

use crate::BLOCK_BYTES;
use crate::kinds::{BlockNo, BlockRange};
use crate::node::MAX_VALUE_BYTES;

/// The longest value (Linux `XATTR_SIZE_MAX`).
pub const MAX_VALUE: usize = 65536;
/// The longest full name (Linux `XATTR_NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Bytes before the name.
pub const HEADER_SIZE: usize = 8;

/// Where an attribute's value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum XattrValue<'b> {
    /// In the tree.
    Inline(&'b [u8]),
    /// In blocks of its own.
    External {
        /// Length of the value in bytes.
        length: u32,
        /// CRC-32C of the value.
        checksum: u32,
        /// The blocks, in order.
        runs: Vec<BlockRange>,
    },
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr<'b> {
    /// The full name.
    pub name: &'b [u8],
    /// The value, or where it is.
    pub value: XattrValue<'b>,
}

/// Whether a value of `value_len` bytes under a name of `name_len` bytes goes into the tree.
pub const fn fits_inline(name_len: usize, value_len: usize) -> bool {
    HEADER_SIZE + name_len + value_len <= MAX_VALUE_BYTES
}

impl<'b> Xattr<'b> {
    /// The attribute's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, length) = match &self.value {
            XattrValue::Inline(value) => (0, u32::try_from(value.len()).unwrap_or(u32::MAX)),
            XattrValue::External { length, .. } => (1, *length),
        };
        let mut bytes = vec![u8::try_from(self.name.len()).unwrap_or(u8::MAX), kind, 0, 0];
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.name);
        match &self.value {
            XattrValue::Inline(value) => bytes.extend(*value),
            XattrValue::External { checksum, runs, .. } => {
                bytes.extend(checksum.to_le_bytes());
                bytes.extend(u32::try_from(runs.len()).unwrap_or(u32::MAX).to_le_bytes());
                for run in runs {
                    bytes.extend(run.start.raw().to_le_bytes());
                    bytes.extend(run.count.to_le_bytes());
                }
            }
        }
        bytes
    }

    /// The attribute in a tree's value; `None` when a length, a run or the kind is impossible.
    pub fn decode(bytes: &'b [u8], total_blocks: u64) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_SIZE>()?;
        let [name_len, kind, 0, 0, l0, l1, l2, l3] = *head else {
            return None;
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let size = usize::try_from(length).ok().filter(|size| *size <= MAX_VALUE)?;
        let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        let value = match kind {
            0 if rest.len() == size => XattrValue::Inline(rest),
            1 => decode_external(length, rest, total_blocks)?,
            _ => return None,
        };
        Some(Self { name, value })
    }
}

fn decode_external<'b>(length: u32, bytes: &[u8], total_blocks: u64) -> Option<XattrValue<'b>> {
    let (checksum, rest) = bytes.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (words, tail) = rest.as_chunks::<8>();
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    if !tail.is_empty() || count.checked_mul(2)? != words.len() {
        return None;
    }
    let mut runs = Vec::with_capacity(count);
    let mut blocks = 0_u64;
    for pair in words.as_chunks::<2>().0 {
        let run = BlockRange::new(BlockNo(u64::from_le_bytes(pair[0])), u64::from_le_bytes(pair[1]));
        if run.count == 0 || run.start.raw() == 0 || run.end().raw() > total_blocks {
            return None;
        }
        blocks = blocks.checked_add(run.count)?;
        runs.push(run);
    }
    let is_sound = blocks == u64::from(length).div_ceil(BLOCK_BYTES);
    is_sound.then_some(XattrValue::External {
        length,
        checksum: u32::from_le_bytes(*checksum),
        runs,
    })
}

/// The checksum of a value in blocks of its own: its CRC-32C.
pub fn value_checksum(value: &[u8]) -> u32 {
    crc32c::crc32c(value)
}
