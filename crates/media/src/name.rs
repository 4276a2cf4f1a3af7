//! Names, and the keys under which trees find them.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The key's lowest bits tell names with equal hashes apart.
pub const DISCRIMINATOR_BITS: u32 = 8;
/// Keys below this are never given to a name: directory positions of `.` and `..`, and of the start.
pub const FIRST_KEY: u64 = 1 << DISCRIMINATOR_BITS;

/// The range of keys that a name may have: 256 of them, tried in ascending order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameKeys {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// The keys for `name` in a pool with this hash key: SipHash-1-3, of which 55 bits are used, so that a key is a
/// non-negative `i64` and can serve as a directory position.
pub fn keys(hash_key: &[u8; 16], name: &[u8]) -> NameKeys {
    let mut hasher = SipHasher13::new_with_key(hash_key);
    hasher.write(name);
    let hash = (hasher.finish() >> 9).max(1);
    let first = hash << DISCRIMINATOR_BITS;
    NameKeys {
        first,
        last: first | (FIRST_KEY - 1),
    }
}

/// Whether `name` can name a directory entry: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
pub fn is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= crate::MAX_NAME_BYTES
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
