//! Every directory: its tree, its names, what they name, its own counts.

use udax_media::dentry::Dentry;
use udax_media::inode::{self, FileKind, Inode};
use udax_media::{BlockRange, InodeNo, Place};
use udax_sync::atomic::Ordering;
use udax_sync::{Mutex, Rank};

use super::inodes::Accounting;
use super::{Info, Scanner, Table};
use crate::content::{ClaimKind, View, shown, walk_inode};
use crate::finding::{Fault, Findings, Mend};

/// A name of a directory that is not in the parent that the directory says it has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Stray {
    target: InodeNo,
    directory: InodeNo,
    key: u64,
}

impl Scanner<'_> {
    /// Walks all directories.
    pub(super) fn scan_directories(&self) -> Findings {
        let strays = Mutex::new(Rank::Leaf, Vec::new());
        let mut findings = self.in_parallel("directories", self.table.chunks.len(), &|index, findings| {
            let mut found = Vec::new();
            self.scan_directories_of(index, findings, &mut found);
            if !found.is_empty() {
                strays.lock().append(&mut found);
            }
        });
        let mut strays = strays.into_inner();
        strays.sort_unstable();
        for stray in strays {
            self.judge(stray, &mut findings);
        }
        findings
    }

    fn scan_directories_of(&self, index: usize, findings: &mut Findings, strays: &mut Vec<Stray>) {
        let has_directory = (0..inode::CHUNK_INODES)
            .filter_map(|slot| self.table.info_at(index, slot))
            .any(|info| info.kind() == Some(FileKind::Directory));
        if !has_directory {
            return;
        }
        for inode in self.used_inodes(index) {
            if inode.kind == FileKind::Directory {
                self.scan_directory(&inode, findings, strays);
            }
        }
    }

    fn scan_directory(&self, inode: &Inode, findings: &mut Findings, strays: &mut Vec<Stray>) {
        let mut names = Names {
            inode,
            table: &self.table,
            strays,
            entries: 0,
            subdirectories: 0,
            accounting: Accounting {
                ino: inode.ino,
                pool: self.pool,
                ownership: &self.ownership,
                findings,
                blocks: 0,
                has_lost_blocks: false,
            },
        };
        walk_inode(&self.pool, inode, &mut names);
        let (entries, subdirectories) = (names.entries, names.subdirectories);
        let mut accounting = names.accounting;
        // Lost entries make every count wrong; the edit that they caused counts anew anyway.
        if accounting.has_lost_blocks {
            return;
        }
        accounting.check_blocks(inode);
        if inode.size != entries {
            let what = format!("directory of {entries} names has size {}", inode.size);
            accounting.fault(Place::Inode(inode.ino), Fault::new(what, Mend::Recount));
        }
        let links = u32::try_from(subdirectories.saturating_add(2)).unwrap_or(u32::MAX);
        let is_removed = inode.nlink == 0 && self.orphans.contains(&inode.ino.raw());
        if inode.nlink != links && !(is_removed && entries == 0) {
            // The links phase shall see a removed directory that still has names as one to reconnect.
            if let Some(info) = self.table.info(inode.ino) {
                info.nlink.store(links, Ordering::Relaxed);
            }
            let what = format!("directory's link count {}, should be {links}", inode.nlink);
            accounting.fault(Place::Inode(inode.ino), Fault::new(what, Mend::Nlink(links)));
        }
    }

    /// A directory has one name. The first stray one is believed when its parent has none.
    fn judge(&self, stray: Stray, findings: &mut Findings) {
        let Some(info) = self.table.info(stray.target) else {
            return;
        };
        let named_in = info.named_in.load(Ordering::Relaxed);
        if named_in == 0 {
            info.named_in.store(stray.directory.raw(), Ordering::Relaxed);
            let parent = info.parent.load(Ordering::Relaxed);
            let what = format!("parent is {parent}, but the directory is in {}", stray.directory);
            let fault = Fault::new(what, Mend::Parent(stray.directory));
            findings.add_edit(stray.target, Place::Inode(stray.target), fault);
        } else {
            let what = format!(
                "second name of directory {}, which is in {named_in}",
                stray.target
            );
            let lost = format!("this name of directory {}", stray.target);
            let fault = Fault::with_loss(what, lost, Mend::Drop(stray.key));
            findings.add_edit(stray.directory, Place::Inode(stray.directory), fault);
        }
    }
}

/// Sees one directory.
struct Names<'n> {
    inode: &'n Inode,
    table: &'n Table,
    strays: &'n mut Vec<Stray>,
    entries: u64,
    subdirectories: u64,
    accounting: Accounting<'n>,
}

impl Names<'_> {
    fn target(&mut self, key: u64, dentry: &Dentry<'_>) -> Result<(), String> {
        let info = self.table.info(dentry.ino);
        let Some((info, kind)) = info.and_then(|info| Some((info, info.kind()?))) else {
            return Err(self.dangling(dentry));
        };
        if kind == FileKind::Directory {
            self.directory(key, dentry, info)?;
        } else {
            info.names.fetch_add(1, Ordering::Relaxed);
        }
        self.entries += 1;
        if kind != dentry.kind {
            let (ino, told) = (dentry.ino, dentry.kind);
            let what = format!(
                "{} says inode {ino} is {told:?}, it is {kind:?}",
                shown(dentry.name)
            );
            let fault = Fault::new(what, Mend::Retype(key));
            self.accounting.fault(Place::Inode(self.inode.ino), fault);
        }
        Ok(())
    }

    /// What is wrong with a name of an inode that is not in use; where the inode should be is where the damage may be.
    fn dangling(&mut self, dentry: &Dentry<'_>) -> String {
        let (chunk, _) = inode::chunk_and_slot(dentry.ino);
        let at = match self.table.chunk_of(dentry.ino) {
            Some(block) => {
                self.accounting.findings.plan.dangling_chunks.insert(chunk);
                format!("it is free in its chunk, block {block}")
            }
            None => {
                if chunk <= inode::MAX_CHUNK {
                    self.accounting.findings.plan.missing_chunks.insert(chunk);
                }
                format!("chunk {chunk} is not in the inode table")
            }
        };
        format!(
            "{} names inode {}, which is not in use: {at}",
            shown(dentry.name),
            dentry.ino
        )
    }

    fn directory(&mut self, key: u64, dentry: &Dentry<'_>, info: &Info) -> Result<(), String> {
        if dentry.ino == inode::ROOT {
            return Err(format!("{} names the root directory", shown(dentry.name)));
        }
        let own = self.inode.ino.raw();
        if info.parent.load(Ordering::Relaxed) == own {
            if info.named_in.swap(own, Ordering::Relaxed) == own {
                let name = shown(dentry.name);
                return Err(format!("{name} is a second name of directory {}", dentry.ino));
            }
        } else {
            self.strays.push(Stray {
                target: dentry.ino,
                directory: self.inode.ino,
                key,
            });
        }
        self.subdirectories += 1;
        Ok(())
    }
}

impl View for Names<'_> {
    fn claim(&mut self, range: BlockRange, kind: ClaimKind) {
        self.accounting.claim(range, kind);
    }
    fn dentry(&mut self, key: u64, dentry: &Dentry<'_>) {
        if let Err(what) = self.target(key, dentry) {
            let lost = format!("name {} in directory {}", shown(dentry.name), self.inode.ino);
            let fault = Fault::with_loss(what, lost, Mend::Drop(key));
            self.accounting.fault(Place::Inode(self.inode.ino), fault);
        }
    }
    fn fault(&mut self, place: Place, fault: Fault) {
        self.accounting.fault(place, fault);
    }
}
