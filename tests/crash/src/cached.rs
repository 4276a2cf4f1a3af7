//! What files in a page cache may hold after a power failure.
//!
//! Names and attributes are promised when an operation returns, as for all files. Bytes and ends are promised by what
//! writes them out ([`Kept`]). What was written since then may be there or not, each aligned word of 8 bytes by itself,
//! and the end is somewhere between those that the file had since then; what lies before it was written out, so that
//! no word there is from when the file was shorter. A word with a durable cut in its middle has parts: what is before
//! the cut is as old as the medium's, what is behind it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use udax::{OpenFlags, WriteFlags};
use udax_test_model::model::{Content, Id, Model};
use udax_test_model::opened::Opened;
use udax_test_model::operation::{FileOperation, NodeOperation, Operation, Text};
use udax_test_model::pool::Pool;
use udax_test_model::run::Session;

use crate::base::State;

const BLOCK: u64 = 4096;
const WORD: u64 = 8;
const ZEROS: [u8; 4096] = [0; 4096];

/// What an operation has made durable when it returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All bytes of all files.
    All,
    /// All bytes of a file.
    File(Id),
    /// These bytes of it.
    Range(Id, Range<u64>),
    /// These bytes of it, as they were before.
    Settled(Id, Range<u64>),
    /// That it has nothing behind this end any more.
    End(Id, u64),
    /// Nothing yet, but of these bytes all or none: they were written together.
    Whole(Id, Range<u64>),
}

/// Where files are, as far as that decides what is durable.
#[derive(Clone, Copy, Debug)]
pub struct Places<D> {
    /// What is open in a slot is reached by memory access now.
    pub is_dax: D,
    /// What is not has its data on a data device.
    pub has_device: bool,
}

/// What the operation that led from `before` to `after` has made durable. It has succeeded.
pub fn kept(
    operation: &Operation,
    before: &Model,
    after: &Model,
    places: Places<impl Fn(usize) -> bool>,
) -> Vec<Kept> {
    let Places { is_dax, has_device } = places;
    let open = |slot: usize| after.handle(slot).map(|handle| handle.id);
    match operation {
        Operation::Sync => vec![Kept::All],
        Operation::File { slot, what } => {
            let Some(id) = open(*slot) else {
                return Vec::new();
            };
            match what {
                FileOperation::Truncate { .. } => cut(id, before, after),
                FileOperation::Allocate { .. }
                | FileOperation::SetDax { .. }
                | FileOperation::SyncPinned { .. }
                | FileOperation::Sync => vec![Kept::File(id)],
                what => {
                    let mut kept = match what {
                        FileOperation::WriteWith { offset, data, flags } => {
                            let is_append = flags.contains(WriteFlags::APPEND)
                                || after
                                    .handle(*slot)
                                    .is_some_and(|handle| handle.flags.contains(OpenFlags::APPEND));
                            let offset = match is_append {
                                true => size(before, id),
                                false => *offset,
                            };
                            let len = u64::try_from(data.len).unwrap_or(u64::MAX);
                            asked(id, offset..offset.saturating_add(len), *flags)
                        }
                        _ => Vec::new(),
                    };
                    if is_dax(*slot) {
                        kept.push(Kept::File(id));
                    }
                    kept
                }
            }
        }
        // What replaces blocks of a device in place is durable by a sync; what was there before, and the source, are.
        Operation::CopyRange {
            from,
            to,
            to_offset,
            len,
            ..
        } if has_device && *len > 0 && !is_dax(*to) => {
            let source = open(*from).map(Kept::File);
            let range = *to_offset..to_offset.saturating_add(*len);
            let target = open(*to).map(|id| Kept::Settled(id, range));
            source.into_iter().chain(target).collect()
        }
        // Both files are settled first.
        Operation::CopyRange { from, to, len, .. } | Operation::Remap { from, to, len, .. } if *len > 0 => {
            [open(*from), open(*to)]
                .into_iter()
                .flatten()
                .map(Kept::File)
                .collect()
        }
        Operation::Open { slot, flags, .. } if flags.contains(OpenFlags::TRUNCATE) => {
            open(*slot).map_or_else(Vec::new, |id| cut(id, before, after))
        }
        Operation::Node {
            what: NodeOperation::Truncate { .. },
            ..
        } => {
            let files = after.inodes().map(|(id, _)| id);
            let changed = files.filter(|id| size(before, *id) != size(after, *id));
            changed.flat_map(|id| cut(id, before, after)).collect()
        }
        _ => Vec::new(),
    }
}

/// What a write of these bytes promises, by its flags.
fn asked(id: Id, bytes: Range<u64>, flags: WriteFlags) -> Vec<Kept> {
    let whole = flags
        .contains(WriteFlags::ATOMIC)
        .then(|| Kept::Whole(id, bytes.clone()));
    let durable = flags
        .contains(WriteFlags::DSYNC)
        .then_some(Kept::Range(id, bytes));
    whole.into_iter().chain(durable).collect()
}

/// A shorter file has its bytes where they were; a longer one was settled.
fn cut(id: Id, before: &Model, after: &Model) -> Vec<Kept> {
    let (before, after) = (size(before, id), size(after, id));
    match after < before {
        true => vec![Kept::End(id, after)],
        false => vec![Kept::File(id)],
    }
}

fn size(model: &Model, id: Id) -> u64 {
    model.file(id).map_or(0, Content::size)
}

/// All that one thread's files have held.
#[derive(Clone, Debug)]
pub struct History {
    /// In order: before the first operation, and after each.
    pub versions: Vec<Arc<State>>,
    /// What was durable in each but the first.
    pub kept: Vec<Vec<Kept>>,
}

/// What is legal for one file.
#[derive(Debug)]
struct Bounds {
    /// Bytes in this range are from this version or a later one.
    floors: Vec<(Range<u64>, usize)>,
    /// The least and the greatest end.
    ends: (u64, u64),
    /// Bytes that were written together, in this version.
    wholes: Vec<(Range<u64>, usize)>,
    /// The last version whose bytes may be there.
    last: usize,
}

impl Bounds {
    fn floor(&self, word: &Range<u64>) -> usize {
        let meets = |range: &Range<u64>| range.start < word.end && word.start < range.end;
        let floors = self.floors.iter().filter(|(range, _)| meets(range));
        floors.map(|(_, version)| *version).max().unwrap_or(0)
    }

    /// The parts of `word` in which each byte has the same floors.
    fn parts(&self, word: Range<u64>) -> Vec<Range<u64>> {
        let edges = self.floors.iter().flat_map(|(range, _)| [range.start, range.end]);
        let mut edges: Vec<u64> = edges
            .filter(|edge| word.start < *edge && *edge < word.end)
            .collect();
        edges.extend([word.start, word.end]);
        edges.sort_unstable();
        edges.dedup();
        edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }
}

impl History {
    /// Sets the files of the session's model, which is that of version `base`, to what its pool holds. The operations
    /// up to `last` were begun.
    ///
    /// # Errors
    /// Bytes or an end that were never there, or not any more.
    pub fn adopt(&self, session: &mut Session<Pool>, base: usize, last: usize) -> Result<(), String> {
        let paths: BTreeMap<Id, Vec<u8>> = session.model.paths().into_iter().collect();
        for (id, path) in paths {
            if session.model.file(id).is_some() {
                let path = Text(path);
                let found = self.found(session, (id, &path), &self.bounds(id, base, last));
                let content = found.map_err(|what| format!("{path:?}: {what}"))?;
                session.model.adopt_content(id, content);
            }
        }
        Ok(())
    }

    fn bounds(&self, id: Id, base: usize, last: usize) -> Bounds {
        let end = |version: usize| size(&self.versions[version].model, id);
        let (mut floors, mut wholes) = (Vec::new(), Vec::new());
        let (mut least, mut greatest) = (end(0), end(0));
        for version in 1..=last {
            let now = end(version);
            (least, greatest) = (least.min(now), greatest.max(now));
            for kept in &self.kept[version - 1] {
                if let Kept::Whole(file, range) = kept
                    && *file == id
                {
                    wholes.push((range.clone(), version));
                }
            }
            let kept = match version <= base {
                true => self.kept[version - 1].as_slice(),
                false => &[],
            };
            for kept in kept {
                match kept {
                    Kept::File(file) | Kept::Range(file, _) | Kept::Settled(file, _) | Kept::End(file, _)
                        if *file != id => {}
                    Kept::Whole(..) => {}
                    Kept::All | Kept::File(_) => {
                        floors = vec![(0..u64::MAX, version)];
                        (least, greatest) = (now, now);
                    }
                    Kept::Range(_, range) => {
                        floors.push((range.clone(), version));
                        least = least.max(now.min(range.end));
                    }
                    Kept::Settled(_, range) => floors.push((range.clone(), version - 1)),
                    Kept::End(_, end) => {
                        floors.push((*end..u64::MAX, version));
                        greatest = now;
                    }
                }
            }
        }
        let ends = (least, greatest);
        Bounds {
            floors,
            ends,
            wholes,
            last,
        }
    }

    /// What the file holds, if that is legal.
    fn found(
        &self,
        session: &mut Session<Pool>,
        (id, path): (Id, &Text),
        bounds: &Bounds,
    ) -> Result<Content, String> {
        let mut file = Opened::new(&mut session.target, path)?;
        let (least, greatest) = bounds.ends;
        let size = file.size();
        if size < least || size > greatest {
            return Err(format!("the end is {size}, not between {least} and {greatest}"));
        }
        let mut content = Content::default();
        content.extend(size);
        let mut numbers = BTreeSet::new();
        let mut at = 0;
        while let Some((start, end)) = file.next_data(at)? {
            at = start;
            while at < end {
                let bytes = file.block(at / BLOCK)?;
                content.write(at, &bytes);
                numbers.insert(at / BLOCK);
                at += BLOCK;
            }
        }
        let versions = self.versions[..=bounds.last].iter();
        for version in versions.filter_map(|state| state.model.file(id)) {
            numbers.extend(version.block_numbers());
        }
        let end = size.div_ceil(BLOCK);
        for number in numbers.into_iter().take_while(|number| *number < end) {
            self.check_block((id, number), &file.block(number)?, bounds)?;
        }
        for (range, version) in &bounds.wholes {
            self.check_whole(id, (range, *version), &content, bounds)?;
        }
        Ok(content)
    }

    /// Whether all or none of the bytes are there that were written together in `version`. Later ones may be there
    /// beside both; words that have bytes of others, too, are not looked at.
    fn check_whole(
        &self,
        id: Id,
        (range, version): (&Range<u64>, usize),
        found: &Content,
        bounds: &Bounds,
    ) -> Result<(), String> {
        let words = |version: usize| {
            let content = self.versions.get(version).and_then(|state| state.model.file(id));
            let len = usize::try_from(range.end - range.start).unwrap_or(0);
            content.map(|content| (content.size(), padded(content, range.start, len)))
        };
        let versions: Vec<_> = (0..=bounds.last).map(words).collect();
        let Some((_, written)) = versions.get(version).cloned().flatten() else {
            return Ok(());
        };
        let bytes = padded(found, range.start, written.len());
        let (mut first_old, mut first_new) = (None, None);
        let end = found.size().min(range.end);
        for (index, start) in (range.start..end).step_by(8).enumerate() {
            let word = index * 8..(index * 8 + 8).min(written.len());
            if word.len() < 8 {
                continue;
            }
            let floor = bounds.floor(&(start..start + WORD));
            let has = |number: usize| {
                let there = versions.get(number).and_then(Option::as_ref);
                there.is_some_and(|(size, there)| *size > start && there[word.clone()] == bytes[word.clone()])
            };
            let is_other = |number: &usize| {
                let there = versions.get(*number).and_then(Option::as_ref);
                there.is_some_and(|(_, there)| there[word.clone()] != written[word.clone()])
            };
            let can_be_new = (version.max(floor)..=bounds.last).any(has);
            let can_be_old =
                (floor..version).any(has) || (version + 1..=bounds.last).filter(is_other).any(has);
            if !can_be_new {
                first_old.get_or_insert(start);
            }
            if !can_be_old {
                first_new.get_or_insert(start);
            }
        }
        let mut ends = versions[version..].iter().flatten().map(|(size, _)| *size);
        if found.size() < range.end && ends.all(|end| end > found.size()) {
            first_old.get_or_insert(found.size());
        }
        match (first_old, first_new) {
            (Some(old), Some(new)) => Err(format!(
                "the atomic write of {range:?} is torn: the word at {new} is there, that at {old} is not"
            )),
            _ => Ok(()),
        }
    }

    fn check_block(&self, (id, number): (Id, u64), found: &[u8], bounds: &Bounds) -> Result<(), String> {
        let at = number * BLOCK;
        // Each block that differs from its successor, with the file's end and the last version that has both.
        let mut blocks: Vec<(usize, u64, &[u8; 4096])> = Vec::new();
        for (version, state) in self.versions[..=bounds.last].iter().enumerate() {
            let Some(content) = state.model.file(id) else {
                continue;
            };
            let block = content.block(number).unwrap_or(&ZEROS);
            let end = content.size();
            match blocks.last_mut() {
                Some((last, same_end, same)) if std::ptr::eq(*same, block) && *same_end == end => {
                    *last = version
                }
                _ => blocks.push((version, end, block)),
            }
        }
        let len = u64::try_from(found.len()).unwrap_or(0);
        let words = (0..len)
            .step_by(8)
            .map(|from| at + from..at + len.min(from + WORD));
        for part in words.flat_map(|word| bounds.parts(word)) {
            let in_block = |place: u64| usize::try_from(place - at).unwrap_or(usize::MAX);
            let range = in_block(part.start)..in_block(part.end);
            let (bytes, floor) = (found.get(range.clone()), bounds.floor(&part));
            let is_legal = |(version, end, block): &(usize, u64, &[u8; 4096])| {
                *version >= floor && *end > part.start && block.get(range.clone()) == bytes
            };
            if !blocks.iter().any(is_legal) {
                return Err(format!(
                    "the word at {} is {:02x?}, which no version from {floor} on has",
                    part.start,
                    bytes.unwrap_or_default()
                ));
            }
        }
        Ok(())
    }
}

/// Bytes of a file, and zeros behind its end.
fn padded(content: &Content, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = content.read(at, len);
    bytes.resize(len, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use udax::{Dax, NewInode, Owner};
    use udax_test_model::operation::Data;

    use super::*;

    const CACHED: Places<fn(usize) -> bool> = Places {
        is_dax: |_| false,
        has_device: false,
    };

    fn versions() -> History {
        let base = crate::base::Base::empty(16 << 20, udax::Checksums::Off).unwrap();
        let mut state = base.state;
        let mut versions = vec![Arc::new(state.clone())];
        let now = udax_test_model::run::since(base.made);
        let file = |what| Operation::File { slot: 0, what };
        let write = |seed| {
            file(FileOperation::Write {
                offset: 0,
                data: Data { seed, len: 5000 },
            })
        };
        let open = Operation::Open {
            slot: 0,
            path: Text::from(&b"f"[..]),
            flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
            new: NewInode {
                permissions: 0o600,
                owner: Owner::default(),
            },
        };
        let mut all = Vec::new();
        let cut = file(FileOperation::Truncate { size: 100 });
        for operation in [open, write(1), file(FileOperation::Sync), write(2), cut] {
            let before = state.clone();
            state.model.apply(&operation, now).unwrap();
            all.push(kept(&operation, &before.model, &state.model, CACHED));
            versions.push(Arc::new(state.clone()));
        }
        History { versions, kept: all }
    }

    #[test]
    fn a_sync_is_a_floor_and_a_cut_one_for_what_it_cuts() {
        let history = versions();
        let id = history.versions[5].model.handle(0).unwrap().id;
        let unsynced = history.bounds(id, 2, 2);
        assert_eq!((unsynced.floor(&(0..8)), unsynced.ends), (0, (0, 5000)));
        let synced = history.bounds(id, 4, 4);
        assert_eq!((synced.floor(&(0..8)), synced.ends), (3, (5000, 5000)));
        let cut = history.bounds(id, 5, 5);
        assert_eq!((cut.floor(&(0..8)), cut.floor(&(104..112))), (3, 5));
        assert_eq!(cut.ends, (100, 100));
    }

    #[test]
    fn words_of_no_version_and_of_versions_too_old_are_found() {
        let history = versions();
        let id = history.versions[5].model.handle(0).unwrap().id;
        let block = |version: usize| {
            *history.versions[version]
                .model
                .file(id)
                .unwrap()
                .block(0)
                .unwrap()
        };
        let bounds = history.bounds(id, 4, 4);
        let (old, new) = (block(3), block(4));
        let mut mixed = old;
        mixed[8..16].copy_from_slice(&new[8..16]);
        for legal in [old, new, mixed] {
            history.check_block((id, 0), &legal, &bounds).unwrap();
        }
        mixed[12] ^= 1;
        assert!(history.check_block((id, 0), &mixed, &bounds).is_err());
        // What is before the cut is not younger for it, also in its word; what is behind it in that word is.
        let cut = history.bounds(id, 5, 5);
        for legal in [old, new] {
            history.check_block((id, 0), &legal[..100], &cut).unwrap();
        }
        assert!(history.check_block((id, 0), &old[..104], &cut).is_err());
        // A word that is before the end was written out.
        let unsynced = history.bounds(id, 2, 2);
        assert!(history.check_block((id, 0), &ZEROS, &unsynced).is_err());
    }

    #[test]
    fn setting_the_flag_keeps_all_bytes_of_the_file() {
        let history = versions();
        let state = &history.versions[4].model;
        let set = Operation::File {
            slot: 0,
            what: FileOperation::SetDax { dax: Dax::On },
        };
        let id = state.handle(0).unwrap().id;
        assert_eq!(kept(&set, state, state, CACHED), [Kept::File(id)]);
    }
}
