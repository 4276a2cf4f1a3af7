//! `udax tree`: shows a directory of a pool with all that is below it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use udax::{FileKind, Filesystem};

use crate::list::{JsonFile, read_sorted, stat_listed};
use crate::output::{Output, OutputArgs};
use crate::pool;
use crate::pool_path::PoolPath;

/// Show a directory of a pool and everything below it
#[derive(Args, Debug)]
pub(crate) struct Tree {
    #[command(flatten)]
    format: OutputArgs,
    /// The directory
    #[arg(value_name = "POOL:/PATH")]
    place: PoolPath,
}

/// An entry that is still to be shown.
struct Pending {
    path: PathBuf,
    name: Vec<u8>,
    kind: FileKind,
    /// For each directory above: whether this branch is its last.
    is_last: Vec<bool>,
}

impl Tree {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let filesystem = pool::open_for_reading(&self.place.pool)?;
        let result = self.show(&filesystem, output);
        let closed = pool::close(&self.place.pool, filesystem);
        result?;
        closed?;
        Ok(ExitCode::SUCCESS)
    }

    /// Walks with a stack of its own, because directories may be deeper than a thread's stack.
    fn show(&self, filesystem: &Filesystem, output: &mut Output) -> anyhow::Result<()> {
        let top = stat_listed(filesystem, &self.place)?;
        let mut pending = vec![Pending {
            path: self.place.path.clone(),
            name: self.place.to_string().into_bytes(),
            kind: top.kind,
            is_last: Vec::new(),
        }];
        let mut files = Vec::new();
        while let Some(next) = pending.pop() {
            if self.format.is_json() {
                let name = next.path.as_os_str().as_encoded_bytes();
                files.push(JsonFile::read(filesystem, &self.place, name, &next.path)?);
            } else {
                print_line(filesystem, output, &next)?;
            }
            if next.kind == FileKind::Directory {
                pending.extend(self.children(filesystem, &next)?);
            }
        }
        if self.format.is_json() {
            output.json(&files)?;
        }
        Ok(())
    }

    /// What is in a directory, last name first.
    fn children(&self, filesystem: &Filesystem, of: &Pending) -> anyhow::Result<Vec<Pending>> {
        let place = PoolPath {
            path: of.path.clone(),
            ..self.place.clone()
        };
        let mut entries = read_sorted(filesystem, &place)?;
        entries.retain(|entry| entry.name != b"." && entry.name != b"..");
        let children = entries.into_iter().rev().enumerate().map(|(from_end, entry)| {
            let mut is_last = of.is_last.clone();
            is_last.push(from_end == 0);
            Pending {
                path: of.path.join(crate::name::path(&entry.name)),
                name: entry.name,
                kind: entry.kind,
                is_last,
            }
        });
        Ok(children.collect())
    }
}

fn print_line(filesystem: &Filesystem, output: &mut Output, entry: &Pending) -> anyhow::Result<()> {
    if let Some((is_last, above)) = entry.is_last.split_last() {
        for above_is_last in above {
            output.write_all(if *above_is_last { "    " } else { "│   " }.as_bytes())?;
        }
        output.write_all(if *is_last { "└── " } else { "├── " }.as_bytes())?;
    }
    output.name(&entry.name)?;
    if entry.kind == FileKind::Symlink {
        output.write_all(b" -> ")?;
        output.name(&filesystem.read_link(&entry.path)?)?;
    }
    output.write_all(b"\n")?;
    Ok(())
}
