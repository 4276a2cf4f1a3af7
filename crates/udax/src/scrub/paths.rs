//! The paths of inodes that something is wrong with. Only where something was found: all directories are looked
//! through.

use std::collections::BTreeSet;

use udax_media::InodeNo;
use udax_media::inode::{FileKind, ROOT};

use super::Scrub;
use crate::error::Result;

/// Entries of a directory that are looked at with its lock shared.
const ENTRIES: usize = 1024;
/// The longest path that is told.
const MAX_PATH_BYTES: usize = 4096;

impl Scrub<'_> {
    /// Adds the paths to the findings. What cannot be read has none.
    pub(super) fn name_findings(&mut self) {
        let mut wanted: BTreeSet<InodeNo> =
            self.findings.iter().filter_map(|finding| finding.inode).collect();
        if wanted.remove(&ROOT) {
            self.name(ROOT, b"/");
        }
        let mut seen = BTreeSet::from([ROOT]);
        let mut directories = vec![(ROOT, Vec::new())];
        while let Some((directory, path)) = directories.pop() {
            if wanted.is_empty() {
                return;
            }
            // What is wrong with the directory itself has been told.
            let _unreadable = self.name_in(directory, &path, &mut wanted, |ino, path| {
                if seen.insert(ino) {
                    directories.push((ino, path));
                }
            });
        }
    }

    fn name_in(
        &mut self,
        directory: InodeNo,
        path: &[u8],
        wanted: &mut BTreeSet<InodeNo>,
        mut descend: impl FnMut(InodeNo, Vec<u8>),
    ) -> Result<()> {
        let inode = self.pool.inodes.get(self.pool, directory)?;
        let mut cookie = 0;
        loop {
            // Nobody has listed it, for its access time.
            let entries = {
                let _state = inode.read()?;
                self.pool.collect_entries(&inode, cookie, ENTRIES)?
            };
            let Some(last) = entries.last() else { return Ok(()) };
            cookie = last.cookie;
            for entry in entries {
                if matches!(entry.name.as_slice(), b"." | b"..") {
                    continue;
                }
                let path = [path, b"/", &entry.name].concat();
                if wanted.remove(&entry.ino) {
                    self.name(entry.ino, &path);
                }
                if entry.kind == FileKind::Directory && path.len() <= MAX_PATH_BYTES {
                    descend(entry.ino, path);
                }
            }
        }
    }

    fn name(&mut self, ino: InodeNo, path: &[u8]) {
        for finding in self
            .findings
            .iter_mut()
            .filter(|finding| finding.inode == Some(ino))
        {
            finding.path = Some(path.to_vec());
        }
    }
}
