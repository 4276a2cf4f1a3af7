//! An inode's lock held alone, which can be lent to readers while nothing of its state changes.
//!
//! Writing to a data device takes as long as the device does. Who reads, asks for attributes or lists extents meanwhile
//! does not wait for it: see [`Hold::while_lent`].

use std::fmt;

use udax_sync::WriteGuard;

use super::{Inode, InodeState};
use crate::error::Result;

/// An inode's state, whose lock is held alone.
pub(crate) trait Hold: fmt::Debug {
    fn state(&self) -> &InodeState;

    fn state_mut(&mut self) -> &mut InodeState;

    /// Does `work` while others may read, if the lock can be lent: what is in the state stays as it is. No lock may be
    /// held that a reader could want.
    fn while_lent(&mut self, work: &mut dyn FnMut());
}

/// Held by somebody who keeps it to himself.
impl Hold for InodeState {
    fn state(&self) -> &InodeState {
        self
    }

    fn state_mut(&mut self) -> &mut InodeState {
        self
    }

    fn while_lent(&mut self, work: &mut dyn FnMut()) {
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

    fn while_lent(&mut self, work: &mut dyn FnMut()) {
        let mut guard = self.0.take().expect(IS_HELD);
        guard.is_lent = true;
        let (mut guard, ()) = guard.lend(|_| work());
        guard.is_lent = false;
        self.0 = Some(guard);
    }
}
