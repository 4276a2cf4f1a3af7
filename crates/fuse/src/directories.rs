//! Listing directories: `READDIR`, `READDIRPLUS`.

use fuser::{FileHandle, INodeNo};
use udax::DirEntry;

use crate::names::Entry;
use crate::refusal::Result;
use crate::server::Server;

/// Entries asked of the library at a time: about as many as a page of a reply holds.
const BATCH: usize = 64;

/// Whether a reply takes more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Left,
    Full,
}

impl Server {
    /// Gives the entries after `offset` to `add` until it has no room or there are no more.
    pub(crate) fn list(
        &self,
        handle: FileHandle,
        offset: u64,
        mut add: impl FnMut(&DirEntry) -> Result<Room>,
    ) -> Result<()> {
        let directory = self.file(handle)?;
        let mut cookie = offset;
        loop {
            let entries = match directory.read_dir(cookie, BATCH) {
                // What was given before counts; whoever goes on from there is told.
                Err(_) if cookie != offset => return Ok(()),
                other => other?,
            };
            let Some(last) = entries.last() else {
                return Ok(());
            };
            cookie = last.cookie;
            for entry in &entries {
                if add(entry)? == Room::Full {
                    return Ok(());
                }
            }
        }
    }

    /// As [`Server::list`], with what each entry is, or nothing for one that cannot be looked up: it has a name all the
    /// same. `add` is told nothing of `.` and `..` but their attributes, and of the others it is told with a lookup
    /// counted, which is taken back when there is no room.
    pub(crate) fn list_with_attributes(
        &self,
        (ino, handle): (INodeNo, FileHandle),
        offset: u64,
        mut add: impl FnMut(&DirEntry, Option<Entry>) -> Room,
    ) -> Result<()> {
        let directory = self.node(ino)?;
        self.list(handle, offset, |entry| {
            let is_dot = entry.name == b"." || entry.name == b"..";
            let told = if is_dot {
                self.filesystem
                    .node(entry.ino)
                    .map_err(Into::into)
                    .and_then(|node| self.look_at(&node))
            } else {
                // By name: the number may mean another inode by now.
                directory
                    .lookup(&entry.name)
                    .map_err(Into::into)
                    .and_then(|node| self.tell(node))
            };
            let told = match told {
                Ok(told) => Some(told),
                Err(refusal) if is_gone(&refusal) => return Ok(Room::Left),
                // Whoever looks it up is told why that fails.
                Err(_) => None,
            };
            let room = add(entry, told);
            if let Some(told) = told
                && room == Room::Full
                && !is_dot
            {
                self.nodes.forget(told.attributes.ino.0, 1);
            }
            Ok(room)
        })
    }

    fn look_at(&self, node: &udax::Node) -> Result<Entry> {
        Ok(Entry {
            attributes: self.attributes_of(&node.stat()?),
            generation: node.generation(),
        })
    }
}

fn is_gone(refusal: &crate::refusal::Refusal) -> bool {
    [fuser::Errno::ENOENT.code(), fuser::Errno::ESTALE.code()].contains(&refusal.0.code())
}
