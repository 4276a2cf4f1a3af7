//! Opening files (POSIX `open`).

use std::sync::Arc;

use udax_media::inode::FileKind;

use super::File;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::namespace::MAX_RETRIES;
use crate::namespace::create::Creation;
use crate::namespace::path::{Absence, Follow, Last, Resolved};
use crate::options::{NewInode, OpenFlags, OpenOptions, Owner};
use crate::pool::Pool;

/// Opens, and makes if asked, what `path` names.
pub(crate) fn open(pool: &Arc<Pool>, path: &[u8], options: &OpenOptions) -> Result<File> {
    let flags = options.flags;
    check_flags(pool, flags)?;
    if flags.contains(OpenFlags::TEMPORARY) {
        return open_unnamed(pool, path, options);
    }
    // A name with a slash behind it is none that a file could be made under.
    if flags.contains(OpenFlags::CREATE)
        && path.ends_with(b"/")
        && matches!(pool.walk(path, Follow::Never)?.last, Last::Name(_))
    {
        return Err(Error::IsDirectory);
    }
    let exclusive = flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
    let follow = if exclusive || flags.contains(OpenFlags::NO_FOLLOW) {
        Follow::No
    } else {
        Follow::Yes
    };
    let is_new = flags.contains(OpenFlags::CREATE) && pool.check_writable().is_ok();
    for attempt in 0..MAX_RETRIES {
        let resolved = if is_new {
            pool.walk_presuming(path, follow, Absence::at_attempt(attempt))?
        } else {
            pool.walk(path, follow)?
        };
        // A link that was followed may end in a slash too.
        let is_file_name = matches!(resolved.last, Last::Name(_)) && flags.contains(OpenFlags::CREATE);
        if is_file_name && resolved.must_be_directory {
            return Err(Error::IsDirectory);
        }
        let attempt = match resolved.target {
            Some(_) if exclusive => Err(Error::Exists),
            Some(_) => open_existing(pool, &resolved, options),
            None if flags.contains(OpenFlags::CREATE) => create(pool, &resolved, options, exclusive),
            None => Err(Error::NotFound),
        };
        match attempt {
            Err(Error::Stale(_)) => {}
            other => return other,
        }
    }
    Err(Error::NotFound)
}

fn check_flags(pool: &Pool, flags: OpenFlags) -> Result<()> {
    if !flags.intersects(OpenFlags::READ | OpenFlags::WRITE) {
        return Err(Error::Invalid("a file is opened for reading, writing or both"));
    }
    if flags.contains(OpenFlags::TEMPORARY) && !flags.contains(OpenFlags::WRITE) {
        return Err(Error::Invalid("a temporary file is opened for writing"));
    }
    if flags.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
        return Err(Error::Invalid("open makes no directories"));
    }
    let writes = OpenFlags::WRITE | OpenFlags::TRUNCATE;
    if flags.intersects(writes) {
        pool.check_writable()
    } else {
        Ok(())
    }
}

fn create(pool: &Arc<Pool>, resolved: &Resolved, options: &OpenOptions, exclusive: bool) -> Result<File> {
    pool.check_writable()?;
    let count_open = |inode: &Arc<Inode>| {
        inode.count_open();
        Ok(Arc::clone(inode))
    };
    match pool.create_resolved(resolved, Creation::File, options.new, count_open) {
        // It was there, or somebody was faster: open theirs.
        Err(Error::Exists) if !exclusive => Err(Error::Stale(resolved.parent.ino)),
        Ok(inode) => Ok(File::new(pool, inode, options.flags, options.wait.clone())),
        Err(error) => Err(error),
    }
}

/// Opens the inode `inode` for what `flags` say, which do not make it.
pub(crate) fn open_inode(pool: &Arc<Pool>, inode: Arc<Inode>, flags: OpenFlags) -> Result<File> {
    let flags = flags - (OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
    check_flags(pool, flags)?;
    check_kind(inode.kind, flags, MustBe::Anything)?;
    // Nothing is made.
    let new = NewInode {
        permissions: 0,
        owner: Owner::default(),
    };
    finish_open(pool, inode, &OpenOptions::new(flags, new))
}

/// What a path says of the kind of what it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MustBe {
    Anything,
    /// Slashes follow it.
    Directory,
}

fn open_existing(pool: &Arc<Pool>, resolved: &Resolved, options: &OpenOptions) -> Result<File> {
    let target = resolved.target.ok_or(Error::NotFound)?;
    let must_be = match resolved.must_be_directory {
        true => MustBe::Directory,
        false => MustBe::Anything,
    };
    check_kind(target.kind, options.flags, must_be)?;
    finish_open(pool, pool.inode(target)?, options)
}

/// Whether an inode of this kind can be opened so.
fn check_kind(kind: FileKind, flags: OpenFlags, must_be: MustBe) -> Result<()> {
    match kind {
        FileKind::Symlink => Err(Error::SymlinkLoop),
        FileKind::Directory
            if flags.intersects(OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE) =>
        {
            Err(Error::IsDirectory)
        }
        FileKind::Directory => Ok(()),
        _ if flags.contains(OpenFlags::DIRECTORY) || must_be == MustBe::Directory => Err(Error::NotDirectory),
        FileKind::Regular => Ok(()),
        _ => Err(Error::NotSupported(
            "fifos, sockets and devices are opened by the kernel",
        )),
    }
}

fn finish_open(pool: &Arc<Pool>, inode: Arc<Inode>, options: &OpenOptions) -> Result<File> {
    {
        // Under the lock nobody removes the last name without seeing the handle.
        let _state = inode.read()?;
        inode.count_open();
    }
    let file = File::new(pool, inode, options.flags, options.wait.clone());
    if options.flags.contains(OpenFlags::TRUNCATE) && file.inode.kind == FileKind::Regular {
        pool.truncate(&file.inode, 0, &file.wait)?;
    }
    Ok(file)
}

fn open_unnamed(pool: &Arc<Pool>, path: &[u8], options: &OpenOptions) -> Result<File> {
    let flags = options.flags;
    let follow = if flags.contains(OpenFlags::NO_FOLLOW) {
        Follow::No
    } else {
        Follow::Yes
    };
    let directory = pool.resolve(path, follow)?;
    if directory.kind != FileKind::Directory {
        return Err(Error::NotDirectory);
    }
    let inode = pool.create_unnamed(&directory, options.new)?;
    {
        let mut state = inode.write()?;
        inode.count_open();
        state.is_linkable = !flags.contains(OpenFlags::EXCLUSIVE);
    }
    inode.note_close_work();
    Ok(File::new(pool, inode, options.flags, options.wait.clone()))
}
