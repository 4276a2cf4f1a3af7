//! What the files of [`super::pinned`] must hold: a model of the steps, and the comparison after a kill.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use udax::{Filesystem, OpenFlags};

use super::Settled;
use super::pinned::{BLOCK, BLOCK_BYTES, FILES, ISLANDS, NEW, SCATTERED, Step, filling, stored};
use crate::operation::Data;

type ObjectId = usize;

#[derive(Clone, Debug, Default)]
struct SlotModel {
    object: Option<ObjectId>,
    is_open: bool,
    /// The object, first block and number of blocks that are pinned.
    pin: Option<(ObjectId, usize, usize)>,
}

/// What the files hold, with a name or without.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    objects: Vec<Vec<u8>>,
    names: BTreeMap<usize, ObjectId>,
    slots: [SlotModel; FILES],
}

impl Held {
    /// How many files have a name.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// The end of the process: pins, open files, and what has no name are gone.
    pub(super) fn end(&mut self) {
        self.slots = Default::default();
        let names = std::mem::take(&mut self.names);
        let objects = std::mem::take(&mut self.objects);
        for (name, object) in names {
            self.names.insert(name, self.objects.len());
            self.objects.push(objects[object].clone());
        }
    }

    /// What a step that gave `errno` has done.
    ///
    /// # Errors
    /// When it should have succeeded, or failed.
    pub(super) fn apply(&mut self, step: Step, errno: i32) -> anyhow::Result<()> {
        let expected = self.expected(step);
        let found = Errno::from_raw(errno);
        let is_right = match expected {
            None => errno == 0,
            Some(expected) => found == expected,
        };
        ensure!(
            is_right,
            "{step:?} gave error {errno} instead of {expected:?} with {:?}",
            self.slots
        );
        if errno == 0 {
            self.do_it(step);
        } else if let Step::Pin { file, .. } = step {
            self.slots[file].pin = None;
        }
        Ok(())
    }

    fn open_object(&self, file: usize) -> Option<ObjectId> {
        let slot = &self.slots[file];
        slot.object.filter(|_| slot.is_open)
    }

    fn size(&self, object: ObjectId) -> usize {
        self.objects[object].len()
    }

    fn is_pinned(&self, object: ObjectId, from_block: usize) -> bool {
        self.slots.iter().any(|slot| {
            let pin = slot.pin.filter(|(pinned, _, _)| *pinned == object);
            pin.is_some_and(|(_, first, count)| first + count > from_block)
        })
    }

    /// The error that the step must give; `None` when it must succeed.
    fn expected(&self, step: Step) -> Option<Errno> {
        let bad = |file| self.open_object(file).is_none().then_some(Errno::EBADF);
        match step {
            Step::Make { .. } | Step::Unpin { .. } | Step::Close { .. } => None,
            Step::Fill { file, .. } | Step::Write { file, .. } | Step::Sync { file } => bad(file),
            Step::Pin { file, block, count } => bad(file).or_else(|| {
                let size = self.open_object(file).map_or(0, |object| self.size(object));
                let end = usize::try_from(block + count).unwrap_or(usize::MAX) * BLOCK;
                (end > size.next_multiple_of(BLOCK)).then_some(Errno::EFAULT)
            }),
            Step::Store { file, .. } => self.slots[file].pin.is_none().then_some(Errno::EBADF),
            Step::Unlink { file } => (!self.names.contains_key(&file)).then_some(Errno::ENOENT),
            Step::Cut { file, blocks } => bad(file).or_else(|| {
                let object = self.open_object(file)?;
                let keep = usize::try_from(blocks).unwrap_or(usize::MAX);
                let is_shorter = keep * BLOCK < self.size(object);
                (is_shorter && self.is_pinned(object, keep)).then_some(Errno::EAGAIN)
            }),
            Step::Late { file } => bad(file).or_else(|| {
                let object = self.open_object(file)?;
                self.is_pinned(object, 0).then_some(Errno::ETIMEDOUT)
            }),
            Step::Clone { from, to } => bad(from).or_else(|| bad(to)).or_else(|| {
                let (source, target) = (self.open_object(from)?, self.open_object(to)?);
                if source == target {
                    return (self.size(source) > 0).then_some(Errno::EINVAL);
                }
                let in_the_way = self.is_pinned(source, 0)
                    || self.slots.iter().any(|slot| {
                        let blocks = self.size(source).div_ceil(BLOCK);
                        slot.pin
                            .is_some_and(|(pinned, first, _)| pinned == target && first < blocks)
                    });
                (in_the_way && self.size(source) > 0).then_some(Errno::EAGAIN)
            }),
        }
    }

    fn do_it(&mut self, step: Step) {
        match step {
            Step::Make { file } => self.make(file),
            Step::Fill {
                file: SCATTERED,
                seed,
            } => {
                for island in 0..ISLANDS {
                    let word = seed.wrapping_add(island).to_le_bytes();
                    let at = usize::try_from(island * 2 * BLOCK_BYTES).unwrap_or(usize::MAX);
                    self.put(self.open_object(SCATTERED), at, &word);
                }
            }
            Step::Fill { file, seed } => self.put(self.open_object(file), 0, &filling(seed)),
            Step::Write { file, block, seed } => {
                let at = usize::try_from(block).unwrap_or(usize::MAX) * BLOCK;
                self.put(self.open_object(file), at, &Data { seed, len: BLOCK }.bytes());
            }
            Step::Pin { file, block, count } => {
                let to_usize = |blocks| usize::try_from(blocks).unwrap_or(usize::MAX);
                let object = self.open_object(file);
                self.slots[file].pin = object.map(|object| (object, to_usize(block), to_usize(count)));
            }
            Step::Store {
                file,
                word,
                words,
                seed,
                ..
            } => self.store(file, (word, words), seed),
            Step::Unpin { file } => self.slots[file].pin = None,
            Step::Unlink { file } => {
                self.names.remove(&file);
            }
            Step::Close { file } => self.slots[file].is_open = false,
            Step::Cut { file, blocks } => {
                if let Some(object) = self.open_object(file) {
                    let size = usize::try_from(blocks).unwrap_or(usize::MAX) * BLOCK;
                    self.objects[object].resize(size, 0);
                }
            }
            Step::Late { file } => {
                if let Some(object) = self.open_object(file) {
                    self.objects[object].clear();
                }
            }
            Step::Clone { from, to } => {
                if let Some(source) = self.open_object(from) {
                    let bytes = self.objects[source].clone();
                    self.put(self.open_object(to), 0, &bytes);
                }
            }
            Step::Sync { .. } => {}
        }
    }

    fn make(&mut self, file: usize) {
        let object = match self.names.get(&file) {
            Some(object) => *object,
            None => {
                self.objects.push(Vec::new());
                self.names.insert(file, self.objects.len() - 1);
                self.objects.len() - 1
            }
        };
        self.objects[object].clear();
        self.slots[file] = SlotModel {
            object: Some(object),
            is_open: true,
            pin: None,
        };
    }

    fn store(&mut self, file: usize, place: (usize, usize), seed: u64) {
        let Some((object, first, count)) = self.slots[file].pin else {
            return;
        };
        let len = u64::try_from(count * BLOCK).unwrap_or(0);
        let (at, bytes) = stored(len, place, seed);
        let at = first * BLOCK + usize::try_from(at).unwrap_or(usize::MAX);
        // Beyond the end of the file, nothing of it is seen.
        let room = self.size(object).saturating_sub(at).min(bytes.len());
        self.put(Some(object), at, &bytes[..room]);
    }

    fn put(&mut self, object: Option<ObjectId>, at: usize, bytes: &[u8]) {
        let Some(content) = object.and_then(|object| self.objects.get_mut(object)) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at..end].copy_from_slice(bytes);
    }

    fn content(&self, name: usize) -> Option<&[u8]> {
        self.names
            .get(&name)
            .map(|object| self.objects[*object].as_slice())
    }

    /// Compares what is found after a kill while `under_way` was done, and goes on with that.
    ///
    /// # Errors
    /// What is lost, or there without having been stored.
    pub(super) fn settle(
        &mut self,
        filesystem: &Filesystem,
        directory: &str,
        under_way: Option<Step>,
    ) -> anyhow::Result<Settled> {
        let mut settled = Settled::Undone;
        let mut after = self.clone();
        if let Some(step) = under_way.filter(|step| self.expected(*step).is_none()) {
            after.do_it(step);
        }
        for name in 0..FILES {
            let path = format!("{directory}/{name}");
            let found = read_all(filesystem, &path)?;
            let (before, after) = (self.content(name), after.content(name));
            let is_partial = under_way.is_some_and(|step| is_in_parts(step, name));
            let is_found = |content: Option<&[u8]>| content == found.as_deref();
            if !is_found(before) && !is_found(after) {
                if !is_partial {
                    bail!("{path} is neither as before {under_way:?} nor as after it");
                }
                is_between(before, after, found.as_deref())
                    .with_context(|| format!("{path} while {under_way:?} was under way"))?;
                settled = Settled::Torn;
            } else if !is_found(before) {
                settled = Settled::Done;
            }
            self.names.remove(&name);
            if let Some(found) = found {
                self.names.insert(name, self.objects.len());
                self.objects.push(found);
            }
        }
        self.end();
        Ok(settled)
    }
}

/// Whether a kill may leave the step done in part to the file `name`.
fn is_in_parts(step: Step, name: usize) -> bool {
    match step {
        Step::Fill { file, .. } | Step::Write { file, .. } | Step::Store { file, .. } => file == name,
        Step::Clone { to, .. } => to == name,
        _ => false,
    }
}

/// Sizes between both, and each word as in one of them.
fn is_between(before: Option<&[u8]>, after: Option<&[u8]>, found: Option<&[u8]>) -> anyhow::Result<()> {
    let (Some(before), Some(after), Some(found)) = (before, after, found) else {
        bail!("the name is gone, or there");
    };
    let sizes = before.len().min(after.len())..=before.len().max(after.len());
    ensure!(
        sizes.contains(&found.len()),
        "{} bytes instead of {sizes:?}",
        found.len()
    );
    let word = |content: &[u8], index: usize| {
        let mut word = [0; 8];
        let rest = content.get(index * 8..).unwrap_or_default();
        let len = rest.len().min(8);
        word[..len].copy_from_slice(&rest[..len]);
        word
    };
    for index in 0..found.len().div_ceil(8) {
        let (old, new, is) = (word(before, index), word(after, index), word(found, index));
        ensure!(
            is == old || is == new,
            "the word at {} is {is:02x?}, neither {old:02x?} nor {new:02x?}",
            index * 8
        );
    }
    Ok(())
}

fn read_all(filesystem: &Filesystem, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match filesystem.open_file(path, OpenFlags::READ, NEW) {
        Ok(file) => file,
        Err(udax::Error::NotFound) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open of {path}")),
    };
    let size = usize::try_from(file.stat()?.size)?;
    let mut bytes = vec![0; size];
    let count = file
        .read_at(&mut bytes, 0)
        .with_context(|| format!("read of {path}"))?;
    ensure!(count == size, "{path}: {count} bytes read of {size}");
    Ok(Some(bytes))
}
