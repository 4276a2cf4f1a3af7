//! One result against what the model says.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use udax::FileKind;

use crate::model::{Body, Expected, Holes, Id, Model, Prediction, ROOT};
use crate::operation::{Entry, Outcome, Reply, Text, View};

/// Whether time stamps are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Times {
    /// Within the bounds that the model knows.
    Compared,
    /// Not at all: when things happened is not known.
    Ignored,
}

/// What was learned of an inode from outside.
#[derive(Clone, Copy, Debug)]
struct Known {
    ino: u64,
    generation: Option<u64>,
    birth: Option<udax::Timestamp>,
    /// The model's number of changes, and the file system's, when last seen.
    changes: Option<(u64, u64)>,
}

/// Compares, and remembers which inode number belongs to which inode of the model.
#[derive(Clone, Debug)]
pub struct Comparer {
    known: BTreeMap<Id, Known>,
    owners: BTreeMap<(u64, u64), Id>,
    times: Times,
    holes: Holes,
    scope: Scope,
}

/// What of a tree is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All of the file system.
    Whole,
    /// What is below one of its directories.
    Subtree,
    /// Some names in one of its directories, and what is below them: the directory itself is others' too.
    Names,
}

impl Comparer {
    /// A comparer that knows nothing.
    pub fn new(times: Times, scope: Scope) -> Self {
        Self {
            known: BTreeMap::new(),
            owners: BTreeMap::new(),
            times,
            holes: Holes::Exact,
            scope,
        }
    }

    /// The same, for a file system that may tell a hole to be data.
    #[must_use]
    pub fn with_loose_holes(self) -> Self {
        Self {
            holes: Holes::MayBeData,
            ..self
        }
    }

    /// Whether the model's root is compared.
    pub(crate) fn has_root(&self) -> bool {
        self.scope != Scope::Names
    }

    /// Time stamps are not compared any more.
    pub fn ignore_times(&mut self) {
        self.times = Times::Ignored;
    }

    /// After a crash: changes that were not durable may be counted again.
    pub fn forget_changes(&mut self) {
        for known in self.known.values_mut() {
            known.changes = None;
        }
    }

    /// Compares what came back with what had to.
    ///
    /// # Errors
    /// The difference, in words.
    pub fn compare(
        &mut self,
        model: &mut Model,
        expected: &Prediction,
        found: &Outcome,
    ) -> Result<(), String> {
        let expected = match (expected, found) {
            (Ok(Expected::SeekData(id, offset)), _) => {
                let holes = self.holes;
                return seek(model, *id, found, |content, found| {
                    content.is_seek_data(*offset, found, holes)
                });
            }
            (Ok(Expected::SeekHole(id, offset)), _) => {
                let holes = self.holes;
                return seek(model, *id, found, |content, found| {
                    content.is_seek_hole(*offset, found, holes)
                });
            }
            (Ok(Expected::Directory(id)), Err(Errno::ENOENT)) if model.inode(*id).nlink == 0 => return Ok(()),
            (Ok(Expected::Stream(slot)), Err(Errno::ENOENT)) if is_dead(model, *slot) => return Ok(()),
            (Err(fault), Err(errno)) if fault.0.is_empty() || fault.0.contains(errno) => return Ok(()),
            (Ok(expected), Ok(_)) => expected,
            _ => return Err(different(expected, found)),
        };
        let Ok(found) = found else {
            return Ok(());
        };
        match (expected, found) {
            (Expected::Done, Reply::Done) => Ok(()),
            (Expected::Count(expected), Reply::Count(found)) if expected == found => Ok(()),
            (Expected::Bytes(expected), Reply::Bytes(found)) => bytes(expected, found),
            (Expected::Inode(id), Reply::Stat(view)) => self.view(model, *id, view),
            (Expected::Directory(id), Reply::Entries(entries)) => self.directory(model, *id, entries),
            (Expected::Stream(slot), Reply::Entries(entries)) => stream(model, *slot, entries),
            (Expected::Names(expected), Reply::Names(found)) => names(expected, found),
            _ => Err(different(expected, found)),
        }
    }

    fn view(&mut self, model: &Model, id: Id, view: &View) -> Result<(), String> {
        let inode = model.inode(id);
        let fail = |what: &str, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
            Err(format!("{what} is {found:?} instead of {expected:?}"))
        };
        if view.kind != inode.body.kind() {
            return fail("kind", &inode.body.kind(), &view.kind);
        }
        let mask = if inode.are_set_id_bits_uncertain {
            0o1777
        } else {
            0o7777
        };
        // POSIX leaves the permissions of a symbolic link open.
        if view.kind != FileKind::Symlink && view.permissions & mask != inode.permissions & mask {
            return fail("permissions", &inode.permissions, &view.permissions);
        }
        if view.nlink != inode.nlink {
            return fail("nlink", &inode.nlink, &view.nlink);
        }
        if (view.uid, view.gid) != (inode.owner.uid, inode.owner.gid) {
            return fail("owner", &inode.owner, &(view.uid, view.gid));
        }
        match &inode.body {
            Body::File(content) if view.size != content.size() => {
                return fail("size", &content.size(), &view.size);
            }
            // The kernel counts blocks late (delayed allocation).
            Body::File(content) if view.change.is_some() && view.blocks < content.data_blocks() => {
                return fail("blocks, at least", &content.data_blocks(), &view.blocks);
            }
            Body::Symlink(target) if u64::try_from(target.len()) != Ok(view.size) => {
                return fail("size of the link", &target.len(), &view.size);
            }
            Body::Node { rdev, .. } if view.rdev != *rdev => return fail("rdev", rdev, &view.rdev),
            _ => {}
        }
        if self.times == Times::Compared {
            for (what, stamp, time) in [
                ("mtime", inode.mtime, view.mtime),
                ("ctime", inode.ctime, view.ctime),
                ("atime", inode.atime, view.atime),
            ] {
                if !stamp.admits(time) {
                    return fail(what, &stamp, &time);
                }
            }
        }
        self.identity(model, id, view)
    }

    fn identity(&mut self, model: &Model, id: Id, view: &View) -> Result<(), String> {
        self.number(model, id, (view.ino, Some(view.generation)))?;
        let changes = model.inode(id).changes;
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        if known.birth.is_some() && known.birth != view.btime {
            return Err(format!("btime moved from {:?} to {:?}", known.birth, view.btime));
        }
        known.birth = view.btime;
        if let (Some((changes_before, before)), Some(now)) = (known.changes, view.change)
            && (now < before || (now == before && changes > changes_before))
        {
            return Err(format!(
                "the change counter went from {before} to {now} over a change"
            ));
        }
        known.changes = view.change.map(|now| (changes, now));
        Ok(())
    }

    /// One inode has one number, and no number belongs to two inodes.
    fn number(&mut self, model: &Model, id: Id, found: (u64, Option<u64>)) -> Result<(), String> {
        let (ino, generation) = found;
        let known = self.known.entry(id).or_insert(Known {
            ino,
            generation,
            birth: None,
            changes: None,
        });
        known.generation = known.generation.or(generation);
        if known.ino != ino || (generation.is_some() && known.generation != generation) {
            return Err(format!(
                "inode number {ino} generation {generation:?} instead of {} {:?}",
                known.ino, known.generation
            ));
        }
        let Some(generation) = generation else {
            return Ok(());
        };
        let owner = self.owners.insert((ino, generation), id).unwrap_or(id);
        let is_reused = generation == 0 && model.inodes().all(|(alive, _)| alive != owner);
        if owner != id && !is_reused {
            return Err(format!(
                "inode number {ino} generation {generation} belongs to two inodes"
            ));
        }
        Ok(())
    }

    fn directory(&mut self, model: &Model, id: Id, entries: &[Entry]) -> Result<(), String> {
        let Body::Directory {
            entries: expected,
            parent,
        } = &model.inode(id).body
        else {
            return Err("not a directory in the model".to_owned());
        };
        if model.inode(id).nlink == 0 && entries.is_empty() {
            return Ok(());
        }
        let mut left: BTreeMap<&[u8], Id> =
            expected.iter().map(|(name, id)| (name.as_slice(), *id)).collect();
        left.insert(b".", id);
        left.insert(b"..", *parent);
        for entry in entries {
            let Some(child) = left.remove(entry.name.0.as_slice()) else {
                return Err(format!(
                    "{:?} is listed twice, or should not be there",
                    entry.name
                ));
            };
            if entry.name.0 == b".."
                && (id == ROOT && self.scope != Scope::Whole || model.inode(id).nlink == 0)
            {
                continue;
            }
            if entry.kind != model.inode(child).body.kind() {
                return Err(format!("{:?} is listed as {:?}", entry.name, entry.kind));
            }
            self.number(model, child, (entry.ino, None))?;
        }
        match left.first_key_value() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{} is not listed", name.escape_ascii())),
        }
    }
}

fn is_dead(model: &Model, slot: usize) -> bool {
    model
        .handle(slot)
        .is_some_and(|handle| model.inode(handle.id).nlink == 0)
}

fn seek(
    model: &Model,
    id: Id,
    found: &Outcome,
    is_right: impl Fn(&crate::model::Content, Result<u64, Errno>) -> bool,
) -> Result<(), String> {
    let Body::File(content) = &model.inode(id).body else {
        return Err("no file in the model".to_owned());
    };
    let offset = match found {
        Ok(Reply::Count(offset)) => Ok(*offset),
        Err(errno) => Err(*errno),
        Ok(other) => return Err(format!("{other:?} is no offset")),
    };
    if is_right(content, offset) {
        Ok(())
    } else {
        Err(format!(
            "wrong answer {offset:?} for a file of {} bytes with data blocks {:?}",
            content.size(),
            content.block_numbers().take(20).collect::<Vec<_>>()
        ))
    }
}

fn stream(model: &mut Model, slot: usize, entries: &[Entry]) -> Result<(), String> {
    let is_dead = is_dead(model, slot);
    let Some(handle) = model.handle_mut(slot) else {
        return Err("the slot is empty".to_owned());
    };
    if is_dead {
        return Ok(());
    }
    let Some(stream) = &mut handle.stream else {
        return Err("no listing in the model".to_owned());
    };
    for entry in entries {
        stream.take(&entry.name.0)?;
    }
    if entries.is_empty() {
        stream.end()?;
        handle.stream = None;
    }
    Ok(())
}

fn names(expected: &BTreeSet<Vec<u8>>, found: &[Text]) -> Result<(), String> {
    let set: BTreeSet<Vec<u8>> = found.iter().map(|name| name.0.clone()).collect();
    if set.len() == found.len() && set == *expected {
        Ok(())
    } else {
        let expected: Vec<Text> = expected.iter().cloned().map(Text).collect();
        Err(format!("names {found:?} instead of {expected:?}"))
    }
}

fn bytes(expected: &[u8], found: &[u8]) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let at = expected
        .iter()
        .zip(found)
        .position(|(expected, found)| expected != found);
    Err(match at {
        Some(at) => format!(
            "byte {at} of {} is {:#04x} instead of {:#04x}",
            expected.len(),
            found[at],
            expected[at]
        ),
        None => format!("{} bytes instead of {}", found.len(), expected.len()),
    })
}

fn different(expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug) -> String {
    let cut = |text: String| text.chars().take(600).collect::<String>();
    format!(
        "{} instead of {}",
        cut(format!("{found:?}")),
        cut(format!("{expected:?}"))
    )
}
