//! Path resolution (path_resolution(7)).

use nix::errno::Errno;
use udax::FileKind;

use super::{Body, Fault, Id, Model, ROOT, Stamp};

const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4095;
const MAX_LINKS: u32 = 40;

/// The last component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Last {
    Name(Vec<u8>),
    Dot,
    DotDot,
    Root,
}

/// A path, resolved but for its last component.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) directory: Id,
    pub(super) last: Last,
    /// Whether slashes follow the last component.
    pub(super) has_slash: bool,
}

/// Whether a symbolic link in the last component is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follow {
    Yes,
    No,
}

impl Model {
    /// The place that `path` names.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place, Fault> {
        self.place_from(ROOT, path, &mut 0)
    }

    /// The inode that `path` names.
    pub(super) fn lookup(&mut self, path: &[u8], follow: Follow) -> Result<Id, Fault> {
        self.lookup_from(ROOT, path, follow, &mut 0)
    }

    /// Whether `path`, without the slashes at its end, names a symbolic link.
    pub fn names_link(&self, path: &[u8]) -> bool {
        let end = path
            .iter()
            .rposition(|byte| *byte != b'/')
            .map_or(0, |last| last + 1);
        let found = self.clone().lookup(&path[..end], Follow::No);
        found.is_ok_and(|id| self.is_kind(id, FileKind::Symlink))
    }

    /// The inode at the last component of `place`, itself not followed. `None` when the name does not exist.
    pub(super) fn at(&self, place: &Place) -> Result<Option<Id>, Fault> {
        match &place.last {
            Last::Name(name) => self.child(place.directory, name),
            Last::Dot | Last::Root => Ok(Some(place.directory)),
            Last::DotDot => Ok(Some(self.parent(place.directory))),
        }
    }

    pub(super) fn place_from(&mut self, start: Id, path: &[u8], links: &mut u32) -> Result<Place, Fault> {
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if path.len() > MAX_PATH {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let mut directory = if path.starts_with(b"/") { ROOT } else { start };
        let mut components = path
            .split(|byte| *byte == b'/')
            .filter(|component| !component.is_empty());
        let has_slash = path.ends_with(b"/");
        let Some(mut component) = components.next() else {
            return Ok(Place {
                directory,
                last: Last::Root,
                has_slash,
            });
        };
        for next in components {
            directory = self.step(directory, component, links)?;
            component = next;
        }
        let last = match component {
            b"." => Last::Dot,
            b".." => Last::DotDot,
            name => Last::Name(name.to_vec()),
        };
        Ok(Place {
            directory,
            last,
            has_slash,
        })
    }

    pub(super) fn lookup_from(
        &mut self,
        start: Id,
        path: &[u8],
        follow: Follow,
        links: &mut u32,
    ) -> Result<Id, Fault> {
        let place = self.place_from(start, path, links)?;
        let mut id = self.at(&place)?.ok_or(Errno::ENOENT)?;
        if follow == Follow::Yes || place.has_slash {
            id = self.follow(place.directory, id, links)?;
        }
        if place.has_slash && !self.inode(id).is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(id)
    }

    /// What `id` leads to when it is a symbolic link found in `directory`; else itself.
    pub(super) fn follow(&mut self, directory: Id, id: Id, links: &mut u32) -> Result<Id, Fault> {
        let Some(target) = self.follow_once(id, links)? else {
            return Ok(id);
        };
        self.lookup_from(directory, &target, Follow::Yes, links)
    }

    /// The target of `id` if it is a symbolic link, counted against the limit.
    pub(super) fn follow_once(&mut self, id: Id, links: &mut u32) -> Result<Option<Vec<u8>>, Fault> {
        let Body::Symlink(target) = &self.inode(id).body else {
            return Ok(None);
        };
        let target = target.clone();
        *links += 1;
        if *links > MAX_LINKS {
            // The path that results may be too long before the links are too many.
            return Err([Errno::ELOOP, Errno::ENAMETOOLONG].into());
        }
        self.inode_mut(id).atime = Stamp::Unknown;
        Ok(Some(target))
    }

    fn step(&mut self, directory: Id, component: &[u8], links: &mut u32) -> Result<Id, Fault> {
        let next = match component {
            b"." => directory,
            b".." => self.parent(directory),
            name => {
                let child = self.child(directory, name)?.ok_or(Errno::ENOENT)?;
                self.follow(directory, child, links)?
            }
        };
        if self.inode(next).is_directory() {
            Ok(next)
        } else {
            Err(Errno::ENOTDIR.into())
        }
    }

    pub(super) fn child(&self, directory: Id, name: &[u8]) -> Result<Option<Id>, Fault> {
        if name.len() > MAX_NAME {
            return Err(Errno::ENAMETOOLONG.into());
        }
        match &self.inode(directory).body {
            Body::Directory { entries, .. } => Ok(entries.get(name).copied()),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// The directory that holds the directory `id`.
    pub fn parent(&self, id: Id) -> Id {
        match &self.inode(id).body {
            Body::Directory { parent, .. } => *parent,
            _ => id,
        }
    }

    pub(super) fn is_kind(&self, id: Id, kind: FileKind) -> bool {
        self.inode(id).body.kind() == kind
    }
}
