//! Listings that go on while the directory changes (readdir(3): what is added or removed meanwhile may or may not
//! be seen; all else is seen exactly once).

use std::collections::BTreeSet;

use super::{Body, Id, Model};

/// What a listing must still give, and what it may give.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Names that were there all the time and were not given yet.
    owed: BTreeSet<Vec<u8>>,
    /// Names that were added or removed meanwhile.
    free: BTreeSet<Vec<u8>>,
}

impl Stream {
    pub(super) fn changed(&mut self, name: &[u8]) {
        self.owed.remove(name);
        self.free.insert(name.to_vec());
    }

    /// Takes a name that was given.
    ///
    /// # Errors
    /// When it was given before, or was never there.
    pub fn take(&mut self, name: &[u8]) -> Result<(), String> {
        if self.owed.remove(name) || self.free.contains(name) {
            return Ok(());
        }
        Err(format!(
            "{} is given twice, or never was there",
            name.escape_ascii()
        ))
    }

    /// Takes the end of the listing.
    ///
    /// # Errors
    /// When a name is missing.
    pub fn end(&self) -> Result<(), String> {
        match self.owed.first() {
            None => Ok(()),
            Some(name) => Err(format!(
                "the listing ends without {} names, first {}",
                self.owed.len(),
                name.escape_ascii()
            )),
        }
    }
}

impl Model {
    pub(super) fn start_stream(&mut self, slot: usize, directory: Id) {
        let mut owed = BTreeSet::from([b".".to_vec(), b"..".to_vec()]);
        if let Body::Directory { entries, .. } = &self.inode(directory).body {
            owed.extend(entries.keys().cloned());
        }
        if let Some(handle) = self.handle_mut(slot)
            && handle.stream.is_none()
        {
            handle.stream = Some(Stream {
                owed,
                free: BTreeSet::new(),
            });
        }
    }

    pub(super) fn notify_streams(&mut self, directory: Id, name: &[u8]) {
        for handle in self.handles.iter_mut().flatten() {
            if handle.id == directory
                && let Some(stream) = &mut handle.stream
            {
                stream.changed(name);
            }
        }
    }
}
