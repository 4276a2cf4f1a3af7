//! An inode's lock held alone, which can be lent to readers while nothing of its state changes.
//!
//! Writing to a data device takes as long as the device does. Who reads, asks for attributes or lists extents meanwhile
//! does not wait for it: see [`Hold::while_lent`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use udax_sync::WriteGuard;

use super::{Inode, InodeState};
use crate::error::Result;

/// An inode's state, whose lock is held alone.
pub(crate) trait Hold: fmt::Debug {
    fn state(&self) -> &InodeState;

    fn state_mut(&mut self) -> &mut InodeState;

    /// Does `work`, which writes to so many blocks that are not the file's yet, while others may read, if the lock can
    /// be lent: what is in the state stays as it is. No lock may be held that a reader could want. Should it panic, the
    /// lock is held alone again before anybody else sees that.
    fn while_lent(&mut self, blocks: u64, work: &mut dyn FnMut());
}

/// Held by somebody who keeps it to himself.
impl Hold for InodeState {
    fn state(&self) -> &InodeState {
        self
    }

    fn state_mut(&mut self) -> &mut InodeState {
        self
    }

    fn while_lent(&mut self, _: u64, work: &mut dyn FnMut()) {
        work();
    }
}

/// Held for write-back.
#[derive(Debug)]
pub(crate) struct Lendable<'l>(Option<WriteGuard<'l, InodeState>>);

/// While it is lent only its holder could ask, and has no reference then.
const IS_HELD: &str = "the lock is held but for the time that it is lent";

impl Inode {
    /// As [`Inode::write`], for who only writes back.
    ///
    /// # Errors
    /// As [`Inode::write`].
    pub(crate) fn write_lendable(&self) -> Result<Lendable<'_>> {
        Ok(Lendable(Some(self.write()?)))
    }
}

impl Hold for Lendable<'_> {
    fn state(&self) -> &InodeState {
        self.0.as_ref().expect(IS_HELD)
    }

    fn state_mut(&mut self) -> &mut InodeState {
        self.0.as_mut().expect(IS_HELD)
    }

    fn while_lent(&mut self, blocks: u64, work: &mut dyn FnMut()) {
        let mut guard = self.0.take().expect(IS_HELD);
        guard.lent = Some(blocks);
        let (mut guard, result) = guard.lend(|_| catch_unwind(AssertUnwindSafe(work)));
        guard.lent = None;
        self.0 = Some(guard);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }
}
