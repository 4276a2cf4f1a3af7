//! The paths of inodes that something is wrong with: for people, who do not know files by number.
//!
//! Runs after all other phases, and only when they found something. A directory knows where its name is; the names of
//! everything else are looked for in all directories at once.
//!
//! Lock: rank Leaf, around the names found.

use std::collections::{BTreeMap, BTreeSet};

use udax_media::dentry::Dentry;
use udax_media::inode::{self, FileKind, Inode};
use udax_media::{BlockRange, InodeNo, Place};
use udax_sync::atomic::Ordering;
use udax_sync::{Mutex, Rank};

use super::Scanner;
use crate::content::{ClaimKind, View, walk_inode};
use crate::finding::{Fault, Findings};

/// The most inodes that get a path: more damage than that is not read line by line.
const MAX_NAMED: usize = 1000;
/// The most bytes of a path.
const MAX_PATH_BYTES: usize = 4096;

/// The directory that names an inode, and the name.
type Names = BTreeMap<InodeNo, (InodeNo, Vec<u8>)>;

impl Scanner<'_> {
    /// Adds the paths of the inodes that `findings` are about.
    pub(super) fn name_findings(&self, findings: &mut Findings) {
        let numbers = findings.list.iter().filter_map(|finding| finding.inode());
        let subjects: BTreeSet<InodeNo> = numbers.take(MAX_NAMED).collect();
        if subjects.is_empty() {
            return;
        }
        let names = self.find_names(&subjects);
        for finding in &mut findings.list {
            finding.path = finding.inode().and_then(|ino| path_of(ino, &names));
        }
    }

    /// The names of `subjects` and of the directories above them.
    fn find_names(&self, subjects: &BTreeSet<InodeNo>) -> Names {
        let is_directory = |ino: &InodeNo| self.table.kind_of(*ino) == Some(FileKind::Directory);
        let (mut wanted, others): (BTreeSet<_>, BTreeSet<_>) =
            subjects.iter().partition(|ino| is_directory(ino));
        let mut names = if others.is_empty() {
            Names::new()
        } else {
            self.find_everywhere(&others)
        };
        wanted.extend(names.values().map(|(directory, _)| *directory));
        let mut seen = BTreeSet::new();
        while !wanted.is_empty() {
            let mut by_parent: BTreeMap<InodeNo, BTreeSet<InodeNo>> = BTreeMap::new();
            for ino in std::mem::take(&mut wanted) {
                let parent = self
                    .table
                    .info(ino)
                    .map(|info| info.named_in.load(Ordering::Relaxed));
                if ino != inode::ROOT
                    && seen.insert(ino)
                    && let Some(parent) = parent.filter(|parent| *parent != 0)
                {
                    by_parent.entry(InodeNo(parent)).or_default().insert(ino);
                }
            }
            for (parent, children) in by_parent {
                if let Some(inode) = self.used_inode(parent) {
                    names.append(&mut self.names_in(&inode, &children));
                    wanted.insert(parent);
                }
            }
        }
        names
    }

    /// Looks through all directories; of several names the one in the directory with the lowest number counts.
    fn find_everywhere(&self, targets: &BTreeSet<InodeNo>) -> Names {
        let names = Mutex::new(Rank::Leaf, Names::new());
        self.in_parallel("names", self.table.chunks.len(), &|index, _| {
            let used = self.used_inodes(index).into_iter();
            for inode in used.filter(|inode| inode.kind == FileKind::Directory) {
                let found = self.names_in(&inode, targets);
                if found.is_empty() {
                    continue;
                }
                let mut names = names.lock();
                for (ino, name) in found {
                    let known = names.entry(ino).or_insert_with(|| name.clone());
                    if name < *known {
                        *known = name;
                    }
                }
            }
        });
        names.into_inner()
    }

    fn names_in(&self, directory: &Inode, targets: &BTreeSet<InodeNo>) -> Names {
        let mut sought = Sought {
            directory: directory.ino,
            targets,
            names: Names::new(),
        };
        walk_inode(&self.pool, directory, &mut sought);
        sought.names
    }

    fn used_inode(&self, ino: InodeNo) -> Option<Inode> {
        let (chunk, _) = inode::chunk_and_slot(ino);
        let chunks = &self.table.chunks;
        let index = chunks.binary_search_by_key(&chunk, |(number, _)| *number).ok()?;
        let mut used = self.used_inodes(index).into_iter();
        used.find(|inode| inode.ino == ino)
    }
}

/// Sees one directory.
struct Sought<'s> {
    directory: InodeNo,
    targets: &'s BTreeSet<InodeNo>,
    names: Names,
}

impl View for Sought<'_> {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn dentry(&mut self, _: u64, dentry: &Dentry<'_>) {
        if self.targets.contains(&dentry.ino) {
            let name = || (self.directory, dentry.name.to_vec());
            self.names.entry(dentry.ino).or_insert_with(name);
        }
    }
    /// Told by the phase that looks at directories.
    fn fault(&mut self, _: Place, _: Fault) {}
}

/// The path from the root; `None` when names do not lead there.
fn path_of(ino: InodeNo, names: &Names) -> Option<Vec<u8>> {
    if ino == inode::ROOT {
        return Some(b"/".to_vec());
    }
    let mut path = Vec::new();
    let mut ino = ino;
    while ino != inode::ROOT {
        let (directory, name) = names.get(&ino)?;
        path.splice(0..0, [b"/", name.as_slice()].concat());
        // Also ends where directories name each other in a circle.
        if path.len() > MAX_PATH_BYTES {
            path.drain(..path.len() - MAX_PATH_BYTES);
            path.splice(0..0, *b"...");
            break;
        }
        ino = *directory;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[(u64, u64, &str)]) -> Names {
        of.iter()
            .map(|(ino, directory, name)| (InodeNo(*ino), (InodeNo(*directory), name.as_bytes().to_vec())))
            .collect()
    }

    #[test]
    fn a_path_leads_from_the_root_or_is_none() {
        let names = names(&[(5, 4, "file"), (4, 1, "directory"), (7, 6, "lost")]);
        assert_eq!(path_of(InodeNo(5), &names), Some(b"/directory/file".to_vec()));
        assert_eq!(path_of(inode::ROOT, &names), Some(b"/".to_vec()));
        assert_eq!(path_of(InodeNo(7), &names), None);
    }

    #[test]
    fn a_circle_of_directories_ends() {
        let path = path_of(InodeNo(5), &names(&[(5, 6, "a"), (6, 5, "b")])).unwrap();
        assert!(path.len() == MAX_PATH_BYTES + 3 && path.starts_with(b"..."));
    }
}
