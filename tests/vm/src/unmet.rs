//! Pages that ordinary memory has lost, and that nobody has met since: what is made there must meet them first.
//!
//! On persistent memory the emulation forgets a loss with the mapping; a file in memory keeps it.

use std::path::Path;

use anyhow::{Context, ensure};
use udax::{Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};
use udax_pmem::{Region, RegionOptions};

use crate::poison::{inject, physical_address};

const PAGE: u64 = 4096;

/// Makes a pool at `pool` again and again, while a page of what it needs itself is lost.
///
/// # Errors
/// It cannot be made, or not be used then.
pub(crate) fn run(pool: &Path) -> anyhow::Result<()> {
    let options = FormatOptions {
        size: Some(16 << 20),
        force: true,
        ..FormatOptions::default()
    };
    let superblock = Filesystem::format(pool, &options)?;
    let journal = superblock.journal_blocks();
    let lanes = (0..superblock.lane_count).map(|lane| superblock.lane(lane).start.raw());
    // The heads, what the journal has of its own, and the first blocks behind it: of the inode table, and a file's.
    let places = (0..4).chain(lanes).chain((journal.end().raw()..).take(4));
    let mut count = 0;
    for block in places {
        lose(pool, block * PAGE)?;
        Filesystem::format(pool, &options).with_context(|| format!("block {block} is lost"))?;
        use_it(pool).with_context(|| format!("block {block} was lost"))?;
        count += 1;
    }
    println!("{count} pools made, each where a block that it needs was lost");
    Ok(())
}

/// Lets a page of a file lose its bytes; nobody has it open then.
fn lose(file: &Path, at: u64) -> anyhow::Result<()> {
    let region = Region::open(file, RegionOptions::default())?;
    // So that it is mapped.
    region.read(at, &mut [0])?;
    let physical = physical_address(region.address(at, PAGE)?.addr().get())?;
    drop(region);
    inject(physical)
}

fn use_it(pool: &Path) -> anyhow::Result<()> {
    let filesystem = Filesystem::open(pool, &MountOptions::default())?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    for number in 0..100 {
        let name = format!("file {number}");
        let file = filesystem.open_file(name, flags, NewInode::with_permissions(0o600))?;
        let bytes = [number; 10_000];
        file.append(&bytes)?;
        let mut back = [0; 10_000];
        ensure!(
            file.read_at(&mut back, 0)? == back.len() && back == bytes,
            "other bytes"
        );
    }
    filesystem.sync()?;
    ensure!(filesystem.damage().is_none(), "{:?}", filesystem.damage());
    Ok(filesystem.close()?)
}
