//! A directory's content: its tree of entries, and its size, links and times.

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
use crate::tree::{Cursor, NodeSource, Tree};
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
        let keys = name::keys(&self.hash_key, name);
        Ok(search(self, &self.directory_tree(inode)?, inode, keys, name)?.ok())
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

/// Looks for `name`: the entry, or else the first key that is free for it.
fn search<S: NodeSource<Error = Error>>(
    source: &S,
    tree: &Tree,
    inode: &Inode,
    keys: NameKeys,
    name: &[u8],
) -> Result<std::result::Result<Found, u64>> {
    let mut free = keys.first;
    let mut from = keys.first;
    while let Some((key, value)) = tree.first_in_range(source, from, keys.last)? {
        let entry = Dentry::decode(&value.bytes).ok_or_else(|| bad_entry(inode.ino))?;
        if entry.name == name {
            return Ok(Ok(Found {
                key,
                ino: entry.ino,
                kind: entry.kind,
            }));
        }
        if key == free {
            free += 1;
        }
        from = key + 1;
    }
    Ok(Err(free))
}

/// The key that a new entry `name` gets.
///
/// # Errors
/// `Exists` when there is one already; `NoSpace` after 256 names with one keyed hash, which cannot be met by chance
/// nor, without the key, by choice.
fn free_key<S: NodeSource<Error = Error>>(
    source: &S,
    tree: &Tree,
    inode: &Inode,
    keys: NameKeys,
    name: &[u8],
) -> Result<u64> {
    match search(source, tree, inode, keys, name)? {
        Ok(_) => Err(Error::Exists),
        Err(free) if free > keys.last => Err(Error::NoSpace { needed: 1, free: 0 }),
        Err(free) => Ok(free),
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

    /// Adds an entry.
    ///
    /// # Errors
    /// `Exists` when the name is taken; `NotFound` when the directory was removed.
    pub(crate) fn insert(
        &mut self,
        update: &mut Update<'_>,
        name: &[u8],
        ino: InodeNo,
        kind: FileKind,
    ) -> Result<()> {
        if self.line.nlink() == 0 {
            return Err(Error::NotFound);
        }
        let keys = name::keys(&update.pool.hash_key, name);
        let key = free_key(update, &self.tree, self.inode, keys, name)?;
        let mut buffer = [0; dentry::MAX_SIZE];
        let value = Dentry { ino, kind, name }.encode(&mut buffer);
        self.tree.insert_new(update, key, value)?;
        self.line.set_size(self.line.size().saturating_add(1));
        if kind == FileKind::Directory {
            self.add_link()?;
        }
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, update: &mut Update<'_>, found: Found) -> Result<()> {
        if !self.tree.remove(update, found.key)? {
            return Err(bad_entry(self.inode.ino));
        }
        self.line.set_size(self.line.size().saturating_sub(1));
        if found.kind == FileKind::Directory {
            self.line.set_nlink(self.line.nlink().saturating_sub(1));
        }
        self.line.add_blocks(update.take_metadata_delta());
        Ok(())
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
        let key = free_key(update, tree, inode, KEYS, name.as_bytes())?;
        let mut buffer = [0; dentry::MAX_SIZE];
        let kind = FileKind::Regular;
        let name = name.as_bytes();
        let value = Dentry { ino, kind, name }.encode(&mut buffer);
        tree.insert_new(update, key, value)
    }

    fn find(update: &Update<'_>, tree: &Tree, inode: &Inode, number: u64) -> Option<Found> {
        let (name, _) = entry(number);
        search(update, tree, inode, KEYS, name.as_bytes()).unwrap().ok()
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
