//! A directory's content: its tree of entries, and its size, links and times.

use smallvec::SmallVec;
use udax_media::dentry::{self, Dentry};
use udax_media::inode::{FileKind, offset};
use udax_media::name::{self, NameKeys};
use udax_media::node::TreeKind;
use udax_media::{InodeNo, MAX_NAME_BYTES, Place, Timestamp};

use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::inode::fields::Line;
use crate::options::DirEntry;
use crate::pool::Pool;
use crate::tree::{Cursor, Hit, NodeSource, Probe, Tree};
use crate::update::Update;

/// Positions of `.` and `..`; those of the others are their keys, which are higher.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// A directory entry, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) key: u64,
    pub(crate) ino: InodeNo,
    pub(crate) kind: FileKind,
    /// Its slot in the leaf that was looked at.
    hit: Option<Hit>,
}

/// What a directory has under a name: the entry, or where it would go. True as long as the caller keeps the
/// directory's lock and has not changed it.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) found: Option<Found>,
    /// The first key that is free for the name, if it has no entry.
    free: u64,
    last: u64,
    /// The leaf, unless the name's keys belong to several.
    probe: Option<Probe>,
}

/// Checks the length and the bytes of a name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::NameTooLong {
            length: name.len(),
            limit: MAX_NAME_BYTES,
        });
    }
    if name.is_empty() {
        return Err(Error::NotFound);
    }
    if name.contains(&0) {
        return Err(Error::Invalid("a name must not contain NUL"));
    }
    Ok(())
}

impl Pool {
    /// The directory's tree as it is on media.
    pub(crate) fn directory_tree(&self, inode: &Inode) -> Result<Tree> {
        Ok(Tree::new(
            inode.tree_identity(TreeKind::Directory),
            self.inode_root(inode)?,
        ))
    }

    /// The entry `name` of a directory whose lock the caller has.
    pub(crate) fn find_entry(&self, inode: &Inode, name: &[u8]) -> Result<Option<Found>> {
        Ok(self.look_up(inode, name)?.found)
    }

    /// As [`Pool::find_entry`], so that the directory can be changed by what was seen.
    pub(crate) fn look_up(&self, inode: &Inode, name: &[u8]) -> Result<LookUp> {
        let keys = name::keys(&self.hash_key, name);
        search(self, &self.directory_tree(inode)?, inode, keys, name)
    }

    /// At most `limit` entries after position `cookie`, `parent` being where `..` leads. The caller has the lock.
    pub(crate) fn collect_entries(&self, inode: &Inode, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for (position, name) in [(DOT, b".".as_slice()), (DOT_DOT, b"..")] {
            if cookie < position && entries.len() < limit {
                let ino = if position == DOT {
                    inode.ino
                } else {
                    self.inode_parent(inode)?
                };
                entries.push(DirEntry {
                    cookie: position,
                    ino,
                    kind: FileKind::Directory,
                    name: name.to_vec(),
                });
            }
        }
        let tree = self.directory_tree(inode)?;
        let mut cursor = Cursor::starting_at(cookie.saturating_add(1).max(name::FIRST_KEY));
        while entries.len() < limit {
            let Some(batch) = cursor.next_batch(&tree, self)? else {
                break;
            };
            for (key, value) in batch.iter().take(limit - entries.len()) {
                // Positions are keys: beyond what names have, a reader could not go on after the last.
                let entry = Dentry::decode(value)
                    .filter(|_| i64::try_from(key).is_ok())
                    .ok_or_else(|| bad_entry(inode.ino))?;
                entries.push(DirEntry {
                    cookie: key,
                    ino: entry.ino,
                    kind: entry.kind,
                    name: entry.name.to_vec(),
                });
            }
        }
        Ok(entries)
    }
}

fn bad_entry(ino: InodeNo) -> Error {
    Error::Inconsistent {
        place: Place::Inode(ino),
        what: "a directory entry is impossible",
    }
}

/// Looks for `name`, which may have `keys`.
fn search<S: NodeSource<Error = Error>>(
    source: &S,
    tree: &Tree,
    inode: &Inode,
    keys: NameKeys,
    name: &[u8],
) -> Result<LookUp> {
    let range = (keys.first, keys.last);
    let Some(probe) = tree.probe(source, range, dentry::HEADER_SIZE + name.len())? else {
        return search_leaves(source, tree, inode, keys, name);
    };
    let mut hits: SmallVec<[Hit; 1]> = probe.hits().collect();
    hits.sort_unstable_by_key(|hit| hit.key);
    let mut look_up = LookUp::new(keys);
    let mut buffer = [0; dentry::MAX_SIZE];
    for hit in hits {
        let at = probe.value_at(&hit)?;
        let bytes = buffer.get_mut(..at.len).ok_or_else(|| bad_entry(inode.ino))?;
        source.read(at.block, at.offset, bytes)?;
        look_up.note(inode, (hit.key, Some(hit)), bytes, name)?;
    }
    look_up.probe = Some(probe);
    Ok(look_up)
}

/// As [`search`], when the keys may be in several leaves.
#[cold]
fn search_leaves<S: NodeSource<Error = Error>>(
    source: &S,
    tree: &Tree,
    inode: &Inode,
    keys: NameKeys,
    name: &[u8],
) -> Result<LookUp> {
    let mut look_up = LookUp::new(keys);
    let mut from = keys.first;
    while let Some((key, value)) = tree.first_in_range(source, from, keys.last)? {
        look_up.note(inode, (key, None), &value.bytes, name)?;
        from = key + 1;
    }
    Ok(look_up)
}

impl LookUp {
    /// Nothing has been seen yet.
    fn new(keys: NameKeys) -> Self {
        Self {
            found: None,
            free: keys.first,
            last: keys.last,
            probe: None,
        }
    }

    /// Takes note of the entry in `value`; entries come in ascending order of keys.
    fn note(
        &mut self,
        inode: &Inode,
        (key, hit): (u64, Option<Hit>),
        value: &[u8],
        name: &[u8],
    ) -> Result<()> {
        let entry = Dentry::decode(value).ok_or_else(|| bad_entry(inode.ino))?;
        if entry.name == name && self.found.is_none() {
            self.found = Some(Found {
                key,
                ino: entry.ino,
                kind: entry.kind,
                hit,
            });
        }
        if key == self.free {
            self.free += 1;
        }
        Ok(())
    }

    /// The key that a new entry gets.
    ///
    /// # Errors
    /// `Exists` when there is one already; `NoSpace` after 256 names with one keyed hash, which cannot be met by
    /// chance nor, without the key, by choice.
    fn free_key(&self) -> Result<u64> {
        if self.found.is_some() {
            return Err(Error::Exists);
        }
        if self.free > self.last {
            return Err(Error::no_room());
        }
        Ok(self.free)
    }
}

/// A directory while an update changes it. The caller has its lock alone.
#[derive(Debug)]
pub(crate) struct EditedDirectory<'i> {
    pub(crate) inode: &'i Inode,
    tree: Tree,
    line: Line,
}

impl<'i> EditedDirectory<'i> {
    pub(crate) fn begin(pool: &Pool, inode: &'i Inode) -> Result<Self> {
        Ok(Self {
            inode,
            tree: pool.directory_tree(inode)?,
            line: Line::read(pool, inode)?,
        })
    }

    /// Adds an entry for what was looked up.
    ///
    /// # Errors
    /// `Exists` when the name is taken; `NotFound` when the directory was removed.
    pub(crate) fn insert(
        &mut self,
        update: &mut Update<'_>,
        look_up: &LookUp,
        entry: Dentry<'_>,
    ) -> Result<()> {
        let key = self.key_for(look_up)?;
        let mut buffer = [0; dentry::MAX_SIZE];
        let value = entry.encode(&mut buffer);
        let is_done = match &look_up.probe {
            Some(probe) => self.tree.insert_at(update, probe, key, value)?,
            None => false,
        };
        if !is_done {
            self.tree.insert_new(update, key, value)?;
        }
        self.count_in(entry.kind)?;
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
    }

    /// Removes the entry that was looked up.
    pub(crate) fn remove(&mut self, update: &mut Update<'_>, look_up: LookUp) -> Result<()> {
        let found = look_up.found.ok_or_else(|| bad_entry(self.inode.ino))?;
        match (look_up.probe, found.hit) {
            (Some(probe), Some(hit)) => self.tree.remove_at(update, probe, &hit)?,
            _ => self.remove_key(update, found.key)?,
        }
        self.count_out(found.kind);
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
    }

    /// Removes the entry `from` and adds one for `to`, in this one directory.
    ///
    /// # Errors
    /// As [`EditedDirectory::insert`].
    pub(crate) fn rename(
        &mut self,
        update: &mut Update<'_>,
        from: LookUp,
        to: &LookUp,
        entry: Dentry<'_>,
    ) -> Result<()> {
        let found = from.found.ok_or_else(|| bad_entry(self.inode.ino))?;
        let key = self.key_for(to)?;
        let mut buffer = [0; dentry::MAX_SIZE];
        let value = entry.encode(&mut buffer);
        let is_done = match (&from.probe, &found.hit, &to.probe) {
            (Some(source), Some(hit), Some(target)) => {
                self.tree.move_at(update, (target, key, value), (source, hit))?
            }
            _ => false,
        };
        if !is_done {
            self.remove_key(update, found.key)?;
            self.tree.insert_new(update, key, value)?;
        }
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
    }

    fn key_for(&self, look_up: &LookUp) -> Result<u64> {
        if self.line.nlink() == 0 {
            return Err(Error::NotFound);
        }
        look_up.free_key()
    }

    fn remove_key(&mut self, update: &mut Update<'_>, key: u64) -> Result<()> {
        if self.tree.remove(update, key)? {
            Ok(())
        } else {
            Err(bad_entry(self.inode.ino))
        }
    }

    fn count_in(&mut self, kind: FileKind) -> Result<()> {
        self.line.set_size(self.line.size().saturating_add(1));
        if kind == FileKind::Directory {
            self.add_link()?;
        }
        Ok(())
    }

    fn count_out(&mut self, kind: FileKind) {
        self.line.set_size(self.line.size().saturating_sub(1));
        if kind == FileKind::Directory {
            self.line.set_nlink(self.line.nlink().saturating_sub(1));
        }
    }

    /// Lets an entry refer to another inode.
    pub(crate) fn redirect(
        &mut self,
        update: &mut Update<'_>,
        found: Found,
        name: &[u8],
        ino: InodeNo,
        kind: FileKind,
    ) -> Result<()> {
        let mut buffer = [0; dentry::MAX_SIZE];
        let value = Dentry { ino, kind, name }.encode(&mut buffer);
        if !self.tree.replace(update, found.key, value)? {
            return Err(bad_entry(self.inode.ino));
        }
        if found.kind == FileKind::Directory {
            self.line.set_nlink(self.line.nlink().saturating_sub(1));
        }
        if kind == FileKind::Directory {
            self.add_link()?;
        }
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
    }

    fn add_link(&mut self) -> Result<()> {
        let nlink = self.line.nlink().checked_add(1).ok_or(Error::TooManyLinks)?;
        self.line.set_nlink(nlink);
        Ok(())
    }

    /// Adds to `update` what has changed in the directory's inode.
    pub(crate) fn finish(mut self, update: &mut Update<'_>, now: Timestamp) -> Result<()> {
        if self.tree.root != update.pool.inode_root(self.inode)? {
            update.write_u64(self.inode.field(offset::ROOT), self.tree.root.word());
        }
        self.line.touch_modified(now);
        self.line.store(update, self.inode);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use udax_pmem::Region;

    use super::*;
    use crate::mount;
    use crate::namespace::path::Follow;
    use crate::options::{FormatOptions, MountOptions};

    const KEYS: NameKeys = NameKeys {
        first: 7 << 8,
        last: (7 << 8) | 255,
    };

    fn entry(number: u64) -> (String, InodeNo) {
        (format!("name {number}"), InodeNo(100 + number))
    }

    /// Adds an entry as if its name had the keys `KEYS`.
    fn insert(update: &mut Update<'_>, tree: &mut Tree, inode: &Inode, number: u64) -> Result<()> {
        let (name, ino) = entry(number);
        let key = search(update, tree, inode, KEYS, name.as_bytes())?.free_key()?;
        let mut buffer = [0; dentry::MAX_SIZE];
        let kind = FileKind::Regular;
        let name = name.as_bytes();
        let value = Dentry { ino, kind, name }.encode(&mut buffer);
        tree.insert_new(update, key, value)
    }

    fn find(update: &Update<'_>, tree: &Tree, inode: &Inode, number: u64) -> Option<Found> {
        let (name, _) = entry(number);
        search(update, tree, inode, KEYS, name.as_bytes()).unwrap().found
    }

    #[test]
    fn names_of_equal_hash_are_told_apart_up_to_256_of_them() {
        let region = Region::anonymous(16 << 20, None).unwrap();
        mount::format_region(&region, &FormatOptions::default()).unwrap();
        let pool = mount::open_region(region, &MountOptions::default()).unwrap();
        let root = pool.resolve(b"/", Follow::Yes).unwrap();
        let mut tree = pool.directory_tree(&root).unwrap();
        let mut update = Update::new(&pool);
        for number in 0..256 {
            insert(&mut update, &mut tree, &root, number).unwrap();
        }
        for number in 0..256 {
            let found = find(&update, &tree, &root, number).unwrap();
            assert_eq!((found.key, found.ino), (KEYS.first + number, entry(number).1));
        }
        let again = insert(&mut update, &mut tree, &root, 3);
        assert!(matches!(again, Err(Error::Exists)));
        let one_more = insert(&mut update, &mut tree, &root, 256);
        assert!(matches!(one_more, Err(Error::NoSpace { .. })));
        // A gap hides no name behind it, and is used again.
        assert!(tree.remove(&mut update, KEYS.first + 9).unwrap());
        assert_eq!(find(&update, &tree, &root, 9), None);
        assert_eq!(find(&update, &tree, &root, 200).unwrap().ino, entry(200).1);
        insert(&mut update, &mut tree, &root, 300).unwrap();
        assert_eq!(find(&update, &tree, &root, 300).unwrap().key, KEYS.first + 9);
    }
}
