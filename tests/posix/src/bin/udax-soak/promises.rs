//! A writer that remembers what it was promised: after each operation that has returned, what the files of its
//! directory contain. When the daemon was killed, one operation may have been under way; all others must be there.
//!
//! What one under way may have left: a name, a rename or an attribute is there or not; written or punched bytes are
//! each old or new; bytes that were appended are there from the first on, with the size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, XattrFlags};
use rustix::io::Errno;

/// Files of a writer: few enough that each is met often, and that all can be read after each kill.
const FILES: u32 = 40;
/// The largest file.
const FILE_BYTES: usize = 256 << 10;
/// The largest single write.
const WRITE_BYTES: usize = 48 << 10;
const ATTRIBUTE: &str = "user.soak";

/// When an operation counts as promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promise {
    /// When it returns: files reached by memory access.
    AtReturn,
    /// When the file was synced as well: files in a page cache.
    AtSync,
}

/// What is known of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    bytes: Vec<u8>,
    attribute: Option<Vec<u8>>,
}

/// Names and what they lead to, before and after an operation.
#[derive(Clone, Debug)]
struct Change {
    what: String,
    names: Vec<String>,
    before: Vec<Option<State>>,
    after: Vec<Option<State>>,
}

/// How much was done and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Operations that have returned.
    pub(crate) promised: u64,
    /// Operations that were refused for want of space.
    pub(crate) refused: u64,
    /// Operations under way at a kill that were there afterwards, and that were not.
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
    /// Bytes of files that were read back and compared.
    pub(crate) compared: u64,
}

/// Why a writer stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The operation failed; whether it may depends on who killed whom.
    Failed(String, io::Error),
}

/// A writer, its directory and its promises.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    promise: Promise,
    choices: SmallRng,
    files: BTreeMap<String, State>,
    under_way: Option<Change>,
    pub(crate) counts: Counts,
}

impl Writer {
    /// A writer in the new directory `directory`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(directory: PathBuf, promise: Promise, seed: u64) -> anyhow::Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("{}", directory.display()))?;
        Ok(Self {
            directory,
            promise,
            choices: SmallRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            under_way: None,
            counts: Counts::default(),
        })
    }

    /// Does one operation.
    pub(crate) fn step(&mut self) -> Result<(), Stopped> {
        let change = self.choose();
        let result = self.carry_out(&change);
        match result {
            Ok(()) => {
                self.counts.promised += 1;
                self.adopt(&change.names, change.after);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => {
                self.counts.refused += 1;
                let what = change.what.clone();
                self.under_way = Some(change);
                // A part of it may have been written.
                self.settle()
                    .map_err(|error| Stopped::Failed(what, io::Error::other(format!("{error:#}"))))
            }
            Err(error) => {
                let what = change.what.clone();
                self.under_way = Some(change);
                Err(Stopped::Failed(what, error))
            }
        }
    }

    /// Compares all that was promised with what is there.
    ///
    /// # Errors
    /// The first thing that is lost or wrong.
    pub(crate) fn verify(&mut self) -> anyhow::Result<()> {
        self.settle()?;
        let mut found: Vec<String> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            found.push(
                name.into_string()
                    .map_err(|name| anyhow::anyhow!("a name {name:?}"))?,
            );
        }
        found.sort();
        let promised: Vec<String> = self.files.keys().cloned().collect();
        ensure!(
            found == promised,
            "names in {}:\npromised {promised:?}\nfound    {found:?}",
            self.directory.display()
        );
        for (name, promised) in &self.files {
            let found = read(&self.directory.join(name))?.with_context(|| format!("{name} is gone"))?;
            self.counts.compared += u64::try_from(found.bytes.len())?;
            ensure!(
                found.attribute == promised.attribute,
                "{name}: attribute {:?}, promised {:?}",
                found.attribute,
                promised.attribute
            );
            if let Some(at) = first_difference(&found.bytes, &promised.bytes) {
                bail!(
                    "{}/{name}: differs at byte {at}; {} bytes, promised {}",
                    self.directory.display(),
                    found.bytes.len(),
                    promised.bytes.len()
                );
            }
        }
        Ok(())
    }

    /// Finds out what became of the operation that was under way.
    fn settle(&mut self) -> anyhow::Result<()> {
        let Some(change) = self.under_way.take() else {
            return Ok(());
        };
        let mut found = Vec::new();
        for name in &change.names {
            found.push(read(&self.directory.join(name))?);
        }
        if found == change.after {
            self.counts.kept += 1;
        } else if found == change.before {
            self.counts.dropped += 1;
        } else {
            ensure!(
                is_mixture(&found, &change),
                "{}: {} was under way, and left neither the old nor the new",
                self.directory.display(),
                change.what
            );
            self.counts.kept += 1;
        }
        self.adopt(&change.names, found);
        Ok(())
    }

    fn adopt(&mut self, names: &[String], states: Vec<Option<State>>) {
        for (name, state) in names.iter().zip(states) {
            match state {
                Some(state) => self.files.insert(name.clone(), state),
                None => self.files.remove(name),
            };
        }
    }

    /// The next operation, as what it changes.
    fn choose(&mut self) -> Change {
        let name = format!("f{}", self.choices.random_range(0..FILES));
        let Some(state) = self.files.get(&name).cloned() else {
            return Change::of_one("create", name, None, Some(State::default()));
        };
        let size = state.bytes.len();
        let mut after = state.clone();
        let what = match self.choices.random_range(0..100) {
            0..45 => {
                let room = FILE_BYTES - WRITE_BYTES;
                let at = self.choices.random_range(0..=size.min(room));
                let len = self.choices.random_range(1..=WRITE_BYTES);
                let mut bytes = vec![0; len];
                self.choices.fill(bytes.as_mut_slice());
                after.bytes.resize(size.max(at + len), 0);
                after.bytes.splice(at..at + len, bytes);
                format!("write {at} {len}")
            }
            45..55 => {
                let len = self.choices.random_range(0..=FILE_BYTES);
                after.bytes.resize(len, 0);
                format!("truncate {len}")
            }
            55..62 if size > 1 => {
                let at = self.choices.random_range(0..size - 1);
                let end = self.choices.random_range(at + 1..size);
                after.bytes.splice(at..end, std::iter::repeat_n(0, end - at));
                format!("punch {at} {}", end - at)
            }
            62..75 => {
                let mut value = vec![0; self.choices.random_range(1..2000)];
                self.choices.fill(value.as_mut_slice());
                after.attribute = Some(value);
                "attribute".to_owned()
            }
            75..90 => {
                let to = format!("f{}", self.choices.random_range(0..FILES));
                if to == name {
                    return Change::of_one("remove", name, Some(state), None);
                }
                let replaced = self.files.get(&to).cloned();
                return Change {
                    what: "rename".to_owned(),
                    names: vec![name, to],
                    before: vec![Some(state.clone()), replaced],
                    after: vec![None, Some(state)],
                };
            }
            _ => return Change::of_one("remove", name, Some(state), None),
        };
        Change::of_one(&what, name, Some(state), Some(after))
    }

    fn carry_out(&self, change: &Change) -> io::Result<()> {
        let path = |at: usize| {
            self.directory
                .join(change.names.get(at).map_or("", String::as_str))
        };
        let words: Vec<&str> = change.what.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0_u64);
        let file = || File::options().read(true).write(true).open(path(0));
        let after = change.after.first().cloned().flatten().unwrap_or_default();
        match words.first().copied().unwrap_or_default() {
            "create" => return File::create_new(path(0)).map(drop),
            "remove" => return fs::remove_file(path(0)),
            "rename" => return fs::rename(path(0), path(1)),
            "attribute" => {
                let value = after.attribute.unwrap_or_default();
                return Ok(rustix::fs::setxattr(
                    path(0),
                    ATTRIBUTE,
                    &value,
                    XattrFlags::empty(),
                )?);
            }
            _ => {}
        }
        let file = file()?;
        match words.first().copied().unwrap_or_default() {
            "truncate" => file.set_len(number(1))?,
            "punch" => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, flags, number(1), number(2))?;
            }
            _ => {
                let at = usize::try_from(number(1)).unwrap_or(0);
                let len = usize::try_from(number(2)).unwrap_or(0);
                let bytes = after.bytes.get(at..at + len).unwrap_or_default();
                file.write_all_at(bytes, number(1))?;
            }
        }
        match self.promise {
            Promise::AtReturn => Ok(()),
            Promise::AtSync => file.sync_all(),
        }
    }
}

impl Change {
    fn of_one(what: &str, name: String, before: Option<State>, after: Option<State>) -> Self {
        Self {
            what: what.to_owned(),
            names: vec![name],
            before: vec![before],
            after: vec![after],
        }
    }
}

/// Whether a change of content is there in part.
fn is_mixture(found: &[Option<State>], change: &Change) -> bool {
    let ([Some(found)], [Some(before)], [Some(after)]) =
        (found, change.before.as_slice(), change.after.as_slice())
    else {
        return false;
    };
    let sizes = before.bytes.len().min(after.bytes.len())..=before.bytes.len().max(after.bytes.len());
    let is_old_or_new =
        |(at, byte): (usize, &u8)| before.bytes.get(at) == Some(byte) || after.bytes.get(at) == Some(byte);
    found.attribute == after.attribute
        && sizes.contains(&found.bytes.len())
        && found.bytes.iter().enumerate().all(is_old_or_new)
}

fn read(path: &Path) -> anyhow::Result<Option<State>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{}: read", path.display())),
    };
    let mut value = vec![0; 4096];
    let attribute = match rustix::fs::getxattr(path, ATTRIBUTE, value.as_mut_slice()) {
        Ok(len) => {
            value.truncate(len);
            Some(value)
        }
        Err(Errno::NODATA) => None,
        Err(error) => return Err(error).with_context(|| format!("{}: attribute", path.display())),
    };
    Ok(Some(State { bytes, attribute }))
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let shorter = one.len().min(other.len());
    one.iter()
        .zip(other)
        .position(|(one, other)| one != other)
        .or((one.len() != other.len()).then_some(shorter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(bytes: &[u8]) -> Option<State> {
        Some(State {
            bytes: bytes.to_vec(),
            attribute: None,
        })
    }

    fn writer(directory: &Path) -> Writer {
        let mut writer = Writer::new(directory.join("w"), Promise::AtReturn, 1).expect("a directory");
        while writer.files.len() < 8 {
            writer.step().expect("an ordinary filesystem");
        }
        writer.verify().expect("all is there");
        writer
    }

    #[test]
    fn what_is_lost_or_changed_is_found() {
        let place = tempfile::tempdir().expect("a directory");
        let mut writer = writer(place.path());
        let (name, promised) = writer
            .files
            .iter()
            .find(|(_, state)| !state.bytes.is_empty())
            .map(|(name, state)| (name.clone(), state.bytes.clone()))
            .expect("a file with content");
        let path = writer.directory.join(name);
        let mut wrong = promised.clone();
        *wrong.last_mut().expect("not empty") ^= 1;
        fs::write(&path, &wrong).expect("written");
        assert!(writer.verify().is_err(), "a bit is wrong");
        fs::write(&path, &promised[1..]).expect("written");
        assert!(writer.verify().is_err(), "a byte is missing");
        fs::remove_file(&path).expect("removed");
        assert!(writer.verify().is_err(), "a file is missing");
        File::create_new(writer.directory.join("more")).expect("created");
        assert!(writer.verify().is_err(), "there is another name");
    }

    #[test]
    fn an_operation_under_way_may_leave_the_old_the_new_or_both_but_nothing_else() {
        let change = |before, after| Change::of_one("write", "f".to_owned(), before, after);
        let appended = change(state(b"ab"), state(b"abcd"));
        assert!(is_mixture(&[state(b"abc")], &appended));
        assert!(
            !is_mixture(&[state(b"ab\0\0")], &appended),
            "zeros were never written"
        );
        assert!(!is_mixture(&[state(b"abcde")], &appended));
        assert!(!is_mixture(&[None], &appended));
        let replaced = change(state(b"aaaa"), state(b"bbbb"));
        assert!(is_mixture(&[state(b"abab")], &replaced));
        assert!(!is_mixture(&[state(b"abxb")], &replaced));
    }
}
