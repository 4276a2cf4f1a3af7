//! Waiting for what has refused a pin, a lease or a write, without locks.
//!
//! A filesystem asks for those with its inode's lock held, so that it can say where pages are, and therefore without
//! waiting. When it is refused it releases its lock, waits here, and asks again.

use crate::{Access, DaxError, Mapping, Mode, PageRange};

impl Mapping {
    /// Waits for what has refused a pin of the range with `WouldBlock`, once it was past the gate: a break under way,
    /// locked entries, and for write access read leases. It may be refused again.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: by `mode`.
    ///
    /// # Locks
    /// None may be held that whoever is waited for could want.
    pub fn wait_to_pin(&self, pages: PageRange, access: Access, mode: &Mode) -> Result<(), DaxError> {
        if access == Access::Write {
            self.leases.pass(self, pages, mode)?;
        }
        drop(self.share(pages.first(), mode)?);
        drop(self.next_unlocked(self.index.write(), pages));
        Ok(())
    }

    /// Waits for what has refused a ticket for a write to the range: read leases.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: by `mode`.
    ///
    /// # Locks
    /// As [`Mapping::wait_to_pin`].
    pub fn wait_to_write(&self, pages: PageRange, mode: &Mode) -> Result<(), DaxError> {
        self.leases.pass(self, pages, mode)
    }
}
