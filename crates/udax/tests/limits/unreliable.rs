//! A data device that fails now and then: what is read is right or refused, and what could not be written is written
//! when the device works again.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{DataSource, Dax, DaxMode, Disk, Error, Filesystem, FormatOptions, MountOptions, WriteFlags};
use udax_disk::{MemoryMedium, Unreliable};
use udax_pmem::Region;

use crate::cached::bytes;
use crate::pool::{MIB, content, open};

const BLOCK: u64 = 4096;
/// Blocks of the file, every second of which is a hole.
const BLOCKS: u64 = 64;

/// A pool in memory with such a device, on which there are no other threads that make requests.
fn pool() -> (Filesystem, Arc<Unreliable>) {
    let medium = Arc::new(Unreliable::new(Arc::new(MemoryMedium::new(16 * MIB)), 5));
    let disk = Arc::clone(&medium);
    let source = DataSource::Disk(Arc::new(Disk::new(disk)));
    let region = Region::anonymous(16 * MIB, None).unwrap();
    let format = FormatOptions {
        data: Some(source.clone()),
        ..FormatOptions::default()
    };
    Filesystem::format_region(&region, &format).unwrap();
    let options = MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        data: Some(source),
        ..MountOptions::default()
    };
    (Filesystem::open_region(region, &options).unwrap(), medium)
}

/// A file of which every second block is on the device, and what it holds.
fn file(fs: &Filesystem) -> (udax::File, Vec<u8>) {
    let file = open(fs, "/f");
    let mut whole = vec![0; usize::try_from(BLOCKS * BLOCK).unwrap()];
    for block in (1..BLOCKS).step_by(2) {
        let at = usize::try_from(block * BLOCK).unwrap();
        let data = bytes(BLOCK, block);
        whole[at..at + data.len()].copy_from_slice(&data);
        file.write_at(&data, block * BLOCK).unwrap();
    }
    file.sync().unwrap();
    (file, whole)
}

#[test]
fn what_is_read_is_right_or_refused() {
    let (fs, device) = pool();
    let (file, whole) = file(&fs);
    let mut random = SmallRng::seed_from_u64(1);
    let (mut right, mut refused) = (0, 0);
    for one_in in [3, 10, 30] {
        device.fail_one_in(one_in);
        for _ in 0..200 {
            file.dont_need(0, u64::MAX);
            let at = random.random_range(0..BLOCKS * BLOCK);
            let from = usize::try_from(at).unwrap();
            let mut to = vec![7; random.random_range(1..32 * 4096)];
            match file.read_at(&mut to, at) {
                Ok(count) => {
                    assert!(count > 0);
                    assert!(to[..count] == whole[from..from + count], "{count} bytes at {at}");
                    right += 1;
                }
                Err(Error::Disk(_) | Error::Cache(_)) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(right > 100 && refused > 5, "{right} right, {refused} refused");
    device.fail_one_in(0);
    file.dont_need(0, u64::MAX);
    assert!(content(&file) == whole);
}

/// What each block may hold: one of these.
struct Expected(Vec<Vec<Vec<u8>>>);

impl Expected {
    /// All of these blocks hold this now; or either, if the write was refused.
    fn wrote(&mut self, first: u64, data: &[u8], is_certain: bool) {
        for (block, data) in (first..).zip(data.chunks_exact(4096)) {
            let may = &mut self.0[usize::try_from(block).unwrap()];
            if is_certain {
                may.clear();
            }
            may.push(data.to_vec());
        }
    }

    /// They were read, and stay as they are.
    fn read(&mut self, first: u64, data: &[u8]) {
        for (block, data) in (first..).zip(data.chunks_exact(4096)) {
            let may = &mut self.0[usize::try_from(block).unwrap()];
            assert!(may.iter().any(|may| may == data), "block {block}");
            may.clear();
            may.push(data.to_vec());
        }
    }
}

fn is_of_device(error: &Error) -> bool {
    matches!(error, Error::Disk(_) | Error::Cache(_))
}

#[test]
fn what_could_not_be_written_is_written_when_the_device_works_again() {
    let (fs, device) = pool();
    let (file, whole) = file(&fs);
    let direct = fs
        .open_file(
            "/f",
            udax::OpenFlags::READ | udax::OpenFlags::WRITE | udax::OpenFlags::DIRECT,
            udax::NewInode::with_permissions(0o600),
        )
        .unwrap();
    let mut expected = Expected(
        whole
            .chunks_exact(4096)
            .map(|block| vec![block.to_vec()])
            .collect(),
    );
    let mut random = SmallRng::seed_from_u64(2);
    let (mut done, mut refused) = (0, 0);
    for turn in 0..3000 {
        device.fail_one_in(if turn % 500 < 250 { 4 } else { 40 });
        let first = random.random_range(0..BLOCKS);
        let count = random.random_range(1..=(BLOCKS - first).min(12));
        let data = bytes(count * BLOCK, 1000 + turn);
        let at = first * BLOCK;
        let kind = random.random_range(0..12);
        let result = match kind {
            0..4 => file.write_at(&data, at).map(Some),
            4 => file
                .write_with(&data, at, WriteFlags::DSYNC)
                .map(|done| Some(done.1)),
            5 => direct.write_at(&data, at).map(Some),
            6 => file.sync().map(|()| None),
            7 => fs.sync().map(|()| None),
            8 => file.set_dax(Dax::On).map(|()| None),
            9 => file.set_dax(Dax::Off).map(|()| None),
            _ => {
                file.dont_need(0, u64::MAX);
                let mut to = vec![0; data.len()];
                let read = match kind {
                    10 => file.read_at(&mut to, at),
                    _ => direct.read_at(&mut to, at),
                };
                read.map(|count| {
                    expected.read(first, &to[..count]);
                    None
                })
            }
        };
        match result {
            Ok(None) => done += 1,
            Ok(Some(count)) => {
                let (certain, rest) = data.split_at(count / 4096 * 4096);
                expected.wrote(first, certain, true);
                expected.wrote(first + u64::try_from(count).unwrap() / BLOCK, rest, false);
                done += 1;
            }
            Err(error) => {
                assert!(is_of_device(&error), "{error:?}");
                if kind < 6 {
                    expected.wrote(first, &data, false);
                }
                refused += 1;
            }
        }
    }
    assert!(done > 1500 && refused > 100, "{done} done, {refused} refused");
    device.fail_one_in(0);
    // The errors of before are told, and then no more.
    let _ = file.sync();
    file.sync().unwrap();
    file.set_dax(Dax::Off).unwrap();
    expected.read(0, &content(&file));
    file.dont_need(0, u64::MAX);
    expected.read(0, &content(&file));
    drop((file, direct));
    fs.close().unwrap();
}
