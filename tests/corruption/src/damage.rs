//! Kinds of damage: as text that repeats one, and all cases of a kind.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_media::inode::INODE_SIZE;
use udax_media::{BLOCK_SIZE, LINE_SIZE};

use crate::image::Block;
use crate::place::{Places, Role};
use crate::sample::Sample;

/// One in so many bytes that hold nothing is flipped.
const EMPTY_BYTES: usize = 64;
/// Bytes at the start of a block in which every bit is flipped: the longest header.
const HEADER_BYTES: usize = 192;

/// Kinds of damage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A byte has another value.
    Flip,
    /// A bit of a header is inverted.
    Bit,
    /// Two blocks have changed places.
    Swap,
    /// A block is zeros.
    Zeros,
    /// A block is ones.
    Ones,
    /// A block is what it was before, and was sealed then.
    Older,
    /// The first lines of a block are new, the rest is as before.
    Torn,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Flip,
        Self::Bit,
        Self::Swap,
        Self::Zeros,
        Self::Ones,
        Self::Older,
        Self::Torn,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flip => "flip",
            Self::Bit => "bit",
            Self::Swap => "swap",
            Self::Zeros => "zeros",
            Self::Ones => "ones",
            Self::Older => "older",
            Self::Torn => "torn",
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.with_context(|| format!("{text} is no kind of damage"))
    }
}

/// One damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The byte at this offset of the block, other in these bits.
    Flip(u64, usize, u8),
    /// Two blocks.
    Swap(u64, u64),
    /// All bytes of the block have this value.
    Fill(u64, u8),
    /// The block as it was in this version.
    Older(u64, usize),
    /// The same from this line on.
    Torn(u64, usize, usize),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(block, at, mask) => write!(f, "flip:{block}:{at}:{mask}"),
            Self::Swap(one, other) => write!(f, "swap:{one}:{other}"),
            Self::Fill(block, byte) => write!(f, "fill:{block}:{byte}"),
            Self::Older(block, version) => write!(f, "older:{block}:{version}"),
            Self::Torn(block, version, line) => write!(f, "torn:{block}:{version}:{line}"),
        }
    }
}

impl FromStr for Damage {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let numbers: Vec<usize> = parts.map(str::parse).collect::<Result<_, _>>()?;
        let block = |at: usize| u64::try_from(numbers.get(at).copied().unwrap_or_default());
        Ok(match (kind, numbers.as_slice()) {
            ("flip", [_, at, mask]) => Self::Flip(block(0)?, *at, u8::try_from(*mask)?),
            ("swap", [_, _]) => Self::Swap(block(0)?, block(1)?),
            ("fill", [_, byte]) => Self::Fill(block(0)?, u8::try_from(*byte)?),
            ("older", [_, version]) => Self::Older(block(0)?, *version),
            ("torn", [_, version, line]) => Self::Torn(block(0)?, *version, *line),
            _ => bail!("{text} is no damage"),
        })
    }
}

impl Damage {
    /// The blocks that it changes, as they are then.
    ///
    /// # Panics
    /// When the sample has no such block or version.
    pub fn changes(&self, sample: &Sample) -> Vec<(u64, Box<Block>)> {
        let now = |block: u64| Box::new(*sample.image.block(block));
        let before = |block: u64, version: usize| Box::new(*sample.older[version].block(block));
        match *self {
            Self::Flip(block, at, mask) => {
                let mut bytes = now(block);
                bytes[at] ^= mask;
                vec![(block, bytes)]
            }
            Self::Swap(one, other) => vec![(one, now(other)), (other, now(one))],
            Self::Fill(block, byte) => vec![(block, Box::new([byte; BLOCK_SIZE]))],
            Self::Older(block, version) => vec![(block, before(block, version))],
            Self::Torn(block, version, line) => {
                let mut bytes = now(block);
                let from = line * LINE_SIZE;
                bytes[from..].copy_from_slice(&before(block, version)[from..]);
                vec![(block, bytes)]
            }
        }
    }

    /// The block that it is in; of two, the first.
    pub fn block(&self) -> u64 {
        match *self {
            Self::Flip(block, ..)
            | Self::Swap(block, _)
            | Self::Fill(block, _)
            | Self::Older(block, _)
            | Self::Torn(block, ..) => block,
        }
    }

    /// The bytes of a changed block that may be other than before.
    pub fn touched(&self) -> Range<usize> {
        match *self {
            Self::Flip(_, at, _) => at..at + 1,
            Self::Torn(_, _, line) => line * LINE_SIZE..BLOCK_SIZE,
            Self::Swap(..) | Self::Fill(..) | Self::Older(..) => 0..BLOCK_SIZE,
        }
    }

    /// Whether it puts back what was right once.
    pub fn is_older(&self) -> bool {
        matches!(self, Self::Older(..) | Self::Torn(..))
    }
}

/// All cases of `kind`; the values of flipped bytes depend on `seed`.
pub fn cases(kind: Kind, sample: &Sample, places: &Places, seed: u64) -> Vec<Damage> {
    let blocks: Vec<u64> = places.roles.keys().copied().collect();
    match kind {
        Kind::Flip => flips(sample, places, seed),
        Kind::Bit => bits(sample, places),
        Kind::Swap => swaps(sample, &blocks),
        Kind::Zeros => blocks.iter().map(|block| Damage::Fill(*block, 0)).collect(),
        Kind::Ones => blocks.iter().map(|block| Damage::Fill(*block, 0xff)).collect(),
        Kind::Older => older(sample, &blocks),
        Kind::Torn => {
            let torn = |damage| match damage {
                Damage::Older(block, version) => {
                    Some((1..BLOCK_SIZE / LINE_SIZE).map(move |line| Damage::Torn(block, version, line)))
                }
                _ => None,
            };
            let all = older(sample, &blocks).into_iter().filter_map(torn).flatten();
            // A tear before the first difference is the older block, after the last no damage.
            let is_new = |damage: &Damage| differs(damage, sample);
            all.filter(is_new).collect()
        }
    }
}

fn differs(damage: &Damage, sample: &Sample) -> bool {
    let changes = damage.changes(sample);
    changes
        .iter()
        .any(|(block, bytes)| **bytes != *sample.image.block(*block))
}

fn flips(sample: &Sample, places: &Places, seed: u64) -> Vec<Damage> {
    let mut cases = Vec::new();
    for (block, role) in &places.roles {
        let mut random = SmallRng::seed_from_u64(seed ^ block.rotate_left(20));
        for (at, byte) in sample.image.block(*block).iter().enumerate() {
            let (mask, chosen) = (
                random.random_range(1..=255_u8),
                random.random_range(0..EMPTY_BYTES),
            );
            if is_full(*block, at, *byte, *role, places, sample) || chosen == 0 {
                cases.push(Damage::Flip(*block, at, mask));
            }
        }
    }
    cases
}

/// Whether the byte holds something; of lanes, of a record that would be replayed.
fn is_full(block: u64, at: usize, byte: u8, role: Role, places: &Places, sample: &Sample) -> bool {
    if role != Role::Lane {
        return byte != 0;
    }
    let Some(offset) = u64::try_from(at).ok().map(|at| block * 4096 + at) else {
        return false;
    };
    let is_live = places.records.iter().any(|record| record.contains(&offset));
    is_live && sample.image.block(block).get(at).is_some_and(|byte| *byte != 0)
}

fn bits(sample: &Sample, places: &Places) -> Vec<Damage> {
    let mut cases = Vec::new();
    for (block, role) in &places.roles {
        let bytes = sample.image.block(*block);
        let at: BTreeSet<usize> = match role {
            Role::Chunk(_) => bits_of_inodes(bytes),
            Role::Lane => {
                let is_head = |at: &usize| {
                    let offset = u64::try_from(*at).map_or(0, |at| block * 4096 + at);
                    places
                        .records
                        .iter()
                        .any(|record| (record.start..record.start + 64).contains(&offset))
                };
                (0..BLOCK_SIZE).filter(is_head).collect()
            }
            Role::XattrValue(_) | Role::Target(_) => BTreeSet::new(),
            Role::Checkpoint => (0..128).collect(),
            Role::Superblock => (0..HEADER_BYTES).chain(2048..2112).collect(),
            Role::Roots => (0..128).collect(),
            Role::Bitmap | Role::Sums | Role::PoolNode(_) | Role::Node(..) => (0..HEADER_BYTES).collect(),
        };
        let of_byte = |at: usize| (0..8).map(move |bit| Damage::Flip(*block, at, 1 << bit));
        cases.extend(at.into_iter().flat_map(of_byte));
    }
    cases
}

/// The fields of the first inodes of a chunk.
fn bits_of_inodes(chunk: &Block) -> BTreeSet<usize> {
    /// Inodes looked at: the others have the same fields.
    const INODES: usize = 2;
    /// Where the fields end.
    const FIELDS: usize = 160;
    let used = (0..BLOCK_SIZE)
        .step_by(INODE_SIZE)
        .filter(|slot| chunk[*slot] != 0);
    used.take(INODES).flat_map(|slot| slot..slot + FIELDS).collect()
}

fn swaps(sample: &Sample, blocks: &[u64]) -> Vec<Damage> {
    let mut cases = Vec::new();
    for (index, one) in blocks.iter().enumerate() {
        let others = blocks.get(index + 1..).unwrap_or_default().iter();
        cases.extend(others.map(|other| Damage::Swap(*one, *other)));
    }
    cases.retain(|damage| differs(damage, sample));
    cases
}

fn older(sample: &Sample, blocks: &[u64]) -> Vec<Damage> {
    let mut cases = Vec::new();
    for block in blocks {
        let mut seen = vec![sample.image.block(*block)];
        for (version, image) in sample.older.iter().enumerate() {
            let bytes = image.block(*block);
            // Zeros are another kind.
            if !seen.contains(&bytes) && bytes.iter().any(|byte| *byte != 0) {
                seen.push(bytes);
                cases.push(Damage::Older(*block, version));
            }
        }
    }
    cases
}
