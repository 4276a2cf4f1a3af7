//! Opening files (POSIX `open`).

use std::sync::Arc;

use udax_media::inode::FileKind;

use super::File;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::namespace::MAX_RETRIES;
use crate::namespace::create::Creation;
use crate::namespace::path::{Absence, Follow, Last, Resolved};
use crate::options::{NewInode, OpenFlags};
use crate::pool::Pool;

/// Opens, and makes if asked, what `path` names.
pub(crate) fn open(pool: &Arc<Pool>, path: &[u8], flags: OpenFlags, new: NewInode) -> Result<File> {
    check_flags(pool, flags)?;
    if flags.contains(OpenFlags::TEMPORARY) {
        return open_unnamed(pool, path, flags, new);
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
            Some(_) => open_existing(pool, &resolved, flags),
            None if flags.contains(OpenFlags::CREATE) => create(pool, &resolved, flags, new, exclusive),
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

fn create(
    pool: &Arc<Pool>,
    resolved: &Resolved,
    flags: OpenFlags,
    new: NewInode,
    exclusive: bool,
) -> Result<File> {
    pool.check_writable()?;
    let count_open = |inode: &Arc<Inode>| {
        inode.count_open();
        Ok(Arc::clone(inode))
    };
    match pool.create_resolved(resolved, Creation::File, new, count_open) {
        // It was there, or somebody was faster: open theirs.
        Err(Error::Exists) if !exclusive => Err(Error::Stale(resolved.parent.ino)),
        Ok(inode) => Ok(File::new(Arc::clone(pool), inode, flags)),
        Err(error) => Err(error),
    }
}

fn open_existing(pool: &Arc<Pool>, resolved: &Resolved, flags: OpenFlags) -> Result<File> {
    let target = resolved.target.ok_or(Error::NotFound)?;
    match target.kind {
        FileKind::Symlink => return Err(Error::SymlinkLoop),
        FileKind::Directory
            if flags.intersects(OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE) =>
        {
            return Err(Error::IsDirectory);
        }
        FileKind::Directory => {}
        _ if flags.contains(OpenFlags::DIRECTORY) || resolved.must_be_directory => {
            return Err(Error::NotDirectory);
        }
        FileKind::Regular => {}
        _ => {
            return Err(Error::NotSupported(
                "fifos, sockets and devices are opened by the kernel",
            ));
        }
    }
    finish_open(pool, pool.inode(target)?, flags)
}

fn finish_open(pool: &Arc<Pool>, inode: Arc<Inode>, flags: OpenFlags) -> Result<File> {
    {
        // Under the lock nobody removes the last name without seeing the handle.
        let _state = inode.read()?;
        inode.count_open();
    }
    let file = File::new(Arc::clone(pool), inode, flags);
    if flags.contains(OpenFlags::TRUNCATE) && file.inode.kind == FileKind::Regular {
        pool.truncate(&file.inode, 0, &file.wait)?;
    }
    Ok(file)
}

fn open_unnamed(pool: &Arc<Pool>, path: &[u8], flags: OpenFlags, new: NewInode) -> Result<File> {
    let follow = if flags.contains(OpenFlags::NO_FOLLOW) {
        Follow::No
    } else {
        Follow::Yes
    };
    let directory = pool.resolve(path, follow)?;
    if directory.kind != FileKind::Directory {
        return Err(Error::NotDirectory);
    }
    let inode = pool.create_unnamed(&directory, new)?;
    {
        let mut state = inode.write()?;
        inode.count_open();
        state.is_linkable = !flags.contains(OpenFlags::EXCLUSIVE);
    }
    inode.note_close_work();
    Ok(File::new(Arc::clone(pool), inode, flags))
}
