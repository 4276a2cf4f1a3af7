//! Whether every inode is reached from the root, by as many names as it says; and the orphans.

use std::collections::BTreeSet;

use udax_media::inode::{self, FileKind};
use udax_media::{InodeNo, Place};
use udax_sync::atomic::Ordering;

use super::{Info, Scanner};
use crate::finding::{Fault, Finding, Findings, Mend};

/// What is known of a directory's way to the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Unknown,
    /// Being followed now.
    Followed,
    /// Ends at the root, or at what is reported already.
    Ends,
}

impl Scanner<'_> {
    /// Compares names with link counts, follows parents, and checks the orphans.
    pub(super) fn scan_links(&self, orphans_are_damaged: bool) -> Findings {
        let mut findings = Findings::default();
        if !self.has_root(&mut findings) {
            // Everything would seem unreached; the root is made first.
            return findings;
        }
        let mut orphans: BTreeSet<u64> = BTreeSet::new();
        for ino in self.orphans.iter().copied().map(InodeNo) {
            if self.table.kind_of(ino).is_some() && ino != inode::ROOT {
                orphans.insert(ino.raw());
            } else {
                let what = "is in the orphans' tree, but not in use".to_owned();
                let remedy = "entry removed from the orphans' tree";
                findings.add(Finding::of_pool(Place::Inode(ino), what, remedy));
            }
        }
        let total = u64::try_from(self.table.info.len()).unwrap_or(u64::MAX);
        let mut done = 0;
        for (ino, info) in self.table.all() {
            match info.kind() {
                Some(FileKind::Directory) if ino != inode::ROOT => {
                    check_directory(ino, info, &mut orphans, &mut findings);
                }
                None | Some(FileKind::Directory) => {}
                Some(_) => check_file(ino, info, &mut orphans, &mut findings),
            }
            done += 1;
            if done % 65536 == 0 || done == total {
                self.progress.step("links", done, total);
            }
        }
        self.find_cycles(&mut findings);
        if orphans_are_damaged || orphans != self.orphans {
            findings.plan.orphans = Some(orphans);
        }
        findings
    }

    /// Checks the root directory; false when there is none.
    fn has_root(&self, findings: &mut Findings) -> bool {
        let root = inode::ROOT;
        let place = Place::Inode(root);
        let info = self.table.info(root);
        if info.and_then(Info::kind) != Some(FileKind::Directory) {
            let what = "there is no root directory".to_owned();
            let mut finding = Finding::of_pool(place, what, "root directory made anew");
            finding.lost = Some("attributes of the root directory".to_owned());
            findings.add(finding);
            findings.plan.make_root = true;
            return false;
        }
        if let Some(parent) = info.map(|info| info.parent.load(Ordering::Relaxed))
            && parent != root.raw()
        {
            let what = format!("parent of the root directory is {parent}");
            findings.add_edit(root, place, Fault::new(what, Mend::Parent(root)));
        }
        true
    }

    /// Follows each directory to the root; where that goes in a circle, the circle is cut.
    fn find_cycles(&self, findings: &mut Findings) {
        let mut ways = vec![Way::Unknown; self.table.info.len()];
        for (start, info) in self.table.all() {
            if info.kind() != Some(FileKind::Directory) {
                continue;
            }
            let mut path = Vec::new();
            let mut ino = start;
            while let Some(way) = self.way_at(ino, &mut ways) {
                match *way {
                    Way::Ends => break,
                    Way::Followed => {
                        self.cut_cycle(ino, findings);
                        break;
                    }
                    Way::Unknown => *way = Way::Followed,
                }
                path.push(ino);
                let named_in = self
                    .table
                    .info(ino)
                    .map(|info| info.named_in.load(Ordering::Relaxed));
                match named_in {
                    None | Some(0) => break,
                    Some(above) => ino = InodeNo(above),
                }
            }
            for ino in path {
                if let Some(way) = self.way_at(ino, &mut ways) {
                    *way = Way::Ends;
                }
            }
        }
    }

    fn way_at<'w>(&self, ino: InodeNo, ways: &'w mut [Way]) -> Option<&'w mut Way> {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        let at = self
            .table
            .chunks
            .binary_search_by_key(&chunk, |(number, _)| *number)
            .ok()?;
        let per_chunk = usize::try_from(inode::CHUNK_INODES).ok()?;
        ways.get_mut(at * per_chunk + usize::try_from(slot).ok()?)
    }

    fn cut_cycle(&self, on_cycle: InodeNo, findings: &mut Findings) {
        let above = |ino: InodeNo| {
            let info = self.table.info(ino);
            InodeNo(info.map_or(0, |info| info.named_in.load(Ordering::Relaxed)))
        };
        // The lowest number, so that two checks of one pool say the same.
        let mut lowest = on_cycle;
        let mut ino = above(on_cycle);
        while ino != on_cycle {
            lowest = lowest.min(ino);
            ino = above(ino);
        }
        let directory = above(lowest);
        let what =
            format!("directory {lowest} is its own ancestor; its name in {directory} closes the circle");
        let lost = format!("name of directory {lowest}");
        let fault = Fault::with_loss(what, lost, Mend::DropTarget(lowest));
        findings.add_edit(directory, Place::Inode(directory), fault);
        findings.plan.reconnect.insert(lowest.raw());
    }
}

fn unreached(ino: InodeNo, what: String, findings: &mut Findings) {
    let mut finding = Finding::of_pool(Place::Inode(ino), what, "named in /lost+found");
    finding.subject = Some(ino);
    finding.lost = Some(format!("name of inode {ino}"));
    findings.add(finding);
    findings.plan.reconnect.insert(ino.raw());
}

fn check_directory(ino: InodeNo, info: &Info, orphans: &mut BTreeSet<u64>, findings: &mut Findings) {
    let nlink = info.nlink.load(Ordering::Relaxed);
    if info.named_in.load(Ordering::Relaxed) != 0 {
        return;
    }
    if nlink == 0 && orphans.contains(&ino.raw()) {
        return;
    }
    orphans.remove(&ino.raw());
    unreached(ino, format!("directory {ino} is in no directory"), findings);
}

fn check_file(ino: InodeNo, info: &Info, orphans: &mut BTreeSet<u64>, findings: &mut Findings) {
    let nlink = info.nlink.load(Ordering::Relaxed);
    let names = info.names.load(Ordering::Relaxed);
    match (names, nlink) {
        (0, 0) if orphans.insert(ino.raw()) => {
            let what = format!("inode {ino} has no name and is not in the orphans' tree");
            let remedy = "put into the orphans' tree; the next mount removes it";
            findings.add(Finding::of_pool(Place::Inode(ino), what, remedy));
        }
        (0, 0) => {}
        (0, _) => unreached(
            ino,
            format!("inode {ino} has link count {nlink}, but no name"),
            findings,
        ),
        (_, _) if u64::from(nlink) != names => {
            let what = format!("link count {nlink}, but {names} names");
            let links = u32::try_from(names).unwrap_or(u32::MAX);
            findings.add_edit(ino, Place::Inode(ino), Fault::new(what, Mend::Nlink(links)));
        }
        _ => {}
    }
}
