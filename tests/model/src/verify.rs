//! A whole tree against the model.

use crate::compare::Comparer;
use crate::model::{Body, Content, Expected, Id, Model, ROOT};
use crate::opened::Opened;
use crate::operation::{NodeOperation, Operation, Text};
use crate::pool::Target;

const BLOCK: u64 = 4096;
const MAX_READ: u64 = 1 << 20;

/// Compares every name, attribute and byte of the tree with `model`. No file may be open in it.
///
/// Where `torn` is given, an overwrite was under way that would have led to it: each aligned 8-byte word of a block
/// that has data in `model` may be as in either. Other blocks are published as a whole.
///
/// # Errors
/// The path and the difference.
pub fn verify(
    target: &mut dyn Target,
    model: &mut Model,
    torn: Option<&Model>,
    comparer: &mut Comparer,
) -> Result<(), String> {
    let has_root = comparer.has_root();
    for (id, path) in model
        .paths()
        .into_iter()
        .filter(|(id, _)| *id != ROOT || has_root)
    {
        let path = Text(path);
        let mut tree = Tree {
            target,
            model,
            comparer,
            path: &path,
        };
        tree.inode(id, torn).map_err(|what| format!("{path:?}: {what}"))?;
    }
    Ok(())
}

/// Sets the blocks of `content` to the bytes that the file `path` has.
///
/// # Errors
/// When they cannot be read.
pub fn adopt(target: &mut dyn Target, path: &[u8], content: &mut Content) -> Result<(), String> {
    let mut file = Opened::new(target, &Text::from(path))?;
    let numbers: Vec<u64> = content.block_numbers().collect();
    for number in numbers {
        content.replace(number, &file.block(number)?);
    }
    Ok(())
}

struct Tree<'t> {
    target: &'t mut dyn Target,
    model: &'t mut Model,
    comparer: &'t mut Comparer,
    path: &'t Text,
}

impl Tree<'_> {
    fn inode(&mut self, id: Id, torn: Option<&Model>) -> Result<(), String> {
        self.expect(NodeOperation::StatLink, Expected::Inode(id))?;
        let names = self.model.inode(id).xattrs.keys().cloned().collect();
        self.expect(NodeOperation::ListXattrs, Expected::Names(names))?;
        for (name, value) in self.model.inode(id).xattrs.clone() {
            self.expect(NodeOperation::Xattr { name: Text(name) }, Expected::Bytes(value))?;
        }
        self.model.forget_access(id);
        match self.model.inode(id).body.clone() {
            Body::Directory { .. } => {
                self.expect(NodeOperation::ReadDirectory { limit: 7 }, Expected::Directory(id))
            }
            Body::Symlink(link) => self.expect(NodeOperation::ReadLink, Expected::Bytes(link)),
            Body::Node { .. } => Ok(()),
            Body::File(content) => {
                let torn = torn.and_then(|torn| torn.inodes().find(|(other, _)| *other == id));
                let torn = torn.and_then(|(_, inode)| match &inode.body {
                    Body::File(content) => Some(content.clone()),
                    _ => None,
                });
                self.content(&content, torn.as_ref())
            }
        }
    }

    fn expect(&mut self, what: NodeOperation, expected: Expected) -> Result<(), String> {
        let path = self.path.clone();
        let found = self.target.apply(&Operation::Node {
            path,
            what: what.clone(),
        });
        let expected = Ok(expected);
        self.comparer
            .compare(self.model, &expected, &found)
            .map_err(|difference| format!("{what:?}: {difference}"))
    }

    fn content(&mut self, content: &Content, torn: Option<&Content>) -> Result<(), String> {
        let mut file = Opened::new(self.target, self.path)?;
        for number in content.block_numbers() {
            range(&mut file, content, torn, (number * BLOCK, BLOCK))?;
        }
        // What the file has beyond the blocks of the model must be zeros.
        let mut at = 0;
        while let Some((start, end)) = file.next_data(at)? {
            for (at, len) in content.gaps(start, end) {
                zeros(&mut file, content, (at, len))?;
            }
            at = end;
        }
        Ok(())
    }
}

fn zeros(file: &mut Opened<'_>, content: &Content, (mut at, len): (u64, u64)) -> Result<(), String> {
    let end = at + len;
    while at < end {
        let len = MAX_READ.min(end - at);
        range(file, content, None, (at, len))?;
        at += len;
    }
    Ok(())
}

fn range(
    file: &mut Opened<'_>,
    content: &Content,
    torn: Option<&Content>,
    (at, len): (u64, u64),
) -> Result<(), String> {
    let len = usize::try_from(len).map_err(|error| error.to_string())?;
    let expected = content.read(at, len);
    let found = file.read(at, len)?;
    if found == expected {
        return Ok(());
    }
    if found.len() != expected.len() {
        return Err(format!(
            "{} bytes at {at} instead of {}",
            found.len(),
            expected.len()
        ));
    }
    let mut other = torn.map(|torn| torn.read(at, len)).unwrap_or_default();
    other.resize(expected.len(), 0);
    let words = found.chunks(8).zip(expected.chunks(8).zip(other.chunks(8)));
    for (index, (found, (expected, other))) in (0_u64..).zip(words) {
        if found != expected && (torn.is_none() || found != other) {
            return Err(format!(
                "the word at {} is {found:02x?} instead of {expected:02x?}{}",
                at + index * 8,
                if torn.is_some() {
                    " or the one being written"
                } else {
                    ""
                }
            ));
        }
    }
    Ok(())
}
