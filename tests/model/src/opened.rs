//! A file that is opened to be looked at, in a slot that no generated operation uses.

use nix::errno::Errno;
use udax::{NewInode, OpenFlags, Owner};

use crate::operation::{FileOperation, NodeOperation, Operation, Outcome, Reply, SLOTS, Text};
use crate::pool::Target;

const BLOCK: u64 = 4096;

/// See the [module](self). Dropping it closes it.
pub struct Opened<'t> {
    target: &'t mut dyn Target,
    size: u64,
}

impl<'t> Opened<'t> {
    /// Opens `path` to read.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn new(target: &'t mut dyn Target, path: &Text) -> Result<Self, String> {
        let stat = target.apply(&Operation::Node {
            path: path.clone(),
            what: NodeOperation::StatLink,
        });
        let size = match stat {
            Ok(Reply::Stat(view)) => view.size,
            other => return Err(format!("{other:?}")),
        };
        let open = Operation::Open {
            slot: SLOTS,
            path: path.clone(),
            flags: OpenFlags::READ,
            new: NewInode {
                permissions: 0,
                owner: Owner::default(),
            },
        };
        target.apply(&open).map_err(|errno| format!("open: {errno}"))?;
        Ok(Self { target, size })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its data from `offset` on: first byte and end of the next range, none when there is no more.
    ///
    /// # Errors
    /// A seek fails, or finds an end that is none.
    pub fn next_data(&mut self, offset: u64) -> Result<Option<(u64, u64)>, String> {
        let Some(start) = offset_of(self.apply(FileOperation::SeekData { offset }))? else {
            return Ok(None);
        };
        let end = offset_of(self.apply(FileOperation::SeekHole { offset: start }))?;
        let end = end.filter(|end| *end > start);
        let end = end.ok_or_else(|| format!("no hole after the data at {start}"))?;
        Ok(Some((start, end)))
    }

    /// Up to `len` bytes at `offset`: fewer at the end.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, String> {
        match self.apply(FileOperation::Read { offset, len }) {
            Ok(Reply::Bytes(bytes)) => Ok(bytes),
            other => Err(format!("read of {len} bytes at {offset}: {other:?}")),
        }
    }

    /// A block, or what there is of it before the end.
    ///
    /// # Errors
    /// It cannot be read, or not all of it.
    pub fn block(&mut self, number: u64) -> Result<Vec<u8>, String> {
        let offset = number * BLOCK;
        let len = usize::try_from(BLOCK.min(self.size.saturating_sub(offset))).unwrap_or(0);
        let bytes = self.read(offset, len)?;
        if bytes.len() != len {
            return Err(format!("{} bytes of {len} in block {number}", bytes.len()));
        }
        Ok(bytes)
    }

    fn apply(&mut self, what: FileOperation) -> Outcome {
        self.target.apply(&Operation::File { slot: SLOTS, what })
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        // It was opened, so that it can be closed.
        let _ = self.target.apply(&Operation::Close { slot: SLOTS });
    }
}

fn offset_of(found: Outcome) -> Result<Option<u64>, String> {
    match found {
        Ok(Reply::Count(offset)) => Ok(Some(offset)),
        Err(Errno::ENXIO) => Ok(None),
        other => Err(format!("seek gives {other:?}")),
    }
}
