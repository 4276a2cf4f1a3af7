//! Everything that the public interface tells of a pool's files, and how it differs from what it should.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use udax::{Checksums, Dax, FileKind, Filesystem, NewInode, OpenFlags, Owner, Stat, Timestamp};
use udax_media::BLOCK_SIZE;

/// The most names that are followed, so that a circle of directories ends.
const MAX_NAMES: usize = 5000;
/// The deepest directory that is entered.
const MAX_DEPTH: usize = 20;
/// The most bytes of a file that are read.
const MAX_BYTES: usize = 4 << 20;

/// What was told: something, or an error.
pub type Told<T> = Result<T, String>;

/// What is compared of an inode besides its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Tells inodes with one number apart.
    pub generation: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub permissions: u32,
    /// Owner.
    pub owner: (u32, u32),
    /// Names.
    pub nlink: u32,
    /// Bytes; 0 for a directory, whose size follows from its names.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// What is written to it gets checksums.
    pub checksums: Checksums,
    /// The DAX flag.
    pub dax: Dax,
    /// Device.
    pub rdev: u64,
}

/// An inode and its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Attributes.
    pub attributes: Attributes,
    /// Bytes of a file, or a link's target.
    pub content: Told<Vec<u8>>,
    /// Extended attributes, or why their names are not known.
    pub xattrs: Told<BTreeMap<Vec<u8>, Told<Vec<u8>>>>,
}

/// A pool's files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// Every inode that has a name.
    pub nodes: BTreeMap<u64, Node>,
    /// Directory and name to inode number.
    pub names: BTreeMap<(u64, Vec<u8>), u64>,
    /// Directories that were listed to their end.
    pub listed: BTreeSet<u64>,
    /// Inodes that a name leads to and that could not be looked at, and why.
    pub errors: BTreeMap<u64, String>,
}

const ANY: NewInode = NewInode {
    permissions: 0,
    owner: Owner { uid: 0, gid: 0 },
};

impl Tree {
    /// Looks at everything.
    pub fn read(fs: &Filesystem) -> Self {
        let mut tree = Self::default();
        match fs.stat_link("/") {
            Ok(stat) => tree.visit(fs, b"", &stat, 0),
            Err(error) => {
                tree.errors.insert(1, error.to_string());
            }
        }
        tree
    }

    /// No error anywhere.
    pub fn is_whole(&self) -> bool {
        let is_whole = |node: &Node| {
            let values = node
                .xattrs
                .as_ref()
                .map(|xattrs| xattrs.values().all(Result::is_ok));
            node.content.is_ok() && values == Ok(true)
        };
        self.errors.is_empty() && self.nodes.values().all(is_whole)
    }

    /// Without what has one of these names, what is below it, and the times of directories: who uses the pool changes
    /// those.
    pub fn without(mut self, names: &[&[u8]]) -> Self {
        let is_one = |name: &Vec<u8>| names.contains(&name.as_slice());
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        let named = |names: &BTreeMap<(u64, Vec<u8>), u64>, gone: &BTreeSet<u64>| -> BTreeSet<u64> {
            let found = names
                .iter()
                .filter(|((of, name), _)| gone.contains(of) || is_one(name));
            found.map(|(_, ino)| *ino).collect()
        };
        for _ in 0..MAX_DEPTH {
            gone.extend(named(&self.names, &gone));
        }
        self.names
            .retain(|(of, _), ino| !gone.contains(of) && !gone.contains(ino));
        self.nodes.retain(|ino, _| !gone.contains(ino));
        self.errors.retain(|ino, _| !gone.contains(ino));
        for node in self.nodes.values_mut() {
            let of = &mut node.attributes;
            if of.kind == FileKind::Directory {
                (of.nlink, of.mtime, of.ctime) = (0, Timestamp::default(), Timestamp::default());
            }
        }
        self
    }

    fn visit(&mut self, fs: &Filesystem, path: &[u8], stat: &Stat, depth: usize) {
        let ino = stat.ino.raw();
        if self.nodes.contains_key(&ino) {
            return;
        }
        let shown = as_path(if path.is_empty() { b"/" } else { path });
        let content = match stat.kind {
            FileKind::Regular => read_file(fs, shown, stat.size),
            FileKind::Symlink => fs.read_link(shown).map_err(|error| error.to_string()),
            _ => Ok(Vec::new()),
        };
        let node = Node {
            attributes: attributes(stat),
            content,
            xattrs: read_xattrs(fs, shown),
        };
        self.nodes.insert(ino, node);
        if stat.kind == FileKind::Directory && depth < MAX_DEPTH {
            match self.list(fs, path, ino, depth) {
                Ok(()) => {
                    self.listed.insert(ino);
                }
                Err(error) => {
                    self.errors.insert(ino, error.to_string());
                }
            }
        }
    }

    fn list(&mut self, fs: &Filesystem, path: &[u8], ino: u64, depth: usize) -> udax::Result<()> {
        let mut cookie = 0;
        loop {
            let listed = if path.is_empty() { b"/" } else { path };
            let batch = fs.read_dir(as_path(listed), cookie, 100)?;
            let Some(last) = batch.last() else { return Ok(()) };
            assert!(last.cookie > cookie, "positions in directory {ino} do not go up");
            cookie = last.cookie;
            for entry in batch {
                if entry.name == b"." || entry.name == b".." || self.names.len() > MAX_NAMES {
                    continue;
                }
                let below = [path, b"/", &entry.name].concat();
                self.names.insert((ino, entry.name), entry.ino.raw());
                match fs.stat_link(as_path(&below)) {
                    Ok(stat) => self.visit(fs, &below, &stat, depth + 1),
                    Err(error) => {
                        self.errors.insert(entry.ino.raw(), error.to_string());
                    }
                }
            }
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn attributes(stat: &Stat) -> Attributes {
    let is_directory = stat.kind == FileKind::Directory;
    Attributes {
        generation: stat.generation,
        kind: stat.kind,
        permissions: stat.permissions,
        owner: (stat.uid, stat.gid),
        size: if is_directory { 0 } else { stat.size },
        nlink: stat.nlink,
        mtime: stat.mtime,
        ctime: stat.ctime,
        btime: stat.btime,
        checksums: stat.checksums,
        dax: stat.dax,
        rdev: stat.rdev,
    }
}

fn read_file(fs: &Filesystem, path: &Path, size: u64) -> Told<Vec<u8>> {
    let flags = OpenFlags::READ | OpenFlags::NO_FOLLOW;
    let file = fs
        .open_file(path, flags, ANY)
        .map_err(|error| error.to_string())?;
    let len = usize::try_from(size).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let at = u64::try_from(done).unwrap_or(u64::MAX);
        let rest = bytes.get_mut(done..).unwrap_or_default();
        match file.read_at(rest, at).map_err(|error| error.to_string())? {
            0 => return Err(format!("{done} bytes of {len} can be read")),
            count => done += count,
        }
    }
    Ok(bytes)
}

fn read_xattrs(fs: &Filesystem, path: &Path) -> Told<BTreeMap<Vec<u8>, Told<Vec<u8>>>> {
    let names = fs.list_xattrs(path).map_err(|error| error.to_string())?;
    let value = |name: Vec<u8>| {
        let value = fs.xattr(path, &name).map_err(|error| error.to_string());
        (name, value)
    };
    Ok(names.into_iter().map(value).collect())
}

/// Which of several names may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Names {
    /// Any.
    All,
    /// Any one.
    One,
    /// These.
    These(BTreeSet<Vec<u8>>),
}

impl Names {
    /// Whether `name` may be lost.
    pub fn allow(&self, name: &[u8]) -> bool {
        match self {
            Self::All | Self::One => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// What a damage may cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// Inodes of which everything may be lost.
    pub inodes: BTreeSet<u64>,
    /// Directories that may lose names, and get others back that they had before.
    pub names: BTreeMap<u64, Vec<Names>>,
    /// Files that may lose blocks: ranges of file blocks, which then read as zeros.
    pub data: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Inodes that may lose attributes.
    pub xattrs: BTreeMap<u64, Vec<Names>>,
    /// Whether what an inode has may be older instead of lost: an older version of its blocks was put back.
    pub may_be_older: bool,
    /// Whether any file may lose blocks to one that was damaged.
    pub may_contest: bool,
    /// Whether reads of right data may be refused: its checksums are others.
    pub may_be_refused: bool,
}

impl Allowance {
    /// Takes over what `other` allows.
    pub fn merge(&mut self, other: Self) {
        self.inodes.extend(other.inodes);
        for (ino, names) in other.names {
            self.names.entry(ino).or_default().extend(names);
        }
        for (ino, ranges) in other.data {
            self.data.entry(ino).or_default().extend(ranges);
        }
        for (ino, names) in other.xattrs {
            self.xattrs.entry(ino).or_default().extend(names);
        }
        self.may_be_older |= other.may_be_older;
        self.may_contest |= other.may_contest;
        self.may_be_refused |= other.may_be_refused;
    }

    /// Whether the name in the directory may be lost.
    pub fn name(&self, directory: u64, name: &[u8]) -> bool {
        self.inodes.contains(&directory)
            || self
                .names
                .get(&directory)
                .is_some_and(|all| all.iter().any(|names| names.allow(name)))
    }
}

/// Where a tree is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// In the damaged pool: errors are right answers.
    Damaged,
    /// In a pool that is sound, or mended: there are no errors.
    Sound,
}

/// How `found` differs from `expected` beyond what is allowed; `Ok(true)` when nothing differs at all.
///
/// # Errors
/// The first difference that is too much.
pub fn compare(expected: &Tree, found: &Tree, allowed: &Allowance, state: State) -> Result<bool, String> {
    if state == State::Sound && !allowed.may_be_refused && !found.is_whole() {
        return Err(format!("errors in a sound pool: {}", errors_of(found)));
    }
    let mut is_same = true;
    for (ino, node) in &expected.nodes {
        if found.nodes.get(ino) == Some(node) {
            continue;
        }
        is_same = false;
        if allowed.inodes.contains(ino) {
            continue;
        }
        match found.nodes.get(ino) {
            Some(other) => compare_nodes(*ino, node, other, allowed, state)?,
            // A name that leads nowhere is judged below.
            None if state == State::Damaged => {}
            None => return Err(format!("inode {ino} is gone")),
        }
    }
    is_same &= compare_names(expected, found, allowed)?;
    Ok(is_same && found.errors.is_empty())
}

fn errors_of(tree: &Tree) -> String {
    let of_nodes = tree.nodes.iter().filter_map(|(ino, node)| {
        let xattrs = node
            .xattrs
            .as_ref()
            .map(|all| all.values().find_map(|value| value.as_ref().err()));
        let error = node.content.as_ref().err().or(match &xattrs {
            Ok(error) => *error,
            Err(error) => Some(*error),
        })?;
        Some(format!("inode {ino}: {error}"))
    });
    let others = tree
        .errors
        .iter()
        .map(|(ino, error)| format!("inode {ino}: {error}"));
    of_nodes.chain(others).take(3).collect::<Vec<_>>().join("; ")
}

fn compare_names(expected: &Tree, found: &Tree, allowed: &Allowance) -> Result<bool, String> {
    let mut is_same = true;
    for ((directory, name), ino) in &expected.names {
        let other = found.names.get(&(*directory, name.clone()));
        if other == Some(ino) {
            continue;
        }
        is_same = false;
        let is_allowed = allowed.name(*directory, name) || allowed.inodes.contains(ino);
        // Where a listing ended with an error, or was never reached, nothing was told.
        let is_untold = other.is_none() && !found.listed.contains(directory);
        if !is_allowed && !is_untold {
            let name = name.escape_ascii();
            return Err(format!(
                "name {name} in {directory} leads to {other:?}, not to inode {ino}"
            ));
        }
    }
    for ((directory, name), ino) in &found.names {
        if expected.names.contains_key(&(*directory, name.clone())) {
            continue;
        }
        is_same = false;
        let is_rescue = !expected.nodes.contains_key(directory) || (*directory == 1 && name == b"lost+found");
        // A name that was changed in place is another name.
        let is_changed = allowed.may_be_older && allowed.names.contains_key(directory);
        if !is_rescue && !is_changed && !allowed.name(*directory, name) {
            let name = name.escape_ascii();
            return Err(format!(
                "name {name} in {directory}, which leads to inode {ino}, is new"
            ));
        }
    }
    Ok(is_same)
}

fn compare_nodes(
    ino: u64,
    expected: &Node,
    found: &Node,
    allowed: &Allowance,
    state: State,
) -> Result<(), String> {
    let (mut one, mut other) = (expected.attributes, found.attributes);
    if state == State::Sound {
        // It follows from the names that are left; whether the report names it, `naming` judges.
        (one.nlink, other.nlink) = (0, 0);
    }
    if one != other {
        return Err(format!("inode {ino} is {other:?}, not {one:?}"));
    }
    match (&expected.content, &found.content) {
        (Ok(one), Ok(other)) => compare_content(ino, one, other, allowed)?,
        (_, Err(error)) if state == State::Sound && !allowed.may_be_refused => {
            return Err(format!("inode {ino}: {error}"));
        }
        _ => {}
    }
    match (&expected.xattrs, &found.xattrs) {
        (Ok(one), Ok(other)) => compare_xattrs(ino, one, other, allowed),
        _ => Ok(()),
    }
}

fn compare_content(ino: u64, one: &[u8], other: &[u8], allowed: &Allowance) -> Result<(), String> {
    let ranges = allowed.data.get(&ino).map(Vec::as_slice).unwrap_or_default();
    for (block, (one, other)) in (0_u64..).zip(one.chunks(BLOCK_SIZE).zip(other.chunks(BLOCK_SIZE))) {
        if one == other {
            continue;
        }
        let is_allowed = ranges.iter().any(|(first, end)| (*first..*end).contains(&block));
        let is_zero = other.iter().all(|byte| *byte == 0);
        let is_lost_to_another = allowed.may_contest && is_zero;
        if !is_lost_to_another && !(is_allowed && (is_zero || allowed.may_be_older)) {
            return Err(format!("block {block} of inode {ino} has other bytes"));
        }
    }
    Ok(())
}

type Values = BTreeMap<Vec<u8>, Told<Vec<u8>>>;

fn compare_xattrs(ino: u64, one: &Values, other: &Values, allowed: &Allowance) -> Result<(), String> {
    let lists = allowed.xattrs.get(&ino).map(Vec::as_slice).unwrap_or_default();
    let is_allowed = |name: &[u8]| lists.iter().any(|names| names.allow(name));
    let mut lost = 0;
    for (name, value) in one {
        match other.get(name) {
            Some(Ok(found)) if value.as_ref() == Ok(found) => {}
            Some(Err(_)) => {}
            Some(Ok(_)) if allowed.may_be_older && is_allowed(name) => {}
            Some(Ok(_)) => {
                return Err(format!(
                    "attribute {} of inode {ino} is wrong",
                    name.escape_ascii()
                ));
            }
            None if is_allowed(name) => lost += 1,
            None => {
                return Err(format!(
                    "attribute {} of inode {ino} is gone",
                    name.escape_ascii()
                ));
            }
        }
    }
    if lost > 1 && lists.iter().all(|names| *names == Names::One) {
        return Err(format!("{lost} attributes of inode {ino} are gone"));
    }
    match other
        .keys()
        .find(|name| !one.contains_key(*name) && !allowed.may_be_older)
    {
        Some(name) => Err(format!("attribute {} of inode {ino} is new", name.escape_ascii())),
        None => Ok(()),
    }
}
