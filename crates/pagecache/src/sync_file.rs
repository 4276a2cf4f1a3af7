//! Making a file's dirty pages durable, and telling who must know what failed: after the kernel's
//! `file_write_and_wait_range` (reference 2.21).

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use crate::page::pages_touched;
use crate::{Backing, CacheError, Control, ErrorCursor, Integrity, Mapping};

impl Mapping {
    /// Writes what is dirty in the range, and waits for all writes of it, also those that others have begun.
    ///
    /// # Errors
    /// Of this pass. Those of others are told by [`Mapping::check_errors`].
    ///
    /// # Durability
    /// On return, all that was dirty before is on the medium, as far as the backing says that of a completed run; the
    /// filesystem makes its metadata durable afterwards.
    pub fn write_and_wait(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        bytes: Range<u64>,
    ) -> Result<(), CacheError> {
        if self.pages() == 0 {
            return Ok(());
        }
        let pages = pages_touched(&bytes);
        let control = Control::range(Integrity::Full, &bytes);
        self.until_decided(|| {
            let result = self.write_back(backing, control.clone());
            // EIO means that there may be nothing left that would come to an end.
            let is_hopeless = matches!(&result, Err(error) if error.errno() == Errno::EIO);
            if !is_hopeless {
                self.wait_written(pages.clone());
            }
            result.map(drop)
        })
    }

    /// What an open file has not been told of failed writes: once.
    ///
    /// # Errors
    /// `WriteBack`.
    pub fn check_errors(&self, cursor: &mut ErrorCursor) -> Result<(), CacheError> {
        // Who has an open file hears it by that; as the kernel's `file_check_and_advance_wb_err`.
        let _ = self.take_error();
        match self.errors.sequence.check_and_advance(cursor) {
            None => Ok(()),
            Some(errno) => Err(CacheError::WriteBack { errno }),
        }
    }
}
