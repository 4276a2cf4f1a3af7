//! What the files of [`super::dirty`] must hold after a kill: what was promised, and of the rest nothing that the file
//! did not hold at some time since.
//!
//! Of each file the model has its *versions*: all contents since the last one that was promised as a whole, the newest
//! last. What is found may mix them word by word, but each word was in one of them, and no byte is covered by the size
//! that none of them has. A promise about a part of the file is entered into all versions; so is a cut, which is
//! durable. What a record does as one is there or not.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail, ensure};
use nix::errno::Errno;
use udax::{Filesystem, OpenFlags};

use super::Settled;
use super::dirty::{Bytes, FILES, How, Step, path};
use super::pinned::{BLOCK, NEW};

type ObjectId = usize;

/// The versions of a file, each with the number of the step that made it.
#[derive(Clone, Debug, Default)]
struct Versions(Vec<(usize, Vec<u8>)>);

impl Versions {
    /// One that is promised.
    fn only(content: Vec<u8>) -> Self {
        Self(vec![(0, content)])
    }

    fn current(&self) -> &[u8] {
        self.0.last().map_or(&[], |(_, content)| content)
    }

    fn len(&self) -> usize {
        self.current().len()
    }

    fn push(&mut self, number: usize, content: Vec<u8>) {
        self.0.push((number, content));
    }

    /// All is promised that was there after step `number`.
    fn promise(&mut self, number: usize) {
        let newer = self.0.partition_point(|(made, _)| *made <= number);
        self.0.drain(..newer.saturating_sub(1));
    }

    fn promise_all(&mut self) {
        self.promise(usize::MAX);
    }

    /// What is there now of `range` is promised, and with it what comes before it behind the end of the others.
    fn promise_range(&mut self, from: usize, to: usize) {
        let current = self.current().to_vec();
        for (_, content) in &mut self.0 {
            let from = from.min(content.len());
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(&current[from..to]);
        }
    }

    /// Nothing behind `size` is there any more.
    fn cut(&mut self, size: usize) {
        for (_, content) in &mut self.0 {
            content.truncate(size);
        }
    }

    /// Whether `found` may be there; else why not.
    fn compare(&self, found: &[u8]) -> anyhow::Result<()> {
        let lens = || self.0.iter().map(|(_, content)| content.len());
        let (least, most) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
        let is_len = (least..=most).contains(&found.len())
            && (found.len().is_multiple_of(BLOCK) || lens().any(|len| len == found.len()));
        ensure!(
            is_len,
            "{} bytes; the versions have {:?}",
            found.len(),
            lens().collect::<Vec<_>>()
        );
        for (index, word) in found.chunks(8).enumerate() {
            let range = index * 8..index * 8 + word.len();
            let was = self
                .0
                .iter()
                .map(|(number, content)| (number, content.get(range.clone())));
            if !was.clone().any(|(_, was)| was == Some(word)) {
                bail!(
                    "the word at {} of {} is {word:02x?}; it was (by step) {:02x?}",
                    range.start,
                    found.len(),
                    was.collect::<Vec<_>>()
                );
            }
        }
        Ok(())
    }
}

/// What the files hold, with a name or without.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    objects: Vec<Versions>,
    names: BTreeMap<usize, ObjectId>,
    slots: [Option<ObjectId>; FILES],
    steps: usize,
}

impl Promised {
    /// How many files have a name.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// Steps that were reported.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// A sync of all that began after `steps` steps has ended.
    pub(super) fn promise(&mut self, steps: usize) {
        for object in &mut self.objects {
            object.promise(steps);
        }
    }

    /// What a step that gave `errno` has done.
    ///
    /// # Errors
    /// When it should have succeeded, or failed.
    pub(super) fn apply(&mut self, step: Step, errno: i32) -> anyhow::Result<()> {
        let expected = self.expected(step);
        let found = (errno != 0).then(|| Errno::from_raw(errno));
        // Whether the file has the DAX flag at the moment is up to another thread.
        let is_refused = found == Some(Errno::EOPNOTSUPP) && may_be_refused(step);
        ensure!(
            found == expected || is_refused,
            "{step:?} gave {found:?} instead of {expected:?}"
        );
        self.steps += 1;
        if let Step::Reopen { file } | Step::Make { file } = step {
            self.slots[file] = None;
        }
        if found.is_none() {
            self.do_it(step);
            self.keep_promise(step);
        }
        Ok(())
    }

    fn of_name(&self, file: usize) -> Option<ObjectId> {
        self.names.get(&file).copied()
    }

    /// The object that a step on an open file is about.
    fn target(&self, step: Step) -> Option<ObjectId> {
        match step {
            Step::Write {
                file,
                how: How::Direct,
                ..
            } => self.of_name(file),
            Step::Write { file, .. }
            | Step::Append { file, .. }
            | Step::Cut { file, .. }
            | Step::Punch { file, .. }
            | Step::Sync { file }
            | Step::Switch { file, .. } => self.slots[file],
            Step::Clone { to, .. } => self.slots[to],
            _ => None,
        }
    }

    /// The error that the step must give; `None` when it must succeed.
    fn expected(&self, step: Step) -> Option<Errno> {
        match step {
            Step::Make { .. } => None,
            Step::Reopen { file }
            | Step::Unlink { file }
            | Step::Replace { from: file, .. }
            | Step::Write {
                file,
                how: How::Direct,
                ..
            } => self.of_name(file).is_none().then_some(Errno::ENOENT),
            Step::Clone { from, to } => match (self.slots[from], self.slots[to]) {
                (Some(source), Some(target)) if source == target => {
                    (self.objects[source].len() > 0).then_some(Errno::EINVAL)
                }
                (Some(source), Some(target)) => {
                    let (source, target) = (self.objects[source].len(), self.objects[target].len());
                    // Part of a block is shared only where both files end.
                    let is_inside = !source.is_multiple_of(BLOCK) && target > source;
                    is_inside.then_some(Errno::EINVAL)
                }
                _ => Some(Errno::EBADF),
            },
            _ => self.target(step).is_none().then_some(Errno::EBADF),
        }
    }

    /// What is seen from now on.
    fn do_it(&mut self, step: Step) {
        match step {
            Step::Make { file } => {
                let object = self.of_name(file).unwrap_or_else(|| {
                    self.objects.push(Versions::default());
                    self.objects.len() - 1
                });
                self.objects[object] = Versions::only(Vec::new());
                self.names.insert(file, object);
                self.slots[file] = Some(object);
            }
            Step::Reopen { file } => self.slots[file] = self.of_name(file),
            Step::Unlink { file } => {
                self.names.remove(&file);
            }
            Step::Replace { from, to } => {
                if let Some(object) = self.names.remove(&from) {
                    self.names.insert(to, object);
                }
            }
            Step::Sync { .. } | Step::Switch { .. } => {}
            _ => {
                if let Some(changed) = self.changed(step)
                    && let Some(object) = self.target(step)
                {
                    self.objects[object].push(self.steps, changed);
                }
            }
        }
    }

    /// The content of its target after a step that changes one.
    fn changed(&self, step: Step) -> Option<Vec<u8>> {
        let object = self.target(step)?;
        let mut content = self.objects[object].current().to_vec();
        let mut put = |at: usize, bytes: &[u8]| {
            let end = at + bytes.len();
            if !bytes.is_empty() {
                content.resize(content.len().max(end), 0);
                content[at..end].copy_from_slice(bytes);
            }
        };
        match step {
            Step::Write { bytes, .. } => put(range(bytes).0, &bytes.data.bytes()),
            Step::Append { data, .. } => {
                let end = self.objects[object].len();
                put(end, &data.bytes());
            }
            Step::Cut { size, .. } => content.resize(usize::try_from(size).ok()?, 0),
            Step::Punch { block, count, .. } => {
                let edge = |block| usize::try_from(block).map_or(0, |block: usize| block * BLOCK);
                let end = edge(block + count).min(content.len());
                content[edge(block).min(end)..end].fill(0);
            }
            Step::Clone { from, .. } => put(0, self.objects[self.slots[from]?].current()),
            _ => return None,
        }
        Some(content)
    }

    /// What a step that was done promises.
    fn keep_promise(&mut self, step: Step) {
        let Some(object) = self.target(step) else {
            return;
        };
        let versions = &mut self.objects[object];
        match step {
            Step::Write {
                bytes,
                how: How::Durable | How::UncachedDurable | How::Direct | How::Atomic,
                ..
            } => {
                let (from, to) = range(bytes);
                versions.promise_range(from, to);
            }
            Step::Write { .. } | Step::Append { .. } => {}
            Step::Cut { size, .. } => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let before = versions
                    .0
                    .iter()
                    .rev()
                    .nth(1)
                    .map_or(0, |(_, content)| content.len());
                match size < before {
                    true => versions.cut(size),
                    // It is settled before it grows.
                    false => versions.promise_all(),
                }
            }
            _ => versions.promise_all(),
        }
        if let Step::Clone { from, .. } = step
            && let Some(source) = self.slots[from]
        {
            self.objects[source].promise_all();
        }
    }

    /// What may be there when the step was under way.
    fn candidates(&self, step: Option<Step>) -> Vec<(Settled, Self)> {
        let mut all = vec![(Settled::Undone, self.clone())];
        let Some(step) = step.filter(|step| self.expected(*step).is_none()) else {
            return all;
        };
        let mut after = self.clone();
        after.steps += 1;
        after.do_it(step);
        match step {
            // Any part of it.
            Step::Write { how, .. } if how != How::Atomic => all.push((Settled::Torn, after)),
            Step::Append { .. } | Step::Clone { .. } => all.push((Settled::Torn, after)),
            Step::Punch { .. } => all.push((Settled::Torn, after)),
            Step::Sync { .. } | Step::Switch { .. } => {}
            _ => {
                after.keep_promise(step);
                all.push((Settled::Done, after));
            }
        }
        all
    }

    /// Compares what is found after a kill while `under_way` was done, and goes on with that. Also gives how many
    /// files have lost what nobody had promised.
    ///
    /// # Errors
    /// What is lost, or there without having been written.
    pub(super) fn settle(
        &mut self,
        filesystem: &Filesystem,
        directory: &str,
        under_way: Option<Step>,
    ) -> anyhow::Result<(Settled, usize)> {
        let mut found = BTreeMap::new();
        for name in 0..FILES {
            if let Some(content) = read_all(filesystem, &path(directory, name))? {
                found.insert(name, content);
            }
        }
        let mut told = Vec::new();
        for (settled, candidate) in self.candidates(under_way) {
            match candidate.compare(&found) {
                Ok(()) => {
                    let behind = candidate.behind(&found);
                    *self = Self::holding(found);
                    return Ok((settled, behind));
                }
                Err(error) => told.push(format!("{settled:?}: {error:#}")),
            }
        }
        bail!(
            "{directory} while {under_way:?} was under way: {}",
            told.join("; ")
        )
    }

    fn compare(&self, found: &BTreeMap<usize, Vec<u8>>) -> anyhow::Result<()> {
        for name in 0..FILES {
            match (self.of_name(name), found.get(&name)) {
                (None, None) => {}
                (Some(object), Some(found)) => self.objects[object]
                    .compare(found)
                    .with_context(|| format!("file {name}"))?,
                (_, found) => bail!("file {name} is there: {}", found.is_some()),
            }
        }
        Ok(())
    }

    /// How many of the files found are not as they were last.
    fn behind(&self, found: &BTreeMap<usize, Vec<u8>>) -> usize {
        let is_behind = |(name, found): &(&usize, &Vec<u8>)| {
            let object = self.of_name(**name);
            object.is_some_and(|object| self.objects[object].current() != found.as_slice())
        };
        found.iter().filter(is_behind).count()
    }

    fn holding(found: BTreeMap<usize, Vec<u8>>) -> Self {
        let names = found.keys().copied().enumerate();
        Self {
            names: names.map(|(object, name)| (name, object)).collect(),
            objects: found.into_values().map(Versions::only).collect(),
            ..Self::default()
        }
    }
}

fn may_be_refused(step: Step) -> bool {
    matches!(
        step,
        Step::Clone { .. }
            | Step::Write {
                how: How::Uncached | How::UncachedDurable,
                ..
            }
    )
}

fn range(bytes: Bytes) -> (usize, usize) {
    let from = usize::try_from(bytes.at).unwrap_or(usize::MAX);
    (from, from.saturating_add(bytes.data.len))
}

fn read_all(filesystem: &Filesystem, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match filesystem.open_file(path, OpenFlags::READ, NEW) {
        Ok(file) => file,
        Err(udax::Error::NotFound) => return Ok(None),
        Err(error) => return Err(anyhow!(error)).with_context(|| format!("open of {path}")),
    };
    let mut bytes = vec![0; usize::try_from(file.stat()?.size)?];
    let count = file
        .read_at(&mut bytes, 0)
        .with_context(|| format!("read of {path}"))?;
    ensure!(
        count == bytes.len(),
        "{path}: {count} bytes read of {}",
        bytes.len()
    );
    Ok(Some(bytes))
}
