//! Makes a pool in memory, writes a file durably, and closes it. The same lines are in the README.

use std::path::Path;

use udax::{Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};

fn main() -> udax::Result<()> {
    let pool = Path::new("/dev/shm/example.pool");
    let size = Some(64 << 20);
    Filesystem::format(
        pool,
        &FormatOptions {
            size,
            // The pool of the last run is there.
            force: true,
            ..FormatOptions::default()
        },
    )?;

    let filesystem = Filesystem::open(pool, &MountOptions::default())?;
    filesystem.create_dir("notes", NewInode::with_permissions(0o755))?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = filesystem.open_file("notes/today", flags, NewInode::with_permissions(0o644))?;
    file.append(b"durable when this returns")?;
    drop(file);
    filesystem.close()
}
