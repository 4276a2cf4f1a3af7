//! What a scan found, and what would mend it.
//!
//! A [`Finding`] is for people; the [`Plan`] is for the repair. They are made together, in [`Findings`].

use std::collections::{BTreeMap, BTreeSet};

use udax_media::{BlockNo, BlockRange, InodeNo, Place};

use crate::Problem;

/// Changes of one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Make the slot a free one.
    pub(crate) clear: bool,
    /// Build the extent or directory tree anew from what is readable.
    pub(crate) rebuild: bool,
    /// Build the attribute tree anew from what is readable.
    pub(crate) rebuild_xattrs: bool,
    /// Keys to leave out of the extent or directory tree.
    pub(crate) drop: BTreeSet<u64>,
    /// Keys to leave out of the attribute tree.
    pub(crate) drop_xattrs: BTreeSet<u64>,
    /// Inodes that the directory shall not name any more.
    pub(crate) drop_targets: BTreeSet<u64>,
    /// Keys of names that must get another key.
    pub(crate) rekey: BTreeSet<u64>,
    /// Keys of names whose kind must become their inode's.
    pub(crate) retype: BTreeSet<u64>,
    /// Pool blocks that the file shall not own any more.
    pub(crate) cut: Vec<BlockRange>,
    /// The link count of what is no directory.
    pub(crate) nlink: Option<u32>,
    /// A directory's parent.
    pub(crate) parent: Option<InodeNo>,
    /// Take the DAX flag away.
    pub(crate) no_dax: bool,
}

/// One change of one inode.
#[derive(Clone, Debug)]
pub(crate) enum Mend {
    /// See [`Edit::clear`].
    Clear,
    /// See [`Edit::rebuild`].
    Rebuild,
    /// See [`Edit::rebuild_xattrs`].
    RebuildXattrs,
    /// See [`Edit::drop`].
    Drop(u64),
    /// See [`Edit::drop_xattrs`].
    DropXattr(u64),
    /// See [`Edit::drop_targets`].
    DropTarget(InodeNo),
    /// See [`Edit::rekey`].
    Rekey(u64),
    /// See [`Edit::retype`].
    Retype(u64),
    /// See [`Edit::cut`].
    Cut(BlockRange),
    /// See [`Edit::nlink`].
    Nlink(u32),
    /// See [`Edit::parent`].
    Parent(InodeNo),
    /// See [`Edit::no_dax`].
    NoDax,
    /// Size, blocks and (directories) link count anew; every edit does that.
    Recount,
}

/// Everything that a repair has to do after one scan.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Changes of inodes, by number.
    pub(crate) edits: BTreeMap<u64, Edit>,
    /// The roots block, or the inode table, must be made anew; nothing else can be known before.
    pub(crate) rebuild_table: bool,
    /// Chunks that names lead to and the inode table does not have.
    pub(crate) missing_chunks: BTreeSet<u64>,
    /// Chunks that names lead to, to an inode that is not in use.
    pub(crate) dangling_chunks: BTreeSet<u64>,
    /// Chunks to put into the inode table, which lie in the pool; the rest can be known only then.
    pub(crate) restore_chunks: BTreeMap<u64, BlockNo>,
    /// Chunks to leave out of the inode table.
    pub(crate) drop_chunks: BTreeSet<u64>,
    /// The root directory must be made.
    pub(crate) make_root: bool,
    /// What the orphans' tree must hold, when it does not.
    pub(crate) orphans: Option<BTreeSet<u64>>,
    /// What the shares' tree must hold, when it does not: start to (length, count).
    pub(crate) shared: Option<BTreeMap<u64, (u64, u64)>>,
    /// What the tree of bad blocks must hold, when it does not: start to length.
    pub(crate) bad_blocks: Option<BTreeMap<u64, u64>>,
    /// Sum blocks to make anew.
    pub(crate) sums: BTreeSet<u64>,
    /// Inodes to name in `/lost+found`.
    pub(crate) reconnect: BTreeSet<u64>,
    /// Bitmaps or counters must be written anew.
    pub(crate) space: bool,
}

impl Plan {
    /// Whether something other than bitmaps and counters must change.
    pub(crate) fn has_changes(&self) -> bool {
        !self.edits.is_empty()
            || self.rebuild_table
            || !self.restore_chunks.is_empty()
            || !self.drop_chunks.is_empty()
            || self.make_root
            || self.orphans.is_some()
            || self.shared.is_some()
            || self.bad_blocks.is_some()
            || !self.sums.is_empty()
            || !self.reconnect.is_empty()
    }
}

/// One violation.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Where.
    pub(crate) place: Place,
    /// What is wrong.
    pub(crate) what: String,
    /// What is lost.
    pub(crate) lost: Option<String>,
    /// What a repair does about it; empty when it does nothing.
    pub(crate) remedy: &'static str,
    /// The inode that the repair changes; `None` when it changes what belongs to the pool.
    pub(crate) subject: Option<InodeNo>,
    /// The path of the inode that it is about, as far as it is known.
    pub(crate) path: Option<Vec<u8>>,
    /// Whether it is about bitmaps and counters, which follow from the rest.
    pub(crate) is_space: bool,
}

impl Finding {
    /// A finding without loss about what belongs to the pool.
    pub(crate) fn of_pool(place: Place, what: String, remedy: &'static str) -> Self {
        Self {
            place,
            what,
            lost: None,
            remedy,
            subject: None,
            path: None,
            is_space: false,
        }
    }

    /// The inode that it is about.
    pub(crate) fn inode(&self) -> Option<InodeNo> {
        match self.place {
            Place::Inode(ino) => Some(ino),
            Place::Block(_) | Place::Byte(_) => self.subject,
        }
    }

    /// The finding, for people; `is_mended` when its remedy has been applied.
    pub(crate) fn into_problem(self, is_mended: impl FnOnce(&Self) -> bool) -> Problem {
        let repair = is_mended(&self).then(|| self.remedy.to_owned());
        Problem {
            inode: self.inode(),
            path: self.path,
            place: self.place,
            what: self.what,
            has_remedy: !self.remedy.is_empty(),
            repair,
            lost: self.lost,
        }
    }
}

/// Findings and the plan that follows from them.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// For people.
    pub(crate) list: Vec<Finding>,
    /// For the repair.
    pub(crate) plan: Plan,
}

impl Findings {
    /// Adds a finding that belongs to no inode.
    pub(crate) fn add(&mut self, finding: Finding) {
        self.list.push(finding);
    }

    /// Adds a finding at `place` about inode `ino` and the change that mends it.
    pub(crate) fn add_edit(&mut self, ino: InodeNo, place: Place, fault: Fault) {
        let Fault { what, lost, mend } = fault;
        self.list.push(Finding {
            place,
            what,
            lost,
            remedy: mend.words(),
            subject: Some(ino),
            path: None,
            is_space: false,
        });
        mend.add_to(self.plan.edits.entry(ino.raw()).or_default());
    }

    /// Takes over what another worker found.
    pub(crate) fn merge(&mut self, other: Self) {
        self.list.extend(other.list);
        for (ino, edit) in other.plan.edits {
            self.plan.edits.entry(ino).or_default().merge(edit);
        }
        self.plan.rebuild_table |= other.plan.rebuild_table;
        self.plan.missing_chunks.extend(other.plan.missing_chunks);
        self.plan.dangling_chunks.extend(other.plan.dangling_chunks);
        self.plan.restore_chunks.extend(other.plan.restore_chunks);
        self.plan.drop_chunks.extend(other.plan.drop_chunks);
        self.plan.make_root |= other.plan.make_root;
        self.plan.reconnect.extend(other.plan.reconnect);
        self.plan.space |= other.plan.space;
        self.plan.sums.extend(other.plan.sums);
        if other.plan.orphans.is_some() {
            self.plan.orphans = other.plan.orphans;
        }
        if other.plan.shared.is_some() {
            self.plan.shared = other.plan.shared;
        }
        if other.plan.bad_blocks.is_some() {
            self.plan.bad_blocks = other.plan.bad_blocks;
        }
    }
}

/// What is wrong with an inode or what belongs to it.
#[derive(Debug)]
pub(crate) struct Fault {
    /// In words.
    pub(crate) what: String,
    /// What is lost by it.
    pub(crate) lost: Option<String>,
    /// What mends it.
    pub(crate) mend: Mend,
}

impl Fault {
    /// A fault by which nothing is lost.
    pub(crate) fn new(what: String, mend: Mend) -> Self {
        Self {
            what,
            lost: None,
            mend,
        }
    }

    /// A fault by which something is lost.
    pub(crate) fn with_loss(what: String, lost: String, mend: Mend) -> Self {
        Self {
            what,
            lost: Some(lost),
            mend,
        }
    }
}

impl Mend {
    fn words(&self) -> &'static str {
        match self {
            Self::Clear => "inode cleared",
            Self::Rebuild | Self::RebuildXattrs => "tree built anew from its readable entries",
            Self::Drop(_) | Self::DropTarget(_) => "entry removed",
            Self::DropXattr(_) => "attribute removed",
            Self::Rekey(_) => "entry moved to its key",
            Self::Retype(_) => "entry's kind set to its inode's",
            Self::Cut(_) => "blocks taken from this owner",
            Self::Nlink(_) => "link count set",
            Self::Parent(_) => "parent set",
            Self::NoDax => "flag taken away",
            Self::Recount => "counted anew",
        }
    }

    fn add_to(self, edit: &mut Edit) {
        match self {
            Self::Clear => edit.clear = true,
            Self::Rebuild => edit.rebuild = true,
            Self::RebuildXattrs => edit.rebuild_xattrs = true,
            Self::Drop(key) => {
                edit.drop.insert(key);
            }
            Self::DropXattr(key) => {
                edit.drop_xattrs.insert(key);
            }
            Self::DropTarget(ino) => {
                edit.drop_targets.insert(ino.raw());
            }
            Self::Rekey(key) => {
                edit.rekey.insert(key);
            }
            Self::Retype(key) => {
                edit.retype.insert(key);
            }
            Self::Cut(range) => edit.cut.push(range),
            Self::Nlink(count) => edit.nlink = Some(count),
            Self::Parent(ino) => edit.parent = Some(ino),
            Self::NoDax => edit.no_dax = true,
            Self::Recount => {}
        }
    }
}

impl Edit {
    fn merge(&mut self, other: Self) {
        self.clear |= other.clear;
        self.rebuild |= other.rebuild;
        self.rebuild_xattrs |= other.rebuild_xattrs;
        self.drop.extend(other.drop);
        self.drop_xattrs.extend(other.drop_xattrs);
        self.drop_targets.extend(other.drop_targets);
        self.rekey.extend(other.rekey);
        self.retype.extend(other.retype);
        self.cut.extend(other.cut);
        self.nlink = other.nlink.or(self.nlink);
        self.parent = other.parent.or(self.parent);
        self.no_dax |= other.no_dax;
    }
}
