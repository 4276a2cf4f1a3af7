//! What blocks are filled with: every aligned word says whose it is.
//!
//! A word and not a line is the unit, because a word is what a processor or device stores in one piece: a copy that is
//! made while somebody stores has whole words, old and new ones, and each can be judged. A word has the [`Owner`], the
//! writer, a number that changes with each store, and a check over all of it and its place in the block.

use std::fmt;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// The same, for offsets.
pub(crate) const BLOCK_LEN: u64 = 4096;
/// Bytes of a word.
pub(crate) const WORD: usize = 8;
/// The most files that owners can tell apart.
pub(crate) const MAX_SLOTS: usize = 64;
/// The most blocks of a file.
pub(crate) const MAX_BLOCKS: u64 = 1024;

const BLOCK_BITS: u32 = 10;
const EPOCH_BITS: u32 = 24;
const OWNER_BITS: u32 = 40;
const WRITER_BITS: u32 = 6;
const TURN_BITS: u32 = 8;
const BODY_BITS: u32 = OWNER_BITS + WRITER_BITS + TURN_BITS;

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Whose a block is: a new owner each time that it changes hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Of block `block` of the file in slot `slot`, since `epoch` (from 1) of that slot.
    pub(crate) fn new(slot: u64, epoch: u64, block: u64) -> Self {
        debug_assert!(epoch > 0, "owners begin with epoch 1, so that no word is zero");
        let slot = slot & mask(OWNER_BITS - EPOCH_BITS - BLOCK_BITS);
        Self(
            slot << (EPOCH_BITS + BLOCK_BITS)
                | (epoch & mask(EPOCH_BITS)) << BLOCK_BITS
                | block & mask(BLOCK_BITS),
        )
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw & mask(OWNER_BITS))
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn slot(self) -> u64 {
        self.0 >> (EPOCH_BITS + BLOCK_BITS)
    }

    fn epoch(self) -> u64 {
        self.0 >> BLOCK_BITS & mask(EPOCH_BITS)
    }

    fn block(self) -> u64 {
        self.0 & mask(BLOCK_BITS)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "file {} block {} epoch {}",
            self.slot(),
            self.block(),
            self.epoch()
        )
    }
}

/// Who stores, and which of its stores it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Writer {
    pub(crate) actor: u64,
    pub(crate) turn: u64,
}

/// What a block must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Words of this owner; zeros, too, where it is a hole or was one.
    Owned { owner: Owner, may_be_zero: bool },
    /// Words of any file whose slot has its bit here, and zeros.
    AnyOf(u64),
}

/// What a block holds that it must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    /// A word of another owner: a stray store, or bytes that were never cleared.
    Stray { owner: Owner, actor: u64, word: usize },
    /// A word that nobody has stored.
    Garbage { value: u64, word: usize },
    /// Zeros where stored bytes must be.
    Lost { word: usize },
}

/// Makes and judges the words of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    salt: u64,
}

impl Stamps {
    /// Of the run with this seed: what an earlier run has left in a pool is garbage to it.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            salt: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    fn check(self, body: u64, place: u64) -> u64 {
        let mixed = (body ^ place << BODY_BITS ^ self.salt).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> BODY_BITS
    }

    fn word(self, owner: Owner, writer: Writer, place: u64) -> u64 {
        let writer = (writer.turn & mask(TURN_BITS)) << WRITER_BITS | writer.actor & mask(WRITER_BITS);
        let body = writer << OWNER_BITS | owner.0;
        self.check(body, place) << BODY_BITS | body
    }

    /// Fills `bytes`, which begin at `at` (a multiple of 8) in a block.
    pub(crate) fn fill(self, bytes: &mut [u8], at: usize, owner: Owner, writer: Writer) {
        for (word, place) in bytes.chunks_exact_mut(WORD).zip(at / WORD % (BLOCK / WORD)..) {
            let value = self.word(owner, writer, u64::try_from(place).unwrap_or(0));
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// What is wrong with `bytes`, a block or the start of one.
    pub(crate) fn judge(self, bytes: &[u8], rule: Rule) -> Option<Wrong> {
        bytes
            .as_chunks::<WORD>()
            .0
            .iter()
            .enumerate()
            .find_map(|(place, word)| self.judge_word(u64::from_le_bytes(*word), place, rule))
    }

    fn judge_word(self, value: u64, word: usize, rule: Rule) -> Option<Wrong> {
        if value == 0 {
            return match rule {
                Rule::Owned {
                    may_be_zero: false, ..
                } => Some(Wrong::Lost { word }),
                _ => None,
            };
        }
        let body = value & mask(BODY_BITS);
        if self.check(body, u64::try_from(word).unwrap_or(0)) != value >> BODY_BITS {
            return Some(Wrong::Garbage { value, word });
        }
        let found = Owner(body & mask(OWNER_BITS));
        let is_right = match rule {
            Rule::Owned { owner, .. } => owner == found,
            Rule::AnyOf(slots) => slots >> found.slot() & 1 == 1,
        };
        (!is_right).then_some(Wrong::Stray {
            owner: found,
            actor: body >> OWNER_BITS & mask(WRITER_BITS),
            word,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITER: Writer = Writer { actor: 5, turn: 300 };

    fn block(stamps: Stamps, owner: Owner) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        stamps.fill(&mut bytes, 0, owner, WRITER);
        bytes
    }

    fn owned(owner: Owner) -> Rule {
        Rule::Owned {
            owner,
            may_be_zero: false,
        }
    }

    #[test]
    fn a_block_of_its_owner_is_right_and_of_any_other_a_stray() {
        let stamps = Stamps::new(1);
        let owner = Owner::new(63, 7, 1023);
        let bytes = block(stamps, owner);
        assert_eq!(stamps.judge(&bytes, owned(owner)), None);
        for other in [
            Owner::new(62, 7, 1023),
            Owner::new(63, 8, 1023),
            Owner::new(63, 7, 1022),
        ] {
            let wrong = stamps.judge(&bytes, owned(other));
            assert_eq!(
                wrong,
                Some(Wrong::Stray {
                    owner,
                    actor: 5,
                    word: 0
                })
            );
        }
        assert_eq!(stamps.judge(&bytes, Rule::AnyOf(1 << 63)), None);
        assert!(stamps.judge(&bytes, Rule::AnyOf(!(1 << 63))).is_some());
    }

    #[test]
    fn one_strange_word_is_found_where_it_is() {
        let stamps = Stamps::new(1);
        let (owner, other) = (Owner::new(1, 1, 1), Owner::new(2, 1, 1));
        let mut bytes = block(stamps, owner);
        stamps.fill(&mut bytes[4088..], 4088, other, WRITER);
        let stray = Wrong::Stray {
            owner: other,
            actor: 5,
            word: 511,
        };
        assert_eq!(stamps.judge(&bytes, owned(owner)), Some(stray));
        bytes[64..72].fill(0);
        assert_eq!(stamps.judge(&bytes, owned(owner)), Some(Wrong::Lost { word: 8 }));
        bytes[64..72].fill(1);
        assert!(matches!(
            stamps.judge(&bytes, owned(owner)),
            Some(Wrong::Garbage { word: 8, .. })
        ));
    }

    #[test]
    fn words_of_another_run_or_another_place_are_garbage() {
        let owner = Owner::new(1, 1, 1);
        let mut bytes = block(Stamps::new(1), owner);
        assert!(matches!(
            Stamps::new(2).judge(&bytes, owned(owner)),
            Some(Wrong::Garbage { .. })
        ));
        bytes.rotate_left(64);
        assert!(matches!(
            Stamps::new(1).judge(&bytes, owned(owner)),
            Some(Wrong::Garbage { .. })
        ));
    }
}
