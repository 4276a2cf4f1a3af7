//! What a check says.

use udax_media::{InodeNo, Place};

/// A violation of the format or of an agreement between structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The inode that it is about; `None` when it is about what belongs to the pool.
    pub inode: Option<InodeNo>,
    /// A path of that inode, where names lead to it; of a longer one `...` and the last 4096 bytes.
    pub path: Option<Vec<u8>>,
    /// What is wrong, in words.
    pub what: String,
    /// Whether a repair does something about it. Of file data without the right checksum only writing it anew does.
    pub has_remedy: bool,
    /// What was done about it; `None` when nothing was.
    pub repair: Option<String>,
    /// What is lost by it; `None` when nothing is.
    pub lost: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All problems, in the order of the pool: what is at a byte or block, then inodes by number.
    pub problems: Vec<Problem>,
    /// What a crash may have left and the next mount for writing completes: no problem. Damage can look the same.
    pub notes: Vec<Problem>,
    /// Whether the pool had been closed cleanly.
    pub was_clean: bool,
    /// Journal records replayed (in memory only when not repairing).
    pub replayed: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Files without a name, or cut short, whose blocks the next mount for writing frees: no problem.
    pub orphans: u64,
    /// Bad blocks that are listed and that nobody uses.
    pub bad_blocks: u64,
    /// Blocks in use.
    pub used_blocks: u64,
    /// Blocks of the pool.
    pub total_blocks: u64,
}

impl Report {
    /// The exit code of a check that failed with a [`CheckError`] (fsck(8): operational error).
    pub const OPERATIONAL_ERROR: u8 = 8;

    /// The exit code as fsck(8) has it: 0 for no problem, 1 when all were repaired, 4 when some were not.
    pub fn exit_code(&self) -> u8 {
        if self.problems.is_empty() {
            0
        } else if self.problems.iter().all(|problem| problem.repair.is_some()) {
            1
        } else {
            4
        }
    }

    pub(crate) fn sort(&mut self) {
        self.problems.sort_by_key(|problem| match problem.place {
            Place::Block(block) => (0, block.offset().raw()),
            Place::Byte(offset) => (0, offset.raw()),
            Place::Inode(ino) => (1, ino.raw()),
        });
    }
}

/// Why the check could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The medium failed.
    #[error(transparent)]
    Region(#[from] udax_pmem::RegionError),
    /// The journal could not be replayed.
    #[error(transparent)]
    Journal(#[from] udax_journal::JournalError),
    /// Neither superblock can be believed, or the pool has more bytes than there are.
    #[error("{0}")]
    NoSuperblock(udax_media::FormatError),
    /// The pool has features that this version must not write.
    #[error("the pool has unknown ro_compat feature bits {bits:#x}: a newer version of udax must repair it")]
    NotWritable {
        /// The unknown bits.
        bits: u64,
    },
}
