//! The file system as POSIX and the Linux manual pages describe it, in memory.
//!
//! [`Model::apply`] does one operation and says what must come back. Where the standard leaves several errors open, a
//! [`Fault`] holds all of them, the one that Linux gives first. Nothing here is optimised: maps and whole copies.

mod attributes;
mod content;
mod file;
mod inode;
mod name;
mod path;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use udax::OpenFlags;

use crate::operation::{Operation, Remap, SLOTS};
use crate::pool::Target;

pub use content::{Content, Holes};
pub use inode::{Body, Inode, Moment, Stamp};
pub use stream::Stream;

/// The model's number of an inode; never used twice.
pub type Id = u64;
/// The root directory.
pub const ROOT: Id = 1;

/// The errors one of which must come back; none in the list: any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault(pub Vec<Errno>);

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self(vec![errno])
    }
}

impl<const N: usize> From<[Errno; N]> for Fault {
    fn from(errnos: [Errno; N]) -> Self {
        Self(errnos.to_vec())
    }
}

/// When several things are wrong at once, POSIX leaves open which is told.
impl FromIterator<Fault> for Fault {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().flat_map(|fault| fault.0).collect())
    }
}

/// What must come back.
#[derive(Clone, PartialEq, Debug)]
pub enum Expected {
    /// Success.
    Done,
    /// This number.
    Count(u64),
    /// These bytes.
    Bytes(Vec<u8>),
    /// The attributes of this inode.
    Inode(Id),
    /// All entries of this directory.
    Directory(Id),
    /// The next entries of the listing of this slot.
    Stream(usize),
    /// The first data at or after the offset.
    SeekData(Id, u64),
    /// The first hole at or after the offset.
    SeekHole(Id, u64),
    /// These names, in any order.
    Names(BTreeSet<Vec<u8>>),
}

/// What [`Model::apply`] gives.
pub type Prediction = Result<Expected, Fault>;

/// An open file.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The inode.
    pub id: Id,
    /// How it was opened.
    pub flags: OpenFlags,
    /// A listing that goes on.
    pub stream: Option<Stream>,
}

/// The whole file system with its open files.
#[derive(Clone, Debug)]
pub struct Model {
    inodes: BTreeMap<Id, Inode>,
    next: Id,
    handles: Vec<Option<Handle>>,
    now: Moment,
}

impl Model {
    /// A root directory with these attributes, made at `now`.
    pub fn new(permissions: u32, owner: udax::Owner, now: Moment) -> Self {
        let mut root = Inode::new(Body::directory(ROOT), permissions, owner, now);
        root.nlink = 2;
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            handles: vec![None; SLOTS],
            now,
        }
    }

    /// Does `operation`, which happened at `now`, and says what must have come back.
    ///
    /// # Errors
    /// The errors that must have come back; then nothing is changed.
    pub fn apply(&mut self, operation: &Operation, now: Moment) -> Prediction {
        self.now = now;
        match operation {
            Operation::Open {
                slot,
                path,
                flags,
                new,
            } => self.open(*slot, &path.0, *flags, *new),
            Operation::Close { slot } => {
                self.close(*slot);
                Ok(Expected::Done)
            }
            Operation::File { slot, what } => self.file_operation(*slot, what),
            Operation::CopyRange {
                from,
                offset,
                to,
                to_offset,
                len,
            } => self.copy_range((*from, *offset), (*to, *to_offset), *len),
            Operation::Remap {
                how,
                from,
                offset,
                to,
                to_offset,
                len,
            } => {
                let (source, target) = ((*from, *offset), (*to, *to_offset));
                match how {
                    Remap::Exchange => self.exchange(source, target, *len),
                    how => self.share(source, target, *len, *how == Remap::Dedupe),
                }
            }
            Operation::Name(what) => self.name_operation(what),
            Operation::Node { path, what } => self.node_operation(&path.0, what),
            Operation::Sync => Ok(Expected::Done),
            Operation::Remount => {
                self.close_all();
                Ok(Expected::Done)
            }
            Operation::Crash => {
                self.close_all();
                for inode in self.inodes.values_mut() {
                    inode.forget_lazy_times();
                }
                Ok(Expected::Done)
            }
        }
    }

    /// The inode `id`.
    ///
    /// # Panics
    /// When there is none: ids come from the model itself.
    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[&id]
    }

    fn inode_mut(&mut self, id: Id) -> &mut Inode {
        self.inodes.get_mut(&id).expect("ids come from the model itself")
    }

    /// All inodes.
    pub fn inodes(&self) -> impl Iterator<Item = (Id, &Inode)> {
        self.inodes.iter().map(|(id, inode)| (*id, inode))
    }

    /// What is open in `slot`.
    pub fn handle(&self, slot: usize) -> Option<&Handle> {
        self.handles.get(slot)?.as_ref()
    }

    /// What is open in `slot`, to advance its listing.
    pub fn handle_mut(&mut self, slot: usize) -> Option<&mut Handle> {
        self.handles.get_mut(slot)?.as_mut()
    }

    /// `id` was read outside the sequence: its access time is not known any more.
    pub fn forget_access(&mut self, id: Id) {
        self.inode_mut(id).atime = Stamp::Unknown;
    }

    /// Sets all files to the bytes that `target` has, after an overwrite of one of them was cut off.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn adopt_bytes(&mut self, target: &mut dyn Target) -> Result<(), String> {
        for (id, path) in self.paths() {
            let Body::File(content) = &mut self.inode_mut(id).body else {
                continue;
            };
            crate::verify::adopt(target, &path, content)?;
        }
        Ok(())
    }

    /// The bytes of the file `id`; none for what is no file or is not there.
    pub fn file(&self, id: Id) -> Option<&Content> {
        match &self.inodes.get(&id)?.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    /// Sets the bytes of the file `id` to what was found.
    pub fn adopt_content(&mut self, id: Id, found: Content) {
        if let Some(Body::File(content)) = self.inodes.get_mut(&id).map(|inode| &mut inode.body) {
            *content = found;
        }
    }

    /// Lets the file in `slot` have been stamped as modified though the operation failed, as ext4 does.
    pub fn forgive_stamp(&mut self, slot: usize) {
        let now = self.now;
        if let Some(id) = self.handle(slot).map(|handle| handle.id) {
            self.inode_mut(id).perhaps_modify(now);
        }
    }

    fn open_handle(&self, slot: usize) -> Result<&Handle, Fault> {
        self.handle(slot).ok_or_else(|| Fault::from(Errno::EBADF))
    }

    /// Closes all files, as the end of the process does.
    pub fn close_all(&mut self) {
        for slot in 0..SLOTS {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(handle) = self.handles.get_mut(slot).and_then(Option::take) {
            self.inode_mut(handle.id).open_count -= 1;
            self.forget_if_unused(handle.id);
        }
    }

    fn forget_if_unused(&mut self, id: Id) {
        let inode = self.inode(id);
        if inode.nlink == 0 && inode.open_count == 0 {
            self.inodes.remove(&id);
        }
    }

    fn insert_inode(&mut self, inode: Inode) -> Id {
        let id = self.next;
        self.next += 1;
        self.inodes.insert(id, inode);
        id
    }

    /// A path of `id` from the root; `None` when it has no name.
    pub fn path_of(&self, id: Id) -> Option<Vec<u8>> {
        self.paths()
            .into_iter()
            .find(|(found, _)| *found == id)
            .map(|(_, path)| path)
    }

    /// Every name in the tree: the inode and its path, parents before children; the root first.
    pub fn paths(&self) -> Vec<(Id, Vec<u8>)> {
        let mut paths = vec![(ROOT, b"/".to_vec())];
        let mut next = 0;
        while let Some((id, path)) = paths.get(next).cloned() {
            next += 1;
            if let Body::Directory { entries, .. } = &self.inode(id).body {
                for (name, child) in entries {
                    let mut child_path = path.clone();
                    if child_path != b"/" {
                        child_path.push(b'/');
                    }
                    child_path.extend(name);
                    paths.push((*child, child_path));
                }
            }
        }
        paths
    }
}
