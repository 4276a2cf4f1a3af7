//! `udax ls`: lists a directory of a pool.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use udax::{DirEntry, FileKind, Filesystem, Stat};

use crate::name::JsonName;
use crate::output::{Output, OutputArgs};
use crate::pool;
use crate::pool_path::PoolPath;
use crate::time::iso;

/// List a directory of a pool
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Mode, names, owner, size and time of each
    #[arg(short, long)]
    long: bool,
    /// Also names that begin with a dot
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: OutputArgs,
    /// The directory, or a single file
    #[arg(value_name = "POOL:/PATH")]
    place: PoolPath,
}

/// A file in JSON.
#[derive(Serialize)]
pub(crate) struct JsonFile {
    #[serde(flatten)]
    name: JsonName,
    kind: &'static str,
    inode: u64,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    blocks: u64,
    rdev: u64,
    atime: String,
    mtime: String,
    ctime: String,
    btime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<JsonName>,
}

impl List {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let filesystem = pool::open_for_reading(&self.place.pool)?;
        let result = self.list(&filesystem, output);
        let closed = pool::close(&self.place.pool, filesystem);
        result?;
        closed?;
        Ok(ExitCode::SUCCESS)
    }

    fn list(&self, filesystem: &Filesystem, output: &mut Output) -> anyhow::Result<()> {
        let stat = stat_listed(filesystem, &self.place)?;
        let mut names: Vec<(Vec<u8>, PathBuf)> = Vec::new();
        if stat.kind == FileKind::Directory {
            for entry in read_sorted(filesystem, &self.place)? {
                if self.all || !entry.name.starts_with(b".") {
                    let path = self.place.path.join(crate::name::path(&entry.name));
                    names.push((entry.name, path));
                }
            }
        } else {
            let path = self.place.path.clone();
            names.push((path.as_os_str().as_encoded_bytes().to_vec(), path));
        }
        if self.format.is_json() {
            let files = names
                .iter()
                .map(|(name, path)| JsonFile::read(filesystem, &self.place, name, path))
                .collect::<anyhow::Result<Vec<_>>>()?;
            return output.json(&files);
        }
        for (name, path) in &names {
            if self.long {
                let stat = stat_in(filesystem, &self.place, path)?;
                write!(output, "{}", long_prefix(&stat))?;
                output.name(name)?;
                if stat.kind == FileKind::Symlink {
                    output.write_all(b" -> ")?;
                    output.name(&filesystem.read_link(path)?)?;
                }
            } else {
                output.name(name)?;
            }
            output.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// The stat of what a listing starts at: a link to a directory is followed.
pub(crate) fn stat_listed(filesystem: &Filesystem, place: &PoolPath) -> anyhow::Result<Stat> {
    filesystem
        .stat(&place.path)
        .or_else(|error| match error {
            // A link to nowhere can still be listed itself.
            udax::Error::NotFound => filesystem.stat_link(&place.path),
            error => Err(error),
        })
        .with_context(|| format!("{place}: cannot look"))
}

/// The entries of a directory by name, `.` and `..` too.
pub(crate) fn read_sorted(filesystem: &Filesystem, place: &PoolPath) -> anyhow::Result<Vec<DirEntry>> {
    const BATCH: usize = 1024;
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let batch = filesystem
            .read_dir(&place.path, cookie, BATCH)
            .with_context(|| format!("{place}: cannot read the directory"))?;
        let Some(last) = batch.last() else { break };
        cookie = last.cookie;
        entries.extend(batch);
    }
    entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

fn stat_in(filesystem: &Filesystem, place: &PoolPath, path: &Path) -> anyhow::Result<Stat> {
    filesystem
        .stat_link(path)
        .with_context(|| format!("{}: cannot look", crate::pool_path::in_pool(&place.pool, path)))
}

impl JsonFile {
    /// Reads what JSON says of `path`, under the name `name`.
    pub(crate) fn read(
        filesystem: &Filesystem,
        place: &PoolPath,
        name: &[u8],
        path: &Path,
    ) -> anyhow::Result<Self> {
        let stat = stat_in(filesystem, place, path)?;
        let target = match stat.kind {
            FileKind::Symlink => Some(JsonName::new(&filesystem.read_link(path)?)),
            _ => None,
        };
        Ok(Self {
            name: JsonName::new(name),
            kind: kind_word(stat.kind),
            inode: stat.ino.raw(),
            mode: format!("{:04o}", stat.permissions),
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            blocks: stat.blocks,
            rdev: stat.rdev,
            atime: iso(stat.atime),
            mtime: iso(stat.mtime),
            ctime: iso(stat.ctime),
            btime: iso(stat.btime),
            target,
        })
    }
}

/// The kind in words.
pub(crate) fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Fifo => "fifo",
        FileKind::CharDevice => "character device",
        FileKind::Directory => "directory",
        FileKind::BlockDevice => "block device",
        FileKind::Regular => "file",
        FileKind::Symlink => "symbolic link",
        FileKind::Socket => "socket",
    }
}

/// `-rwxr-sr-x`.
pub(crate) fn mode_letters(kind: FileKind, permissions: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::Fifo => 'p',
        FileKind::CharDevice => 'c',
        FileKind::Directory => 'd',
        FileKind::BlockDevice => 'b',
        FileKind::Regular => '-',
        FileKind::Symlink => 'l',
        FileKind::Socket => 's',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = permissions >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, permissions & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Major and minor number of a device number in glibc's encoding.
pub(crate) fn major_minor(rdev: u64) -> (u32, u32) {
    (rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

fn long_prefix(stat: &Stat) -> String {
    let size = match stat.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            let (major, minor) = major_minor(stat.rdev);
            format!("{major}, {minor}")
        }
        _ => stat.size.to_string(),
    };
    let time = iso(stat.mtime);
    format!(
        "{} {:>3} {:>5} {:>5} {size:>12} {} ",
        mode_letters(stat.kind, stat.permissions),
        stat.nlink,
        stat.uid,
        stat.gid,
        time.split('.').next().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_show_set_id_and_sticky_bits() {
        for (kind, permissions, letters) in [
            (FileKind::Regular, 0o644, "-rw-r--r--"),
            (FileKind::Regular, 0o4755, "-rwsr-xr-x"),
            (FileKind::Regular, 0o2644, "-rw-r-Sr--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Fifo, 0o1000, "p--------T"),
        ] {
            assert_eq!(mode_letters(kind, permissions), letters);
        }
    }
}
