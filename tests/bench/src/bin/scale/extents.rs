//! A file of very many extents.

use anyhow::{Result, ensure};
use udax::{AllocateMode, Error, File, NewInode};
use udax_test_bench::{CREATE, NEW};

use super::table::Table;
use super::{Pool, SAMPLES, scattered};

const BLOCK: u64 = 4096;
/// The data block of an extent, its entry, and room for as many again as are sampled.
const BYTES_PER_EXTENT: u64 = 4096 + 512;
const BASE_BYTES: u64 = 1 << 30;
/// Extents listed at a time.
const BATCH: usize = 1024;

/// Writes every second block of a file, `count` of them, looks, and cuts it.
pub(super) fn measure(table: &mut Table, count: u64) -> Result<()> {
    let pool = Pool::make(BASE_BYTES + count * BYTES_PER_EXTENT)?;
    let samples = count.min(SAMPLES);
    let filesystem = pool.open()?;
    filesystem.create_dir("other", NewInode::with_permissions(0o755))?;
    let file = filesystem.open_file("ascending", CREATE, NEW)?;
    let early = count - count.div_ceil(10);
    (0..early).try_for_each(|number| write(&file, 2 * number))?;
    table.time("write a hole, the last tenth", count - early, || {
        (early..count).try_for_each(|number| write(&file, 2 * number))
    })?;
    read_and_seek(table, &file, count)?;
    table.time("overwrite", samples, || {
        (0..samples).try_for_each(|index| write(&file, 2 * scattered(index, count)))
    })?;
    table.time("punch and write again", samples, || {
        (0..samples).try_for_each(|index| {
            let block = 2 * scattered(index, count);
            file.allocate(AllocateMode::PunchHole, block * BLOCK, BLOCK)?;
            write(&file, block)
        })
    })?;
    drop(file);
    filesystem.close()?;
    table.time("check the pool", count, || pool.check())?;

    let filesystem = table.time("open the pool, all", 1, || pool.open())?;
    let file = filesystem.open_file("ascending", CREATE, NEW)?;
    table.time("read, the very first", 1, || read(&file, count))?;
    table.time("collapse a block at the start", count, || {
        Ok(file.allocate(AllocateMode::Collapse, 2 * BLOCK, BLOCK)?)
    })?;
    table.time("truncate to half", count - count / 2, || {
        Ok(file.truncate(count / 2 * 2 * BLOCK)?)
    })?;
    drop(file);
    table.time("unlink the rest", count / 2, || {
        Ok(filesystem.unlink("ascending")?)
    })?;
    descending(table, &filesystem, count)?;
    filesystem.close()?;
    pool.check()
}

fn descending(table: &mut Table, filesystem: &udax::Filesystem, count: u64) -> Result<()> {
    let file = filesystem.open_file("descending", CREATE, NEW)?;
    table.time("write holes downward", count, || {
        (0..count).rev().try_for_each(|number| write(&file, 2 * number))
    })?;
    table.time("truncate to nothing", count, || Ok(file.truncate(0)?))
}

fn read_and_seek(table: &mut Table, file: &File, count: u64) -> Result<()> {
    let samples = count.min(SAMPLES);
    table.time("read in order", count, || {
        (0..count).try_for_each(|number| read(file, 2 * number))
    })?;
    table.time("read in no order", samples, || {
        (0..samples).try_for_each(|index| read(file, 2 * scattered(index, count)))
    })?;
    let found = table.time("seek data and hole, all", count, || seek_all(file))?;
    ensure!(found == count, "{found} pieces of data, not {count}");
    let listed = table.time("list the extents", count, || list_all(file))?;
    ensure!(listed == count, "{listed} extents, not {count}");
    Ok(())
}

fn write(file: &File, block: u64) -> Result<()> {
    let written = file.write_at(&[7; 4096], block * BLOCK)?;
    ensure!(written == 4096);
    Ok(())
}

fn read(file: &File, block: u64) -> Result<()> {
    let mut bytes = [0; 4096];
    ensure!(file.read_at(&mut bytes, block * BLOCK)? == bytes.len());
    Ok(())
}

fn seek_all(file: &File) -> Result<u64> {
    let (mut at, mut found) = (0, 0);
    loop {
        match file.seek_data(at) {
            Ok(data) => at = file.seek_hole(data)?,
            Err(Error::NoSuchRange) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
        found += 1;
    }
}

fn list_all(file: &File) -> Result<u64> {
    let (mut at, mut listed) = (0, 0);
    loop {
        let extents = file.extents(at, BATCH)?;
        let Some(last) = extents.last() else {
            return Ok(listed);
        };
        at = last.offset + last.len;
        listed += u64::try_from(extents.len())?;
    }
}
