//! Leaves: unsorted slots, and values in a heap that grows down.

use smallvec::SmallVec;
use udax_media::node::{
    self, HEAP_EMPTY, NodeIdentity, NodeState, SLOT_SIZE, SLOTS_START, STATE_OFFSET, Slot, slot_offset,
};
use udax_media::{BLOCK_SIZE, BlockNo};

use super::descent::Node;
use super::{INLINE_VALUE_BYTES, NodeSource, NodeStore, ValueAt};

/// Bytes of a leaf for slots and values.
pub(super) const ROOM: usize = BLOCK_SIZE - SLOTS_START;
/// A leaf with fewer bytes in use is merged with a neighbour when it can be.
pub(super) const MERGE_BELOW: usize = ROOM / 4;
/// The most bytes in use of a merged leaf, so that it does not split again soon.
pub(super) const MERGED_MAX: usize = ROOM / 4 * 3;
/// What must be free after a compaction: less, and the next insertions would each compact again.
pub(super) const COMPACTION_GAIN: usize = 256;
/// Slots read at a time by scans of all slots; `find` reads the keys alone and stops, which was measured faster.
const SCAN_SLOTS: usize = 64;

/// Bytes that an entry takes.
#[inline]
pub(super) fn entry_size(value_len: usize) -> usize {
    SLOT_SIZE + value_len.next_multiple_of(8)
}

/// Calls `visit` with runs of slots, all ever used, and the index of each run's first. The slots are as on media.
#[inline]
fn for_each_run<S: NodeSource>(
    source: &S,
    node: Node,
    mut visit: impl FnMut(usize, &[[u8; SLOT_SIZE]]),
) -> Result<(), S::Error> {
    let mut buffer = [0; SCAN_SLOTS * SLOT_SIZE];
    let mut first = 0;
    while first < node.count() {
        let count = (node.count() - first).min(SCAN_SLOTS);
        let part = buffer.get_mut(..count * SLOT_SIZE).unwrap_or_default();
        source.read(node.block, slot_offset(first), part)?;
        visit(first, part.as_chunks::<SLOT_SIZE>().0);
        first += count;
    }
    Ok(())
}

/// Slot `index`, as it is on media.
fn read_slot<S: NodeSource>(source: &S, node: Node, index: usize) -> Result<Slot, S::Error> {
    let mut bytes = [0; SLOT_SIZE];
    source.read(node.block, slot_offset(index), &mut bytes)?;
    Ok(Slot::from_raw(&bytes))
}

/// The used slot of `key` and its index.
#[inline]
pub(super) fn find<S: NodeSource>(
    source: &S,
    node: Node,
    key: u64,
) -> Result<Option<(usize, Slot)>, S::Error> {
    for index in 0..node.count() {
        if source.word(node.block, slot_offset(index))? == key {
            let slot = read_slot(source, node, index)?;
            if slot.is_used {
                return Ok(Some((index, slot)));
            }
        }
    }
    Ok(None)
}

/// The used slot with the greatest key that is at most `key`.
pub(super) fn greatest<S: NodeSource>(source: &S, node: Node, key: u64) -> Result<Option<Slot>, S::Error> {
    nearest(source, node, |found, best| {
        found <= key && best.is_none_or(|best| best < found)
    })
}

/// The used slot with the smallest key that is at least `key`.
pub(super) fn least<S: NodeSource>(source: &S, node: Node, key: u64) -> Result<Option<Slot>, S::Error> {
    nearest(source, node, |found, best| {
        found >= key && best.is_none_or(|best| best > found)
    })
}

/// The used slot whose key `is_better` than that of every other.
#[inline]
fn nearest<S: NodeSource>(
    source: &S,
    node: Node,
    is_better: impl Fn(u64, Option<u64>) -> bool,
) -> Result<Option<Slot>, S::Error> {
    let mut best: Option<Slot> = None;
    for_each_run(source, node, |_, run| {
        for bytes in run {
            // The key alone decides for most slots.
            let key = bytes.first_chunk::<8>().map_or(0, |key| u64::from_le_bytes(*key));
            if is_better(key, best.map(|best| best.key)) {
                best = Some(Slot::from_raw(bytes)).filter(|slot| slot.is_used).or(best);
            }
        }
    })?;
    Ok(best)
}

/// Where the value of `slot` is, checked.
#[inline]
pub(super) fn value_at(node: Node, slot: &Slot) -> Result<ValueAt, udax_media::FormatError> {
    if !slot.is_sound(node.state.heap_top) {
        return Err(node.fault("slot of key", slot.key));
    }
    Ok(ValueAt {
        block: node.block,
        offset: usize::from(slot.offset),
        len: usize::from(slot.length),
    })
}

/// What is in a leaf, as far as a change of it needs to know.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Survey {
    /// The free slot with the least capacity that suffices.
    best: Option<(usize, Slot)>,
    /// The free slot with the least capacity.
    smallest: Option<(usize, Slot)>,
    /// Used slots.
    pub(super) used: usize,
    /// Bytes of the used slots and their values.
    pub(super) used_bytes: usize,
}

/// Looks for a place for a value of `len` bytes, and shows each used slot with a key of `first..=last` to `visit`.
#[inline]
pub(super) fn survey<S: NodeSource>(
    source: &S,
    node: Node,
    len: usize,
    (first, last): (u64, u64),
    mut visit: impl FnMut(usize, Slot),
) -> Result<Survey, S::Error> {
    let mut survey = Survey::default();
    for_each_run(source, node, |index, run| {
        let summary = Summary::of(run, first, last);
        survey.used += summary.used;
        survey.used_bytes += summary.used_bytes;
        // Most runs have neither what is looked for nor a gap, and are not looked at again.
        if summary.has_hits || summary.used < run.len() {
            for (index, bytes) in (index..).zip(run) {
                let slot = Slot::from_raw(bytes);
                if !slot.is_used {
                    survey.note_free(index, slot, len);
                } else if (first..=last).contains(&slot.key) {
                    visit(index, slot);
                }
            }
        }
    })?;
    Ok(survey)
}

/// What a run of slots adds up to.
#[derive(Clone, Copy, Default, Debug)]
struct Summary {
    used: usize,
    used_bytes: usize,
    /// Perhaps only in slots that are free.
    has_hits: bool,
}

impl Summary {
    /// Without branches: half the instructions of a loop that decides for each slot.
    #[inline]
    fn of(run: &[[u8; SLOT_SIZE]], first: u64, last: u64) -> Self {
        let span = last.saturating_sub(first);
        let mut summary = Self::default();
        for bytes in run {
            let slot = Slot::from_raw(bytes);
            let used = usize::from(slot.is_used);
            summary.used += used;
            summary.used_bytes += used * entry_size(usize::from(slot.length));
            summary.has_hits |= slot.key.wrapping_sub(first) <= span;
        }
        summary
    }
}

impl Survey {
    fn note_free(&mut self, index: usize, slot: Slot, len: usize) {
        let is_less =
            |other: Option<(usize, Slot)>| other.is_none_or(|(_, other)| other.capacity > slot.capacity);
        if usize::from(slot.capacity) >= len && is_less(self.best) {
            self.best = Some((index, slot));
        }
        if is_less(self.smallest) {
            self.smallest = Some((index, slot));
        }
    }
}

/// A place for a value: the slot to write, and the state of the leaf with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    index: usize,
    offset: u16,
    capacity: u16,
    state: NodeState,
}

/// Where a value of `len` bytes goes without moving anything else; `None` when there is no such place.
pub(super) fn place(node: Node, survey: &Survey, len: usize) -> Option<Place> {
    if let Some((index, slot)) = survey.best
        && slot.is_sound(node.state.heap_top)
    {
        return Some(Place {
            index,
            offset: slot.offset,
            capacity: slot.capacity,
            state: node.state,
        });
    }
    let capacity = u16::try_from(len.next_multiple_of(8)).ok()?;
    let heap_top = node.state.heap_top.checked_sub(capacity)?;
    let count = node.count();
    let (index, count) = if slot_offset(count + 1) <= usize::from(heap_top) {
        (count, count + 1)
    } else if let Some((index, _)) = survey.smallest
        && slot_offset(count) <= usize::from(heap_top)
    {
        // Its heap space is lost until the leaf is compacted.
        (index, count)
    } else {
        return None;
    };
    Some(Place {
        index,
        offset: heap_top,
        capacity,
        state: NodeState {
            count: u16::try_from(count).ok()?,
            heap_top,
            ..node.state
        },
    })
}

/// Puts a value in its place: the slot, the value and, when it changed, the state.
pub(super) fn put<S: NodeStore>(
    store: &mut S,
    node: Node,
    place: Place,
    key: u64,
    value: &[u8],
) -> Result<(), S::Error> {
    let slot = Slot {
        key,
        offset: place.offset,
        capacity: place.capacity,
        length: u16::try_from(value.len()).unwrap_or(u16::MAX),
        is_used: true,
    };
    write_value(store, node.block, usize::from(place.offset), value)?;
    store.write(node.block, slot_offset(place.index), &slot.encode())?;
    if place.state != node.state {
        store.write(node.block, STATE_OFFSET, &place.state.word().to_le_bytes())?;
    }
    Ok(())
}

/// Writes a value in whole words, the last filled with zeros.
pub(super) fn write_value<S: NodeStore>(
    store: &mut S,
    block: BlockNo,
    offset: usize,
    value: &[u8],
) -> Result<(), S::Error> {
    if value.is_empty() {
        return Ok(());
    }
    if value.len().is_multiple_of(8) {
        return store.write(block, offset, value);
    }
    let mut padded: SmallVec<[u8; INLINE_VALUE_BYTES]> = SmallVec::from_slice(value);
    padded.resize(value.len().next_multiple_of(8), 0);
    store.write(block, offset, &padded)
}

/// Writes the second word of slot `index`: everything but its key.
pub(super) fn write_slot_place<S: NodeStore>(
    store: &mut S,
    block: BlockNo,
    index: usize,
    slot: &Slot,
) -> Result<(), S::Error> {
    let bytes = slot.encode();
    let (_, place) = bytes.split_at(8);
    store.write(block, slot_offset(index) + 8, place)
}

/// Frees used slot `index`, which keeps its heap space for the next value that fits.
pub(super) fn free_slot<S: NodeStore>(
    store: &mut S,
    block: BlockNo,
    index: usize,
    slot: Slot,
) -> Result<(), S::Error> {
    let freed = Slot {
        length: 0,
        is_used: false,
        ..slot
    };
    write_slot_place(store, block, index, &freed)
}

/// Empties a leaf, by the state word alone.
pub(super) fn clear<S: NodeStore>(store: &mut S, node: Node) -> Result<(), S::Error> {
    let state = NodeState {
        count: 0,
        heap_top: HEAP_EMPTY,
        ..node.state
    };
    store.write(node.block, STATE_OFFSET, &state.word().to_le_bytes())
}

/// A copy of a leaf, its used slots checked and sorted by key.
#[derive(Clone, Debug)]
pub(super) struct Image {
    bytes: Box<[u8; BLOCK_SIZE]>,
    slots: Vec<Slot>,
}

impl Image {
    pub(super) fn read<S: NodeSource>(source: &S, node: Node) -> Result<Self, S::Error> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        source.read(node.block, 0, bytes.as_mut_slice())?;
        let mut slots = Vec::with_capacity(node.count());
        let (raw, _) = bytes
            .get(SLOTS_START..)
            .unwrap_or_default()
            .as_chunks::<SLOT_SIZE>();
        for (index, raw) in (0_u64..).zip(raw.iter().take(node.count())) {
            let slot = Slot::decode(raw, node.state.heap_top).ok_or_else(|| node.fault("slot", index))?;
            if slot.is_used {
                slots.push(slot);
            }
        }
        slots.sort_unstable_by_key(|slot| slot.key);
        if let Some([twice, _]) = slots.array_windows().find(|[one, two]| one.key == two.key) {
            return Err(node.fault("key, twice,", twice.key).into());
        }
        Ok(Self { bytes, slots })
    }

    /// The entries, ascending.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = (u64, &[u8])> + Clone {
        self.slots.iter().map(|slot| (slot.key, self.value(slot)))
    }

    /// Bytes of the entries.
    pub(super) fn used_bytes(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| entry_size(usize::from(slot.length)))
            .sum()
    }

    /// Keeps the entries with keys from `first` to below `end`.
    pub(super) fn keep(&mut self, first: u64, end: Option<u64>) {
        self.slots
            .retain(|slot| slot.key >= first && end.is_none_or(|end| slot.key < end));
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn value(&self, slot: &Slot) -> &[u8] {
        let start = usize::from(slot.offset);
        self.bytes
            .get(start..start + usize::from(slot.length))
            .unwrap_or_default()
    }
}

/// A leaf being composed without gaps.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    bytes: Box<[u8; BLOCK_SIZE]>,
    count: u16,
    heap_top: u16,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self {
            bytes: Box::new([0; BLOCK_SIZE]),
            count: 0,
            heap_top: HEAP_EMPTY,
        }
    }

    /// Adds an entry; gives `false`, and adds nothing, when it does not fit.
    #[must_use]
    pub(super) fn push(&mut self, key: u64, value: &[u8]) -> bool {
        let slot_at = slot_offset(usize::from(self.count));
        let heap_top = usize::from(self.heap_top);
        let Some(offset) = heap_top
            .checked_sub(value.len().next_multiple_of(8))
            .filter(|offset| slot_at + SLOT_SIZE <= *offset)
        else {
            return false;
        };
        let (Ok(place), Ok(length)) = (u16::try_from(offset), u16::try_from(value.len())) else {
            return false;
        };
        let slot = Slot {
            key,
            offset: place,
            capacity: self.heap_top - place,
            length,
            is_used: true,
        };
        let (head, heap) = self.bytes.split_at_mut(offset);
        for (to, from) in head.iter_mut().skip(slot_at).zip(slot.encode()) {
            *to = from;
        }
        if let Some(to) = heap.get_mut(..value.len()) {
            to.copy_from_slice(value);
        }
        self.count += 1;
        self.heap_top = place;
        true
    }

    /// Writes the draft as a new node at `block`.
    pub(super) fn write_fresh<S: NodeStore>(
        mut self,
        store: &mut S,
        block: BlockNo,
        identity: NodeIdentity,
    ) -> Result<(), S::Error> {
        let header = node::encode_header(block, identity, self.state(identity));
        let (head, _) = self.bytes.split_at_mut(SLOTS_START);
        head.copy_from_slice(&header);
        self.write_from(store, block, 0)
    }

    /// Writes the draft over the leaf at `block`.
    pub(super) fn rewrite<S: NodeStore>(
        mut self,
        store: &mut S,
        block: BlockNo,
        identity: NodeIdentity,
    ) -> Result<(), S::Error> {
        let word = self.state(identity).word().to_le_bytes();
        if let Some(to) = self.bytes.get_mut(STATE_OFFSET..STATE_OFFSET + 8) {
            to.copy_from_slice(&word);
        }
        self.write_from(store, block, STATE_OFFSET)
    }

    fn state(&self, identity: NodeIdentity) -> NodeState {
        NodeState {
            level: 0,
            kind: identity.kind,
            count: self.count,
            heap_top: self.heap_top,
        }
    }

    fn write_from<S: NodeStore>(&self, store: &mut S, block: BlockNo, first: usize) -> Result<(), S::Error> {
        let slots_end = slot_offset(usize::from(self.count));
        store.write(block, first, self.bytes.get(first..slots_end).unwrap_or_default())?;
        let heap_top = usize::from(self.heap_top);
        match self.bytes.get(heap_top..) {
            Some(heap) if !heap.is_empty() => store.write(block, heap_top, heap),
            _ => Ok(()),
        }
    }
}
