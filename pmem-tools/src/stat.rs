//! `udax stat`: everything about a file of a pool.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use udax::{Checksums, Dax, FileKind, Filesystem};

use crate::copy::{InPool, Source as _};
use crate::list::{JsonFile, kind_word, major_minor, mode_letters};
use crate::name::{JsonName, hex};
use crate::output::{self, Output, OutputArgs};
use crate::pool;
use crate::pool_path::PoolPath;
use crate::time::iso;

/// Show everything about a file of a pool: size, blocks, owner, times, extended attributes
#[derive(Args, Debug)]
pub(crate) struct Stat {
    #[command(flatten)]
    format: OutputArgs,
    /// The file. A symbolic link is not followed
    #[arg(value_name = "POOL:/PATH")]
    place: PoolPath,
}

#[derive(Serialize)]
struct JsonStat {
    #[serde(flatten)]
    file: JsonFile,
    generation: u64,
    change: u64,
    checksums: bool,
    dax: bool,
    xattrs: Vec<JsonXattr>,
}

#[derive(Serialize)]
struct JsonXattr {
    #[serde(flatten)]
    name: JsonName,
    value_hex: String,
}

impl Stat {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let filesystem = pool::open_for_reading(&self.place.pool)?;
        let result = self.show(&filesystem, output);
        let closed = pool::close(&self.place.pool, filesystem);
        result?;
        closed?;
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, filesystem: &Filesystem, output: &mut Output) -> anyhow::Result<()> {
        let place = &self.place;
        let stat = filesystem
            .stat_link(&place.path)
            .with_context(|| format!("{place}: cannot look"))?;
        let xattrs = InPool::new(filesystem, &place.pool)
            .xattrs(&place.path)
            .with_context(|| format!("{place}: cannot read the extended attributes"))?;
        if self.format.is_json() {
            let name = place.path.as_os_str().as_encoded_bytes();
            let json = JsonStat {
                file: JsonFile::read(filesystem, place, name, &place.path)?,
                generation: stat.generation,
                change: stat.change,
                checksums: stat.checksums == Checksums::On,
                dax: stat.dax == Dax::On,
                xattrs: xattrs
                    .iter()
                    .map(|xattr| JsonXattr {
                        name: JsonName::new(&xattr.name),
                        value_hex: hex(&xattr.value),
                    })
                    .collect(),
            };
            return output.json(&json);
        }
        let mut table = output::table(&[], 0);
        let mut row = |what: &str, value: String| {
            table.add_row([what.to_owned(), value]);
        };
        row("File", place.to_string());
        row("Kind", kind_word(stat.kind).to_owned());
        if stat.kind == FileKind::Symlink {
            row(
                "Target",
                crate::name::escaped(&filesystem.read_link(&place.path)?),
            );
        }
        if matches!(stat.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            let (major, minor) = major_minor(stat.rdev);
            row("Device", format!("{major}, {minor}"));
        }
        row("Size", format!("{} bytes", stat.size));
        row("Blocks", format!("{} of 4096 bytes", stat.blocks));
        row("Inode", format!("{}, generation {}", stat.ino, stat.generation));
        row("Names", stat.nlink.to_string());
        let letters = mode_letters(stat.kind, stat.permissions);
        row("Mode", format!("{:04o} {letters}", stat.permissions));
        row("Owner", format!("{}:{}", stat.uid, stat.gid));
        if matches!(stat.kind, FileKind::Regular | FileKind::Directory) {
            row("Checksums", on_or_off(stat.checksums == Checksums::On).to_owned());
            row("DAX flag", on_or_off(stat.dax == Dax::On).to_owned());
        }
        row("Accessed", iso(stat.atime));
        row("Modified", iso(stat.mtime));
        row("Changed", iso(stat.ctime));
        row("Made", iso(stat.btime));
        output.table(&table)?;
        for xattr in &xattrs {
            writeln!(
                output,
                "{} = {}",
                crate::name::escaped(&xattr.name),
                crate::name::escaped(&xattr.value)
            )?;
        }
        Ok(())
    }
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}
