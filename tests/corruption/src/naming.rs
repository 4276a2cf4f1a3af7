//! Whether a report names each thing that is lost.
//!
//! A loss is named by a problem that is about its inode, or says its number, or that of what contains it: the directory
//! of a name, the range of inodes of a chunk. Where a problem is more exact (a name, an attribute's name, a range of
//! file blocks), that must be what is lost.

use std::collections::BTreeSet;
use std::fmt;

use udax::FileKind;
use udax_check::{Problem, Report};
use udax_media::BLOCK_SIZE;
use udax_media::inode::ROOT;

use crate::tree::{Allowance, Node, Tree};

/// One thing that is not as it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// No name leads to the inode any more.
    Gone(u64),
    /// The inode's link count.
    Links(u64),
    /// Another attribute of the inode.
    Attributes(u64),
    /// A block of the file, or the whole target of a link.
    Content(u64, u64),
    /// An extended attribute.
    Xattr(u64, Vec<u8>),
    /// A name in a directory, which led to the inode.
    Name(u64, Vec<u8>, u64),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(ino) => write!(f, "inode {ino}"),
            Self::Links(ino) => write!(f, "the link count of inode {ino}"),
            Self::Attributes(ino) => write!(f, "attributes of inode {ino}"),
            Self::Content(ino, block) => write!(f, "file block {block} of inode {ino}"),
            Self::Xattr(ino, name) => write!(f, "attribute {} of inode {ino}", shown(name)),
            Self::Name(directory, name, ino) => {
                write!(f, "name {} of inode {ino} in directory {directory}", shown(name))
            }
        }
    }
}

/// All differences of what was there before.
pub fn differences(before: &Tree, after: &Tree) -> Vec<Difference> {
    let mut all = Vec::new();
    for (ino, node) in &before.nodes {
        match after.nodes.get(ino) {
            Some(other) if is_same_inode(node, other) => {
                compare_nodes(*ino, node, other, links_of_rescue(*ino, before, after), &mut all)
            }
            _ => all.push(Difference::Gone(*ino)),
        }
    }
    for ((directory, name), ino) in &before.names {
        if after.names.get(&(*directory, name.clone())) != Some(ino) {
            all.push(Difference::Name(*directory, name.clone(), *ino));
        }
    }
    all
}

/// Whether it is the inode that had the number before, not another one in its place.
fn is_same_inode(before: &Node, after: &Node) -> bool {
    before.attributes.generation == after.attributes.generation
}

/// What the root directory has more links when it got `/lost+found`.
fn links_of_rescue(ino: u64, before: &Tree, after: &Tree) -> u32 {
    let name = (ROOT.raw(), b"lost+found".to_vec());
    let is_new = after.names.contains_key(&name) && !before.names.contains_key(&name);
    u32::from(ino == ROOT.raw() && is_new)
}

fn compare_nodes(ino: u64, before: &Node, after: &Node, more_links: u32, all: &mut Vec<Difference>) {
    let (mut one, mut other) = (before.attributes, after.attributes);
    if one.nlink + more_links != other.nlink {
        all.push(Difference::Links(ino));
    }
    (one.nlink, other.nlink) = (0, 0);
    if one != other {
        all.push(Difference::Attributes(ino));
    }
    if let (Ok(one), Ok(other)) = (&before.content, &after.content) {
        if before.attributes.kind == FileKind::Symlink {
            all.extend((one != other).then_some(Difference::Content(ino, 0)));
        }
        let (mut blocks, mut others) = (one.chunks(BLOCK_SIZE), other.chunks(BLOCK_SIZE));
        for block in (0..).take(one.len().max(other.len()).div_ceil(BLOCK_SIZE)) {
            if blocks.next() != others.next() && before.attributes.kind == FileKind::Regular {
                all.push(Difference::Content(ino, block));
            }
        }
    }
    if let (Ok(one), Ok(other)) = (&before.xattrs, &after.xattrs) {
        let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| one.get(*name) != other.get(*name));
        all.extend(changed.map(|name| Difference::Xattr(ino, name.clone())));
    }
}

impl Allowance {
    /// Whether `difference` is one that may be.
    pub fn covers(&self, difference: &Difference) -> bool {
        match difference {
            Difference::Gone(ino) | Difference::Links(ino) | Difference::Attributes(ino) => {
                self.inodes.contains(ino)
            }
            Difference::Content(ino, block) => {
                let ranges = self.data.get(ino).map(Vec::as_slice).unwrap_or_default();
                let is_within = ranges.iter().any(|(first, end)| (*first..*end).contains(block));
                self.inodes.contains(ino) || is_within
            }
            Difference::Xattr(ino, name) => {
                let lists = self.xattrs.get(ino).map(Vec::as_slice).unwrap_or_default();
                self.inodes.contains(ino) || lists.iter().any(|names| names.allow(name))
            }
            Difference::Name(directory, name, ino) => {
                self.name(*directory, name) || self.inodes.contains(ino)
            }
        }
    }
}

/// Whether some problem of `report` names `difference`.
pub fn is_named(report: &Report, difference: &Difference) -> bool {
    report.problems.iter().any(|problem| names(problem, difference))
}

fn names(problem: &Problem, difference: &Difference) -> bool {
    let Some(lost) = problem.lost.as_deref() else {
        // Nothing is lost with a link count that is set to what it should be.
        return matches!(difference, Difference::Links(ino) if is_about(problem, *ino));
    };
    let is_of = |ino: &u64| is_about(problem, *ino) || mentions(lost, *ino);
    match difference {
        // A name without an inode says which one it led to.
        Difference::Gone(ino) => is_of(ino) || mentions(&problem.what, *ino),
        Difference::Links(ino) | Difference::Attributes(ino) => is_of(ino),
        Difference::Content(ino, block) => {
            is_of(ino) && file_blocks(lost).is_none_or(|one| one.contains(block))
        }
        Difference::Xattr(ino, name) => {
            is_of(ino) && quoted(lost, "attribute ").is_none_or(|one| one == shown(name))
        }
        Difference::Name(directory, name, ino) => {
            let is_this = quoted(lost, "name ").is_none_or(|one| one == shown(name));
            mentions(lost, *ino) || is_of(directory) && is_this
        }
    }
}

fn is_about(problem: &Problem, ino: u64) -> bool {
    problem.inode.is_some_and(|of| of.raw() == ino)
}

/// Whether `text` says the number of the inode, by itself or in a range.
fn mentions(text: &str, ino: u64) -> bool {
    let words: Vec<&str> = text.split([' ', ',', ';', ':']).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    (0..words.len()).any(|at| match words[at] {
        "inode" | "directory" | "link" => number(at + 1) == Some(ino),
        "inodes" => match (number(at + 1), number(at + 3)) {
            (Some(first), Some(last)) => (first..=last).contains(&ino),
            _ => false,
        },
        _ => false,
    })
}

/// The file blocks that `lost` says.
fn file_blocks(lost: &str) -> Option<std::ops::RangeInclusive<u64>> {
    let rest = lost.strip_prefix("file blocks ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|word: &&str| word.parse::<u64>().ok());
    match words.first() {
        Some(&"from") => Some(number(1)?..=u64::MAX),
        _ => Some(number(0)?..=number(2)?),
    }
}

/// What `lost` has in quotes after `prefix`, with them.
fn quoted<'l>(lost: &'l str, prefix: &str) -> Option<&'l str> {
    let rest = lost.strip_prefix(prefix).filter(|rest| rest.starts_with('"'))?;
    let end = rest.rfind('"').filter(|end| *end > 0)?;
    rest.get(..=end)
}

fn shown(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}

#[cfg(test)]
mod tests {
    use udax_media::{BlockNo, InodeNo, Place};

    use super::*;

    fn report(inode: Option<u64>, what: &str, lost: Option<&str>) -> Report {
        let problem = Problem {
            place: Place::Block(BlockNo(9)),
            inode: inode.map(InodeNo),
            path: None,
            what: what.to_owned(),
            has_remedy: true,
            repair: None,
            lost: lost.map(str::to_owned),
        };
        Report {
            problems: vec![problem],
            ..Report::default()
        }
    }

    #[test]
    fn a_number_names_what_has_it_and_nothing_else() {
        let one = report(None, "bad", Some("inodes 16 to 31"));
        assert!(is_named(&one, &Difference::Gone(31)) && !is_named(&one, &Difference::Gone(32)));
        let one = report(
            Some(1),
            "\"a\" names inode 12, which is not in use: it is free",
            Some("name \"a\""),
        );
        assert!(is_named(&one, &Difference::Gone(12)) && !is_named(&one, &Difference::Gone(2)));
        assert!(!is_named(&one, &Difference::Content(12, 0)));
    }

    #[test]
    fn what_is_said_exactly_must_be_it() {
        let one = report(Some(7), "bad", Some("file blocks 3 to 5 of inode 7"));
        assert!(is_named(&one, &Difference::Content(7, 5)) && !is_named(&one, &Difference::Content(7, 6)));
        assert!(!is_named(&one, &Difference::Content(8, 5)));
        let one = report(Some(7), "bad", Some("attribute \"user.a\" of inode 7"));
        let xattr = |name: &[u8]| Difference::Xattr(7, name.to_vec());
        assert!(is_named(&one, &xattr(b"user.a")) && !is_named(&one, &xattr(b"user.b")));
        let one = report(Some(1), "bad", Some("name \"x\" in directory 1"));
        let name = |name: &[u8]| Difference::Name(1, name.to_vec(), 5);
        assert!(is_named(&one, &name(b"x")) && !is_named(&one, &name(b"y")));
    }

    #[test]
    fn only_a_link_count_is_named_without_a_loss() {
        let one = report(Some(7), "link count 2, but 1 names", None);
        assert!(is_named(&one, &Difference::Links(7)) && !is_named(&one, &Difference::Attributes(7)));
    }
}
