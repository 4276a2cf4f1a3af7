//! Extended attributes: a tree of the inode's own, large values in blocks of their own.

use udax_journal::DataWriter;
use udax_media::inode::{FileKind, offset};
use udax_media::name;
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::xattr::{self, MAX_NAME, MAX_VALUE, Xattr, XattrValue};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Place};

use crate::error::{Error, Result};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::XattrMode;
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::tree::{Cursor, NodeSource, Tree};
use crate::update::Update;

/// Namespaces of attribute names (xattr(7)) and the `system` names that exist.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const SYSTEM_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The most attributes, and runs of blocks of their values, that one record frees with an inode; a batch more of
/// either stays below a record's limit, too.
const FREED_ATTRIBUTES: usize = 128;
const FREED_RUNS: usize = 128;

fn check_name(inode: &Inode, name: &[u8]) -> Result<()> {
    if name.len() > MAX_NAME {
        return Err(Error::NameTooLong {
            length: name.len(),
            limit: MAX_NAME,
        });
    }
    if name.contains(&0) {
        return Err(Error::Invalid("an attribute name must not contain NUL"));
    }
    if name.is_empty() {
        return Err(Error::Invalid("an attribute name must not be empty"));
    }
    // xattr(7): user attributes only where permission bits mean access to content.
    let has_content = matches!(inode.kind, FileKind::Regular | FileKind::Directory);
    if name.starts_with(b"user.") && !has_content {
        return Err(Error::NotPermitted(
            "user attributes are for files and directories",
        ));
    }
    match NAMESPACES.into_iter().find(|space| name.starts_with(space)) {
        Some(space) if name.len() == space.len() => Err(Error::Invalid("attribute name")),
        None if !SYSTEM_NAMES.contains(&name) => Err(Error::NotSupported("attribute namespace")),
        _ => Ok(()),
    }
}

/// An attribute in the tree.
struct Stored {
    key: u64,
    value: StoredValue,
}

enum StoredValue {
    Inline(Vec<u8>),
    External {
        length: u32,
        checksum: u32,
        runs: Vec<BlockRange>,
    },
}

impl From<XattrValue<'_>> for StoredValue {
    fn from(value: XattrValue<'_>) -> Self {
        match value {
            XattrValue::Inline(value) => Self::Inline(value.to_vec()),
            XattrValue::External {
                length,
                checksum,
                runs,
            } => Self::External {
                length,
                checksum,
                runs,
            },
        }
    }
}

impl Pool {
    fn xattr_tree(&self, inode: &Inode) -> Result<Tree> {
        let root = TreeRoot::from_word(self.word(inode.field(offset::XATTR_ROOT))?);
        Ok(Tree::new(inode.tree_identity(TreeKind::Xattrs), root))
    }

    /// The value of attribute `name`.
    pub(crate) fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        check_name(inode, name).map_err(|error| match error {
            Error::NotPermitted(_) => Error::NoAttribute,
            other => other,
        })?;
        let _state = inode.read()?;
        match search(self, self, &self.xattr_tree(inode)?, inode, name)? {
            Ok(stored) => self.read_value(inode, &stored.value),
            Err(_) => Err(Error::NoAttribute),
        }
    }

    /// The names of all attributes that can be asked for: what another program has put there, or damage that was sealed
    /// has made another kind of inode of this one, may have others.
    pub(crate) fn collect_xattrs(&self, inode: &Inode) -> Result<Vec<Vec<u8>>> {
        let _state = inode.read()?;
        let tree = self.xattr_tree(inode)?;
        let mut names = Vec::new();
        let mut cursor = Cursor::starting_at(0);
        while let Some(batch) = cursor.next_batch(&tree, self)? {
            for (_, value) in batch.iter() {
                let xattr = Xattr::decode(value, self.total_blocks()).ok_or_else(|| damaged(inode))?;
                if check_name(inode, xattr.name).is_ok() {
                    names.push(xattr.name.to_vec());
                }
            }
        }
        Ok(names)
    }

    fn read_value(&self, inode: &Inode, value: &StoredValue) -> Result<Vec<u8>> {
        let (length, checksum, runs) = match value {
            StoredValue::Inline(value) => return Ok(value.clone()),
            StoredValue::External {
                length,
                checksum,
                runs,
            } => (*length, *checksum, runs),
        };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let mut rest = bytes.as_mut_slice();
        for run in runs {
            let here = usize::try_from(run.count)
                .unwrap_or(usize::MAX)
                .saturating_mul(BLOCK_SIZE);
            let (part, after) = rest.split_at_mut(here.min(rest.len()));
            self.region.read(run.start.offset().raw(), part)?;
            rest = after;
        }
        if xattr::value_checksum(&bytes) != checksum {
            return Err(damaged(inode));
        }
        Ok(bytes)
    }

    /// Sets attribute `name`.
    ///
    /// # Durability
    /// Durable on return, the old or the new value as a whole: one fence, two for a value that does not fit in a node.
    pub(crate) fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_writable()?;
        check_name(inode, name)?;
        if value.len() > MAX_VALUE {
            return Err(Error::AttributeTooLarge { length: value.len() });
        }
        self.retry_when_full(|| {
            let mut state = inode.write()?;
            let tree = self.xattr_tree(inode)?;
            let found = search(self, self, &tree, inode, name)?;
            match (&found, mode) {
                (Ok(_), XattrMode::Create) => return Err(Error::Exists),
                (Err(_), XattrMode::Replace) => return Err(Error::NoAttribute),
                _ => {}
            }
            let mut update = Update::new(self);
            let mut blocks = 0;
            let new = if xattr::fits_inline(name.len(), value.len()) {
                XattrValue::Inline(value)
            } else {
                blocks += i64::try_from(value.len().div_ceil(BLOCK_SIZE)).unwrap_or(0);
                self.store_value(&mut update, value)?
            };
            let mut edited = tree;
            let bytes = Xattr { name, value: new }.encode();
            let key = match found {
                Ok(stored) => {
                    blocks -= free_value(&mut update, &stored.value)?;
                    edited.replace(&mut update, stored.key, &bytes)?;
                    stored.key
                }
                Err(free) => {
                    edited.insert_new(&mut update, free, &bytes)?;
                    free
                }
            };
            debug_assert!(key >= name::FIRST_KEY);
            self.finish_xattrs(update, inode, &mut state, edited, blocks)
        })
    }

    /// Removes attribute `name`.
    pub(crate) fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        check_name(inode, name).map_err(|error| match error {
            Error::NotPermitted(_) => Error::NoAttribute,
            other => other,
        })?;
        let mut state = inode.write()?;
        let mut tree = self.xattr_tree(inode)?;
        let stored = search(self, self, &tree, inode, name)?.map_err(|_| Error::NoAttribute)?;
        let mut update = Update::freeing(self);
        let blocks = -free_value(&mut update, &stored.value)?;
        tree.remove(&mut update, stored.key)?;
        self.finish_xattrs(update, inode, &mut state, tree, blocks)
    }

    fn finish_xattrs(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        tree: Tree,
        blocks: i64,
    ) -> Result<()> {
        let mut line = Line::read(self, inode)?;
        state.settle_times(&mut line);
        line.add_blocks(blocks + update.take_metadata_delta());
        line.touch_changed(now());
        line.store(&mut update, inode);
        let root = inode.field(offset::XATTR_ROOT);
        if self.word(root)? != tree.root.word() {
            update.write_u64(root, tree.root.word());
        }
        update.commit()?;
        state.lazy = Default::default();
        Ok(())
    }

    /// Writes a large value to blocks of its own, durably, and allocates them in `update`.
    fn store_value(&self, update: &mut Update<'_>, value: &[u8]) -> Result<XattrValue<'static>> {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        let request = Request {
            goal: BlockNo(0),
            count: length.div_ceil(BLOCK_BYTES),
            placement: Placement::Any,
            priority: Priority::Ordinary,
        };
        let runs = self.space.take_all(request)?;
        runs.iter().for_each(|run| update.guard(*run));
        let mut writer = DataWriter::new(&self.region);
        let mut rest = value;
        for run in &runs {
            let room = usize::try_from(run.count)
                .unwrap_or(usize::MAX)
                .saturating_mul(BLOCK_SIZE);
            let (part, after) = rest.split_at(room.min(rest.len()));
            writer.write(run.start.offset(), part)?;
            let end = run.start.offset().raw() + u64::try_from(part.len()).unwrap_or(0);
            let padding = u64::try_from(room - part.len()).unwrap_or(0);
            if padding > 0 {
                writer.zero(ByteOffset(end), padding)?;
            }
            rest = after;
        }
        let durable = writer.finish(runs.clone()).fence(&self.region)?;
        update.allocate_data(&durable);
        let checksum = xattr::value_checksum(value);
        Ok(XattrValue::External {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            checksum,
            runs,
        })
    }
}

/// The blocks of an inode's attributes.
#[derive(Debug, Default)]
pub(crate) struct Belongings {
    values: Vec<BlockRange>,
    nodes: Vec<BlockNo>,
}

impl Belongings {
    /// All of them, if they are so few that one record can free them with the inode.
    pub(crate) fn collect_few(pool: &Pool, inode: &Inode) -> Result<Option<Self>> {
        let tree = pool.xattr_tree(inode)?;
        let mut few = Self::default();
        let mut attributes = 0;
        let mut cursor = Cursor::starting_at(0);
        while let Some(batch) = cursor.next_batch(&tree, pool)? {
            for (_, value) in batch.iter() {
                let xattr = Xattr::decode(value, pool.total_blocks()).ok_or_else(|| damaged(inode))?;
                if let XattrValue::External { runs, .. } = xattr.value {
                    few.values.extend(runs);
                }
                attributes += 1;
            }
            // No leaf is empty: few attributes have few nodes.
            if attributes > FREED_ATTRIBUTES || few.values.len() > FREED_RUNS {
                return Ok(None);
            }
        }
        tree.for_each_node(pool, |block, _| {
            few.nodes.push(block);
            Ok(())
        })?;
        Ok(Some(few))
    }

    /// Adds to `update` the freeing of all of them; the inode is freed itself.
    pub(crate) fn free(self, update: &mut Update<'_>) -> Result<()> {
        self.values
            .into_iter()
            .try_for_each(|run| update.free_data(run))?;
        self.nodes
            .into_iter()
            .try_for_each(|node| update.free_metadata(node))
    }
}

impl Pool {
    /// Removes some of the attributes of an orphan, in one record. The caller has its lock.
    pub(crate) fn remove_some_xattrs(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        let mut tree = self.xattr_tree(inode)?;
        let mut update = Update::freeing(self);
        let (mut blocks, mut removed, mut runs) = (0, 0, 0);
        if let Some(batch) = Cursor::starting_at(0).next_batch(&tree, self)? {
            for (key, value) in batch.iter() {
                if removed >= FREED_ATTRIBUTES || runs >= FREED_RUNS {
                    break;
                }
                let xattr = Xattr::decode(value, self.total_blocks()).ok_or_else(|| damaged(inode))?;
                let stored = StoredValue::from(xattr.value);
                blocks -= free_value(&mut update, &stored)?;
                if let StoredValue::External { runs: freed, .. } = &stored {
                    runs += freed.len();
                }
                tree.remove(&mut update, key)?;
                removed += 1;
            }
        }
        self.finish_xattrs(update, inode, state, tree, blocks)
    }
}

fn free_value(update: &mut Update<'_>, value: &StoredValue) -> Result<i64> {
    let mut blocks = 0;
    if let StoredValue::External { runs, .. } = value {
        for run in runs {
            update.free_data(*run)?;
            blocks += i64::try_from(run.count).unwrap_or(0);
        }
    }
    Ok(blocks)
}

fn damaged(inode: &Inode) -> Error {
    Error::Inconsistent {
        place: Place::Inode(inode.ino),
        what: "an extended attribute is damaged",
    }
}

/// Looks for `name`: the attribute, or else the first key that is free for it.
fn search<S: NodeSource<Error = Error>>(
    pool: &Pool,
    source: &S,
    tree: &Tree,
    inode: &Inode,
    name: &[u8],
) -> Result<std::result::Result<Stored, u64>> {
    let keys = name::keys(&pool.hash_key, name);
    let mut free = keys.first;
    let mut from = keys.first;
    while let Some((key, value)) = tree.first_in_range(source, from, keys.last)? {
        let xattr = Xattr::decode(&value.bytes, pool.total_blocks()).ok_or_else(|| damaged(inode))?;
        if xattr.name == name {
            let value = xattr.value.into();
            return Ok(Ok(Stored { key, value }));
        }
        if key == free {
            free += 1;
        }
        from = key + 1;
    }
    if free > keys.last {
        return Err(Error::no_room());
    }
    Ok(Err(free))
}
