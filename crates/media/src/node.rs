//! Nodes of the one B+tree that indexes extents, directory entries, inode chunks, attributes, orphans and shares.
//!
//! Keys are `u64`, unique in a tree. An *inner* node holds sorted pairs (lowest key, child); its first key counts as
//! minus infinity. A *leaf* holds unsorted slots of 16 bytes, each with its key and the place of its value in the
//! node's heap, which grows down from the block's end: an insertion writes one slot, one value and at most the state
//! word, so that its journal record is short. A free slot keeps its heap space for the next value that fits.
//!
//! The state word (level, kind, slot count, heap top) is one aligned word. Level 0 is a leaf.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::kinds::BlockNo;
use crate::seal::{self, Prefix, Seed};
use crate::{BLOCK_SIZE, LINE_SIZE};

/// `uNOD`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uNOD");
/// Bytes of a leaf's slot and of an inner node's entry.
pub const SLOT_SIZE: usize = 16;
/// Offset of the first slot or entry.
pub const SLOTS_START: usize = LINE_SIZE;
/// Offset of the state word.
pub const STATE_OFFSET: usize = 32;
/// The most entries in an inner node.
pub const MAX_ENTRIES: usize = (BLOCK_SIZE - SLOTS_START) / SLOT_SIZE;
/// The longest value: two of them always fit in a leaf.
pub const MAX_VALUE_BYTES: usize = 1984;
/// [`NodeState::heap_top`] of a leaf without values and of every inner node.
pub const HEAP_EMPTY: u16 = 4096;
/// The highest level of a root: more than any pool can need.
pub const MAX_LEVEL: u8 = 15;

/// What a tree indexes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TreeKind {
    /// File block to extent; owned by a file.
    Extents = 1,
    /// Name key to directory entry; owned by a directory.
    Directory = 2,
    /// Chunk number to inode chunk; owned by the pool.
    InodeTable = 3,
    /// Name key to extended attribute; owned by an inode.
    Xattrs = 4,
    /// Inode number to nothing; owned by the pool.
    Orphans = 5,
    /// Block to share count; owned by the pool.
    Shared = 6,
    /// First block of a run of bad blocks to its length; owned by the pool.
    BadBlocks = 7,
}

impl TreeKind {
    /// The kind with this number.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Extents),
            2 => Some(Self::Directory),
            3 => Some(Self::InodeTable),
            4 => Some(Self::Xattrs),
            5 => Some(Self::Orphans),
            6 => Some(Self::Shared),
            7 => Some(Self::BadBlocks),
            _ => None,
        }
    }

    /// Its number on media.
    pub const fn raw(self) -> u8 {
        match self {
            Self::Extents => 1,
            Self::Directory => 2,
            Self::InodeTable => 3,
            Self::Xattrs => 4,
            Self::Orphans => 5,
            Self::Shared => 6,
            Self::BadBlocks => 7,
        }
    }
}

/// Whose node it is. A node with another identity than its tree's is corruption.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeIdentity {
    /// What the tree indexes.
    pub kind: TreeKind,
    /// The owning inode's number; 0 for the pool's trees.
    pub owner: u64,
    /// The owning inode's generation; 0 for the pool's trees.
    pub generation: u64,
}

/// The word that names a tree's root: the block in bits 0..48, its level in bits 56..64. 0 is the empty tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TreeRoot(u64);

impl TreeRoot {
    /// The tree without nodes.
    pub const EMPTY: Self = Self(0);

    /// The tree whose root node is `block`, of level `level`.
    pub const fn new(block: BlockNo, level: u8) -> Self {
        Self((block.raw() & ((1 << 48) - 1)) | (u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, level])))
    }

    /// The root as it is on media.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The root from its word on media.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The root node; `None` for the empty tree.
    pub const fn block(self) -> Option<BlockNo> {
        match self.0 & ((1 << 48) - 1) {
            0 => None,
            block => Some(BlockNo(block)),
        }
    }

    /// The root node's level.
    pub const fn level(self) -> u8 {
        self.0.to_le_bytes()[7]
    }
}

/// The node's header as it is on media: one line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawNodeHeader {
    /// Magic number and checksum of the block.
    pub prefix: Prefix,
    /// The block this is.
    pub own_block: U64,
    /// [`NodeIdentity::owner`].
    pub owner: U64,
    /// [`NodeIdentity::generation`].
    pub generation: U64,
    /// [`NodeState`].
    pub state: U64,
    /// Zero.
    pub reserved: [u8; 24],
}
const _: () = assert!(size_of::<RawNodeHeader>() == LINE_SIZE);
const _: () = assert!(std::mem::offset_of!(RawNodeHeader, state) == STATE_OFFSET);

/// A leaf's slot as it is on media.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSlot {
    /// The key; meaningless in a free slot.
    pub key: U64,
    /// Where its value is, in bytes from the block's start, a multiple of 8; 0 when it never had one.
    pub offset: U16,
    /// Bytes of heap that belong to the slot, a multiple of 8.
    pub capacity: U16,
    /// Bytes of the value, at most the capacity.
    pub length: U16,
    /// 1 in use, 0 free.
    pub used: U16,
}
const _: () = assert!(size_of::<RawSlot>() == SLOT_SIZE);

/// An inner node's entry as it is on media.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    /// The lowest key below the child.
    pub key: U64,
    /// The child's block.
    pub child: U64,
}
const _: () = assert!(size_of::<RawEntry>() == SLOT_SIZE);

/// The part of a node's header that changes: one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeState {
    /// 0 for a leaf.
    pub level: u8,
    /// What the tree indexes.
    pub kind: TreeKind,
    /// Inner node: number of entries. Leaf: slots that have ever been used.
    pub count: u16,
    /// Leaf: lowest byte of the heap, a multiple of 8 (4096 when empty). Inner node: 4096.
    pub heap_top: u16,
}

impl NodeState {
    /// The word on media.
    pub fn word(self) -> u64 {
        let [c0, c1] = self.count.to_le_bytes();
        let [h0, h1] = self.heap_top.to_le_bytes();
        u64::from_le_bytes([self.level, self.kind.raw(), c0, c1, h0, h1, 0, 0])
    }

    /// The state from its word; `None` when a field is out of its range.
    #[inline]
    pub fn from_word(word: u64) -> Option<Self> {
        let [level, kind, c0, c1, h0, h1, z0, z1] = word.to_le_bytes();
        let state = Self {
            level,
            kind: TreeKind::from_raw(kind)?,
            count: u16::from_le_bytes([c0, c1]),
            heap_top: u16::from_le_bytes([h0, h1]),
        };
        let slots_end = SLOTS_START + usize::from(state.count) * SLOT_SIZE;
        let heap_top = usize::from(state.heap_top);
        let is_sound = level <= MAX_LEVEL
            && z0 == 0
            && z1 == 0
            && heap_top.is_multiple_of(8)
            && (slots_end..=BLOCK_SIZE).contains(&heap_top);
        is_sound.then_some(state)
    }
}

/// A slot of a leaf, checked: its value lies in the heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The key.
    pub key: u64,
    /// Where the value is in the block.
    pub offset: u16,
    /// Bytes of heap that belong to the slot.
    pub capacity: u16,
    /// Bytes of the value.
    pub length: u16,
    /// Whether the slot is in use.
    pub is_used: bool,
}

impl Slot {
    /// The slot's bytes.
    pub fn encode(&self) -> [u8; SLOT_SIZE] {
        let raw = RawSlot {
            key: U64::new(self.key),
            offset: U16::new(self.offset),
            capacity: U16::new(self.capacity),
            length: U16::new(self.length),
            used: U16::new(u16::from(self.is_used)),
        };
        zerocopy::transmute!(raw)
    }

    /// The slot's fields as they are, unchecked: for scans, which check with [`Slot::is_sound`] what they use.
    #[inline]
    pub fn from_raw(bytes: &[u8; SLOT_SIZE]) -> Self {
        let raw: RawSlot = zerocopy::transmute!(*bytes);
        Self {
            key: raw.key.get(),
            offset: raw.offset.get(),
            capacity: raw.capacity.get(),
            length: raw.length.get(),
            is_used: raw.used.get() == 1,
        }
    }

    /// Whether the value lies in `heap_top..4096` and the fields agree.
    #[inline]
    pub fn is_sound(&self, heap_top: u16) -> bool {
        let end = usize::from(self.offset) + usize::from(self.capacity);
        let in_heap = self.offset >= heap_top && end <= BLOCK_SIZE;
        self.offset.is_multiple_of(8)
            && self.capacity.is_multiple_of(8)
            && self.length <= self.capacity
            && (in_heap || self.capacity == 0)
    }

    /// The slot from its bytes; `None` when its value would lie outside `heap_top..4096` or its fields disagree.
    pub fn decode(bytes: &[u8; SLOT_SIZE], heap_top: u16) -> Option<Self> {
        let raw: RawSlot = zerocopy::transmute!(*bytes);
        let slot = Self::from_raw(bytes);
        (raw.used.get() <= 1 && slot.is_sound(heap_top)).then_some(slot)
    }
}

/// Where slot or entry `index` of a node begins in its block.
#[inline]
pub const fn slot_offset(index: usize) -> usize {
    SLOTS_START + index * SLOT_SIZE
}

/// A fresh node's header bytes (unsealed: the checkpoint seals nodes).
pub fn encode_header(own: BlockNo, identity: NodeIdentity, state: NodeState) -> [u8; LINE_SIZE] {
    let raw = RawNodeHeader {
        prefix: Prefix {
            magic: U32::new(MAGIC),
            checksum: U32::new(0),
        },
        own_block: U64::new(own.raw()),
        owner: U64::new(identity.owner),
        generation: U64::new(identity.generation),
        state: U64::new(state.word()),
        reserved: [0; 24],
    };
    zerocopy::transmute!(raw)
}

/// Checks everything of a node but its checksum: identity, own block, state, every slot or entry, order and
/// uniqueness of keys, children inside the pool, heap areas that do not overlap.
///
/// # Errors
/// The first field that is wrong, with the block.
pub fn verify_structure(
    bytes: &[u8; BLOCK_SIZE],
    own: BlockNo,
    identity: NodeIdentity,
    level: u8,
    total_blocks: u64,
) -> Result<NodeState, FormatError> {
    let bad = |field, value| FormatError::Field {
        what: "tree node",
        place: Place::Block(own),
        field,
        value,
    };
    let (raw, _) = RawNodeHeader::ref_from_prefix(bytes.as_slice()).map_err(|_| bad("length", 0))?;
    if raw.prefix.magic.get() != MAGIC {
        let (place, found) = (Place::Block(own), raw.prefix.magic.get());
        return Err(FormatError::Magic {
            what: "tree node",
            place,
            found,
            expected: MAGIC,
        });
    }
    if raw.own_block.get() != own.raw() {
        return Err(bad("own block", raw.own_block.get()));
    }
    if raw.owner.get() != identity.owner {
        return Err(bad("owner", raw.owner.get()));
    }
    if raw.generation.get() != identity.generation {
        return Err(bad("generation", raw.generation.get()));
    }
    let state = NodeState::from_word(raw.state.get()).ok_or_else(|| bad("state", raw.state.get()))?;
    if state.kind != identity.kind {
        return Err(bad("kind", u64::from(state.kind.raw())));
    }
    if state.level != level {
        return Err(bad("level", u64::from(state.level)));
    }
    if level == 0 {
        verify_slots(bytes, state).map_err(|(field, value)| bad(field, value))?;
    } else {
        verify_entries(bytes, state, total_blocks).map_err(|(field, value)| bad(field, value))?;
    }
    Ok(state)
}

/// Verifies a node's checksum and its structure.
///
/// # Errors
/// As [`seal::verify`] and [`verify_structure`].
pub fn verify(
    seed: Seed,
    bytes: &[u8; BLOCK_SIZE],
    own: BlockNo,
    identity: NodeIdentity,
    level: u8,
    total_blocks: u64,
) -> Result<NodeState, FormatError> {
    seal::verify(seed, bytes, MAGIC, "tree node", Place::Block(own))?;
    verify_structure(bytes, own, identity, level, total_blocks)
}

type FieldFault = (&'static str, u64);

fn verify_slots(bytes: &[u8; BLOCK_SIZE], state: NodeState) -> Result<(), FieldFault> {
    let slots = bytes
        .get(SLOTS_START..)
        .unwrap_or_default()
        .as_chunks::<SLOT_SIZE>()
        .0;
    let mut keys = Vec::with_capacity(usize::from(state.count));
    let mut areas = Vec::with_capacity(usize::from(state.count));
    for (index, slot) in (0_u64..).zip(slots.iter().take(usize::from(state.count))) {
        let slot = Slot::decode(slot, state.heap_top).ok_or(("slot", index))?;
        if slot.is_used {
            keys.push(slot.key);
        }
        if slot.capacity > 0 {
            areas.push((slot.offset, slot.capacity));
        }
    }
    keys.sort_unstable();
    if let Some(pair) = keys.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(("key, twice,", pair.first().copied().unwrap_or(0)));
    }
    areas.sort_unstable();
    for pair in areas.windows(2) {
        if let [(first, capacity), (second, _)] = pair
            && usize::from(*first) + usize::from(*capacity) > usize::from(*second)
        {
            return Err(("value overlap at offset", u64::from(*second)));
        }
    }
    Ok(())
}

fn verify_entries(bytes: &[u8; BLOCK_SIZE], state: NodeState, total_blocks: u64) -> Result<(), FieldFault> {
    let entries = bytes
        .get(SLOTS_START..)
        .unwrap_or_default()
        .as_chunks::<SLOT_SIZE>()
        .0;
    if state.count == 0 || usize::from(state.count) > MAX_ENTRIES {
        return Err(("entry count", u64::from(state.count)));
    }
    let mut previous = None;
    for entry in entries.iter().take(usize::from(state.count)) {
        let entry: RawEntry = zerocopy::transmute!(*entry);
        if previous.is_some_and(|previous| previous >= entry.key.get()) {
            return Err(("key out of order", entry.key.get()));
        }
        if entry.child.get() == 0 || entry.child.get() >= total_blocks {
            return Err(("child", entry.child.get()));
        }
        previous = Some(entry.key.get());
    }
    Ok(())
}
