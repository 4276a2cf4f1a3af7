//! Inodes of the model, and times of which only bounds are known.

use std::collections::BTreeMap;

use udax::{FileKind, Owner, SetTime, Timestamp};

use super::{Content, Id};

/// When an operation happened: between two readings of the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Before it began.
    pub earliest: Timestamp,
    /// After it ended.
    pub latest: Timestamp,
}

/// What is known of a time stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// It lies between these, both included.
    Between(Moment),
    /// Nothing: it is not compared.
    Unknown,
}

impl Stamp {
    /// Exactly `time`.
    pub fn exactly(time: Timestamp) -> Self {
        Self::Between(Moment {
            earliest: time,
            latest: time,
        })
    }

    /// Whether `time` can be it.
    pub fn admits(self, time: Timestamp) -> bool {
        match self {
            Self::Between(moment) => (moment.earliest..=moment.latest).contains(&time),
            Self::Unknown => true,
        }
    }

    fn widen(self, now: Moment) -> Self {
        match self {
            Self::Between(moment) => Self::Between(Moment {
                earliest: moment.earliest.min(now.earliest),
                latest: moment.latest.max(now.latest),
            }),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// What an inode holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A regular file's content.
    File(Content),
    /// A directory's entries and its parent.
    Directory {
        /// Name to inode.
        entries: BTreeMap<Vec<u8>, Id>,
        /// The directory that holds it; itself for the root.
        parent: Id,
    },
    /// A link target.
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Node {
        /// Which.
        kind: FileKind,
        /// Device number.
        rdev: u64,
    },
}

impl Body {
    /// An empty directory in `parent`.
    pub fn directory(parent: Id) -> Self {
        Self::Directory {
            entries: BTreeMap::new(),
            parent,
        }
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        match self {
            Self::File(_) => FileKind::Regular,
            Self::Directory { .. } => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Node { kind, .. } => *kind,
        }
    }
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What it holds.
    pub body: Body,
    /// Permission bits.
    pub permissions: u32,
    /// Whether set-id bits may have been cleared: a write or a change of owner may do that.
    pub are_set_id_bits_uncertain: bool,
    /// Owner.
    pub owner: Owner,
    /// Names; a directory: 2 and one for each subdirectory.
    pub nlink: u32,
    /// Open files.
    pub open_count: u32,
    /// Whether it was made without a name and never had one: then it may be given one.
    pub is_linkable: bool,
    /// Extended attributes by their full names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Last read, known only where it was set and not read since.
    pub atime: Stamp,
    /// Last change of the content.
    pub mtime: Stamp,
    /// Last change.
    pub ctime: Stamp,
    /// How many operations certainly changed it.
    pub changes: u64,
    // A crash may undo times that an overwrite in place set.
    are_times_lazy: bool,
}

impl Inode {
    /// A new inode with one name.
    pub fn new(body: Body, permissions: u32, owner: Owner, now: Moment) -> Self {
        Self {
            body,
            permissions,
            are_set_id_bits_uncertain: false,
            owner,
            nlink: 1,
            open_count: 0,
            is_linkable: false,
            xattrs: BTreeMap::new(),
            atime: Stamp::Unknown,
            mtime: Stamp::Between(now),
            ctime: Stamp::Between(now),
            changes: 0,
            are_times_lazy: false,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    /// The content changed.
    pub(super) fn modify(&mut self, now: Moment) {
        self.mtime = Stamp::Between(now);
        self.ctime = Stamp::Between(now);
        self.changes += 1;
    }

    /// The content changed in place: the times may not be durable yet.
    pub(super) fn overwrite(&mut self, now: Moment) {
        self.mtime = Stamp::Between(now);
        self.ctime = Stamp::Between(now);
        self.are_times_lazy = true;
    }

    /// The attributes or names changed.
    pub(super) fn change(&mut self, now: Moment) {
        self.ctime = Stamp::Between(now);
        self.changes += 1;
    }

    /// Something was done that may count as a change of the content.
    pub(super) fn perhaps_modify(&mut self, now: Moment) {
        self.mtime = self.mtime.widen(now);
        self.perhaps_change(now);
    }

    /// Something was done that may count as a change of attributes.
    pub(super) fn perhaps_change(&mut self, now: Moment) {
        self.ctime = self.ctime.widen(now);
    }

    pub(super) fn set_times(&mut self, atime: Option<SetTime>, mtime: Option<SetTime>, now: Moment) {
        let stamp = |time| match time {
            SetTime::Now => Stamp::Between(now),
            SetTime::To(time) => Stamp::exactly(time),
        };
        if let Some(time) = atime {
            self.atime = stamp(time);
        }
        if let Some(time) = mtime {
            self.mtime = stamp(time);
        }
    }

    pub(super) fn forget_lazy_times(&mut self) {
        if std::mem::take(&mut self.are_times_lazy) {
            self.mtime = Stamp::Unknown;
            self.ctime = Stamp::Unknown;
        }
    }
}
