//! `udax cat`: prints files of a pool.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use udax::{NewInode, OpenFlags};

use crate::failure;
use crate::output::Output;
use crate::pool;
use crate::pool_path::PoolPath;

/// Print files of a pool on standard output
#[derive(Args, Debug)]
pub(crate) struct Cat {
    /// The files
    #[arg(required = true, value_name = "POOL:/PATH")]
    places: Vec<PoolPath>,
}

impl Cat {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        failure::for_each(&self.places, |place| {
            let filesystem = pool::open_for_reading(&place.pool)?;
            let result = print_file(&filesystem, place, output);
            let closed = pool::close(&place.pool, filesystem);
            result?;
            closed
        })
    }
}

fn print_file(filesystem: &udax::Filesystem, place: &PoolPath, output: &mut Output) -> anyhow::Result<()> {
    const CHUNK: usize = 256 << 10;
    let file = filesystem
        .open_file(&place.path, OpenFlags::READ, NewInode::with_permissions(0))
        .with_context(|| format!("{place}: cannot open"))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let read = file
            .read_at(&mut buffer, offset)
            .with_context(|| format!("{place}: cannot read at byte {offset}"))?;
        if read == 0 {
            return Ok(());
        }
        output.write_all(buffer.get(..read).unwrap_or_default())?;
        offset += u64::try_from(read).unwrap_or(0);
    }
}
