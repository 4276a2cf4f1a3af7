//! What each block of a sample is for, and what its damage may cost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::Context;
use udax_check::Use;
use udax_media::dentry::Dentry;
use udax_media::extent::Extent;
use udax_media::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use udax_media::inode::{CHUNK_INODES, INODE_SIZE};
use udax_media::node::{NodeState, SLOT_SIZE, SLOTS_START, STATE_OFFSET, Slot, TreeKind};
use udax_media::xattr::Xattr;
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, FileBlock, Geometry, Superblock, record};
use udax_pmem::{Region, RegionOptions};

use crate::image::{Block, Scratch};
use crate::sample::{Ending, Sample};
use crate::tree::{Allowance, Names};

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// One of two copies.
    Superblock,
    /// One of two copies.
    Checkpoint,
    /// The pool's tree roots.
    Roots,
    /// Records.
    Lane,
    /// Allocation bitmap.
    Bitmap,
    /// Checksums of data.
    Sums,
    /// A node of one of the pool's trees.
    PoolNode(u8),
    /// An inode chunk.
    Chunk(u64),
    /// A node of an inode's tree: kind and inode.
    Node(u8, u64),
    /// A value of an attribute of the inode.
    XattrValue(u64),
    /// The target of the link.
    Target(u64),
}

/// Bytes of the pool.
pub type Ranges = Vec<Range<u64>>;

/// The metadata of a sample.
#[derive(Clone, Debug)]
pub struct Places {
    /// Every block of metadata. Of lanes, those with records that the journal would replay, or had in a clean pool.
    pub roles: BTreeMap<u64, Role>,
    /// The bytes of lanes that hold records to be replayed, in order.
    pub records: Ranges,
    /// Those of records before them in their half, which a checkpoint has passed.
    passed: Ranges,
    /// What the metadata is after the replay, where that changes it.
    replayed: BTreeMap<u64, Box<Block>>,
    /// The pool's layout.
    pub superblock: Superblock,
}

impl Places {
    /// Of `sample`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn find(sample: &Sample, scratch: &Scratch) -> anyhow::Result<Self> {
        scratch.load(&sample.image, sample.device.as_deref())?;
        let region = Region::open(scratch.path(), RegionOptions::default())?;
        let bytes = region.len();
        let superblock = Superblock::decode(sample.image.block(0), 0, bytes).context("superblock")?;
        let replayed = match sample.ending {
            Ending::Clean => BTreeMap::new(),
            Ending::Killed | Ending::Cut | Ending::Tiered => {
                udax_journal::overlay(&region, &superblock)?.blocks
            }
        };
        let sums = Geometry::new(&superblock)
            .sum_blocks()
            .map(|sums| sums.block)
            .collect();
        let mut roles = BTreeMap::new();
        let is_in_pool = |range: &udax_media::BlockRange| !range.start.is_on_device();
        let map = udax_check::map(&region)?;
        for (range, what) in map.into_iter().filter(|(range, _)| is_in_pool(range)) {
            for block in range.start.raw()..range.end().raw() {
                if let Some(role) = role_of(block, what, &superblock, &sums) {
                    roles.insert(block, role);
                }
            }
        }
        let (records, passed) = find_records(sample, &superblock, &region)?;
        roles.retain(|block, role| *role != Role::Lane || is_used_lane(*block, &records, sample));
        let replayed = replayed
            .into_iter()
            .map(|(block, bytes)| (block.raw(), bytes))
            .collect();
        Ok(Self {
            roles,
            records,
            passed,
            replayed,
            superblock,
        })
    }

    /// Of which structure the block is: what it is for, whatever inode it belongs to, and in the second segment or not.
    pub fn structure(&self, block: u64) -> (Option<Role>, bool) {
        let role = self.roles.get(&block).map(|role| match *role {
            Role::Chunk(_) => Role::Chunk(0),
            Role::Node(kind, _) => Role::Node(kind, 0),
            Role::XattrValue(_) => Role::XattrValue(0),
            Role::Target(_) => Role::Target(0),
            role => role,
        });
        let first = self.superblock.segments.first();
        (role, first.is_some_and(|first| block >= first.blocks.end().raw()))
    }

    /// Whether the replay seals this byte's unit again, so that its damage is not found by the checksum.
    pub fn is_sealed_by_replay(&self, sample: &Sample, block: u64, at: Range<usize>) -> bool {
        let Some(after) = self.replayed.get(&block) else {
            return false;
        };
        let Some(Role::Chunk(_)) = self.roles.get(&block) else {
            return true;
        };
        let before = sample.older.last().map(|image| image.block(block));
        before.is_none_or(|before| slots(at).any(|slot| before.get(slot.clone()) != after.get(slot)))
    }

    /// The block's bytes after the replay.
    pub fn bytes<'a>(&'a self, sample: &'a Sample, block: u64) -> &'a Block {
        match self.replayed.get(&block) {
            Some(bytes) => bytes,
            None => sample.image.block(block),
        }
    }

    /// As [`Places::cost`], where the damage is sealed as if it were right: an entry may be another one then.
    pub fn cost_of_sealed(&self, block: u64) -> Allowance {
        let mut cost = Allowance {
            may_be_older: true,
            ..Allowance::default()
        };
        match self.roles.get(&block) {
            Some(Role::Node(kind, ino)) if *kind == TreeKind::Extents.raw() => {
                cost.data.insert(*ino, vec![(0, u64::MAX)]);
                // An extent that leads to another file's block: who changed last keeps it.
                cost.may_contest = true;
            }
            Some(Role::Node(kind, ino)) if *kind == TreeKind::Directory.raw() => {
                cost.names.insert(*ino, vec![Names::All]);
            }
            Some(Role::Node(_, ino)) => {
                cost.xattrs.insert(*ino, vec![Names::All]);
            }
            Some(Role::Sums) => cost.may_be_refused = true,
            _ => {}
        }
        cost
    }

    /// What damage of the bytes `at` of `block`, which are `bytes` in some version, may cost.
    pub fn cost(&self, block: u64, bytes: &Block, at: Range<usize>) -> Allowance {
        let mut cost = Allowance::default();
        match self.roles.get(&block) {
            Some(Role::Chunk(chunk)) => {
                let first = chunk * CHUNK_INODES;
                let touched =
                    slots(at).map(|slot| first + u64::try_from(slot.start / INODE_SIZE).unwrap_or(0));
                cost.inodes.extend(touched);
            }
            Some(Role::Target(ino)) => {
                cost.inodes.insert(*ino);
            }
            Some(Role::XattrValue(ino)) => {
                cost.xattrs.insert(*ino, vec![Names::One]);
            }
            Some(Role::Node(kind, ino)) => cost_of_node(*kind, *ino, bytes, &mut cost),
            _ => {}
        }
        cost
    }

    /// Whether no record follows the bytes `at` of `block` in their half of a lane: then they are as a crash may leave
    /// them.
    pub fn is_end_of_records(&self, block: u64, at: &Range<usize>) -> bool {
        let from = block * BLOCK_BYTES + u64::try_from(at.start).unwrap_or(0);
        let end = block * BLOCK_BYTES + u64::try_from(at.end).unwrap_or(0);
        let half_blocks = u64::from(self.superblock.lane_blocks / 2);
        let half = |offset: u64| (offset / BLOCK_BYTES - self.superblock.journal_start.raw()) / half_blocks;
        let is_sound_and_later =
            |record: &&Range<u64>| record.start >= end && half(record.start) == half(from);
        !self.records.iter().any(|record| is_sound_and_later(&record))
    }

    /// The records that lie in `block`, or in a part of it, those that a checkpoint has passed included.
    pub fn records_of(&self, block: u64) -> impl Iterator<Item = &Range<u64>> {
        let (first, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        let is_here = move |record: &&Range<u64>| record.start < end && record.end > first;
        self.records.iter().chain(&self.passed).filter(is_here)
    }

    /// What the records may cost: everything that they change.
    pub fn cost_of_records(&self, sample: &Sample) -> Allowance {
        let mut cost = Allowance::default();
        for (block, after) in &self.replayed {
            let before = sample.older.last().map(|image| image.block(*block));
            for version in before.into_iter().chain([&**after]) {
                let at = match self.roles.get(block) {
                    Some(Role::Chunk(_)) => changed_slots(before, after),
                    _ => std::iter::once(0..BLOCK_SIZE).collect(),
                };
                for at in at {
                    cost.merge(self.cost(*block, version, at));
                }
            }
        }
        for state in sample.states.windows(2) {
            if let [before, after] = state {
                let changed = |one: &crate::tree::Tree, other: &crate::tree::Tree| -> BTreeSet<u64> {
                    let nodes = one
                        .nodes
                        .iter()
                        .filter(|(ino, node)| other.nodes.get(ino) != Some(node));
                    nodes.map(|(ino, _)| *ino).collect()
                };
                cost.inodes.extend(changed(before, after));
                cost.inodes.extend(changed(after, before));
            }
        }
        cost.may_be_older = true;
        cost
    }
}

fn changed_slots(before: Option<&Block>, after: &Block) -> Vec<Range<usize>> {
    let is_changed =
        |slot: &Range<usize>| before.is_none_or(|before| before.get(slot.clone()) != after.get(slot.clone()));
    slots(0..BLOCK_SIZE).filter(is_changed).collect()
}

/// The inode slots that the bytes `at` touch.
fn slots(at: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let first = at.start / INODE_SIZE;
    (first..at.end.div_ceil(INODE_SIZE)).map(|slot| slot * INODE_SIZE..(slot + 1) * INODE_SIZE)
}

fn role_of(block: u64, what: Use, superblock: &Superblock, sums: &BTreeSet<BlockNo>) -> Option<Role> {
    let own = BlockNo(block);
    Some(match what {
        Use::Own if SUPERBLOCKS.contains(&own) => Role::Superblock,
        Use::Own if CHECKPOINTS.contains(&own) => Role::Checkpoint,
        Use::Own if own == ROOTS => Role::Roots,
        Use::Own if superblock.journal_blocks().contains(own) => Role::Lane,
        Use::Own if sums.contains(&own) => Role::Sums,
        Use::Own => Role::Bitmap,
        Use::Chunk(chunk) => Role::Chunk(chunk),
        Use::Node(kind, ino) if ino.raw() == 0 => Role::PoolNode(kind.raw()),
        Use::Node(kind, ino) => Role::Node(kind.raw(), ino.raw()),
        Use::XattrValue(ino) => Role::XattrValue(ino.raw()),
        Use::Target(ino) => Role::Target(ino.raw()),
        _ => return None,
    })
}

fn is_used_lane(block: u64, records: &[Range<u64>], sample: &Sample) -> bool {
    let (first, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    let is_live = records.iter().any(|range| range.start < end && range.end > first);
    let is_dead = sample.ending == Ending::Clean && sample.image.block(block).iter().any(|byte| *byte != 0);
    is_live || is_dead
}

/// Where the records lie that the journal would replay, and those before them.
fn find_records(
    sample: &Sample,
    superblock: &Superblock,
    region: &Region,
) -> anyhow::Result<(Ranges, Ranges)> {
    let (mut found, mut passed) = (Ranges::new(), Ranges::new());
    if sample.ending == Ending::Clean {
        return Ok((found, passed));
    }
    let checkpoint = udax_journal::read_checkpoint(region, superblock)?;
    let seed = superblock.seed().with(checkpoint.nonce);
    let geometry = Geometry::new(superblock);
    let half = u64::from(superblock.lane_blocks / 2) * BLOCK_BYTES;
    for lane in 0..superblock.lane_count {
        let start = superblock.lane(lane).start.offset().raw();
        for half_start in [start, start + half] {
            let mut at = half_start;
            while at < half_start + half {
                let rest = sample
                    .image
                    .bytes()
                    .get(usize::try_from(at)?..)
                    .unwrap_or_default();
                let Some(bytes) = record::claimed_len(rest).and_then(|len| rest.get(..len)) else {
                    break;
                };
                let lane = u16::try_from(lane)?;
                let Ok((header, _)) = record::decode(seed, bytes, ByteOffset(at), lane, &geometry) else {
                    break;
                };
                let end = at + u64::try_from(record::padded_len(bytes.len()))?;
                match header.sequence > checkpoint.sequence {
                    true => found.push(at..end),
                    false => passed.push(at..end),
                }
                at = end;
            }
        }
    }
    Ok((found, passed))
}

fn cost_of_node(kind: u8, ino: u64, bytes: &Block, cost: &mut Allowance) {
    let kind = TreeKind::from_raw(kind);
    let values = leaf_values(bytes);
    match kind {
        Some(TreeKind::Directory) => {
            let names = values.map_or(Names::All, |values| {
                let name =
                    |(_, value): (u64, &[u8])| Dentry::decode(value).map(|dentry| dentry.name.to_vec());
                Names::These(values.into_iter().filter_map(name).collect())
            });
            cost.names.entry(ino).or_default().push(names);
        }
        Some(TreeKind::Xattrs) => {
            let names = values.map_or(Names::All, |values| {
                let name =
                    |(_, value): (u64, &[u8])| Xattr::decode(value, u64::MAX).map(|one| one.name.to_vec());
                Names::These(values.into_iter().filter_map(name).collect())
            });
            cost.xattrs.entry(ino).or_default().push(names);
        }
        _ => {
            let ranges = values.map_or(vec![(0, u64::MAX)], |values| {
                let range = |(key, value): (u64, &[u8])| {
                    let extent = Extent::decode(FileBlock(key), value, u64::MAX)?;
                    Some((key, key + extent.count))
                };
                values.into_iter().filter_map(range).collect()
            });
            cost.data.entry(ino).or_default().extend(ranges);
        }
    }
}

/// Keys and values of a leaf; `None` for an inner node.
fn leaf_values(bytes: &Block) -> Option<Vec<(u64, &[u8])>> {
    let word = bytes.get(STATE_OFFSET..)?.first_chunk::<8>()?;
    let state = NodeState::from_word(u64::from_le_bytes(*word))?;
    if state.level != 0 {
        return None;
    }
    let slots = bytes.get(SLOTS_START..)?.as_chunks::<SLOT_SIZE>().0;
    let used = slots.iter().take(usize::from(state.count)).filter_map(|slot| {
        let slot = Slot::decode(slot, state.heap_top).filter(|slot| slot.is_used)?;
        let start = usize::from(slot.offset);
        Some((slot.key, bytes.get(start..start + usize::from(slot.length))?))
    });
    Some(used.collect())
}
