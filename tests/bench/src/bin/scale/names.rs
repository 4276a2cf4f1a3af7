//! A directory of very many names.

use anyhow::{Result, ensure};
use udax::{Error, Filesystem, NewInode, OpenFlags};
use udax_test_bench::{CREATE, NEW};

use super::table::Table;
use super::{Pool, SAMPLES, scattered};

const DIRECTORY: &str = "names";
/// An inode takes 256 bytes, a name about 60; and some room.
const BYTES_PER_NAME: u64 = 448;
const BASE_BYTES: u64 = 128 << 20;
/// Entries read at a time, as many as a `getdents` with a usual buffer gives.
const BATCH: usize = 1024;

/// Fills a directory with `count` names, looks, empties it.
pub(super) fn measure(table: &mut Table, count: u64) -> Result<()> {
    let pool = Pool::make(BASE_BYTES + count * BYTES_PER_NAME)?;
    let samples = count.min(SAMPLES);
    let filesystem = pool.open()?;
    filesystem.create_dir(DIRECTORY, NewInode::with_permissions(0o755))?;
    // The last tenth alone: the mean over all would hide what the full directory costs.
    let early = count - count.div_ceil(10);
    (0..early).try_for_each(|number| create(&filesystem, number))?;
    table.time("create, the last tenth", count - early, || {
        (early..count).try_for_each(|number| create(&filesystem, number))
    })?;
    table.time("look up", samples, || look_up(&filesystem, count, samples))?;
    table.time("close the pool, all", 1, || Ok(filesystem.close()?))?;

    let filesystem = table.time("open the pool, all", 1, || pool.open())?;
    table.time("look up, first time", samples, || {
        look_up(&filesystem, count, samples)
    })?;
    table.time("look up what is not there", samples, || {
        (0..samples).try_for_each(|number| {
            let path = format!("{DIRECTORY}/absent {number}");
            ensure!(matches!(filesystem.stat(path), Err(Error::NotFound)));
            Ok(())
        })
    })?;
    table.time("create and unlink among them", samples, || {
        (0..samples).try_for_each(|number| {
            create(&filesystem, count + number)?;
            Ok(filesystem.unlink(path(count + number))?)
        })
    })?;
    let seen = table.time("read the directory", count, || read_all(&filesystem))?;
    ensure!(seen == count + 2, "{seen} entries of {count} and two");
    filesystem.close()?;
    table.time("check the pool", count, || pool.check())?;

    let filesystem = pool.open()?;
    let late = count - count / 10;
    table.time("unlink, the first tenth", count - late, || {
        (late..count).try_for_each(|number| Ok(filesystem.unlink(path(number))?))
    })?;
    (0..late).try_for_each(|number| filesystem.unlink(path(number)))?;
    table.time("free the empty chunks", count, || fill(&filesystem))?;
    filesystem.remove_dir(DIRECTORY)?;
    filesystem.close()?;
    pool.check()
}

fn path(number: u64) -> String {
    format!("{DIRECTORY}/{number:010}")
}

fn create(filesystem: &Filesystem, number: u64) -> Result<()> {
    filesystem.open_file(path(number), CREATE | OpenFlags::EXCLUSIVE, NEW)?;
    Ok(())
}

fn look_up(filesystem: &Filesystem, count: u64, samples: u64) -> Result<()> {
    (0..samples).try_for_each(|index| {
        filesystem.stat(path(scattered(index, count)))?;
        Ok(())
    })
}

fn read_all(filesystem: &Filesystem) -> Result<u64> {
    let mut seen = 0;
    let mut cookie = 0;
    loop {
        let entries = filesystem.read_dir(DIRECTORY, cookie, BATCH)?;
        let Some(last) = entries.last() else {
            return Ok(seen);
        };
        cookie = last.cookie;
        seen += u64::try_from(entries.len())?;
    }
}

/// Asks for more than is free, so that the pool looks for what it can free; and gives it back.
fn fill(filesystem: &Filesystem) -> Result<()> {
    let file = filesystem.open_file("full", CREATE, NEW)?;
    let space = filesystem.stat_filesystem();
    let bytes = space.free_blocks * u64::from(space.block_size);
    let all = file.allocate(udax::AllocateMode::Allocate, 0, bytes + (64 << 20));
    drop(file);
    filesystem.unlink("full")?;
    match all {
        Ok(()) | Err(Error::NoSpace { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
