//! A data device that fails now and then: what is read is right or refused, and what could not be written is written
//! when the device works again.

use std::sync::Arc;

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{
    DataSource, Dax, DaxMode, Disk, Error, File, Filesystem, FormatOptions, MountOptions, NewInode,
    OpenFlags, WriteFlags,
};
use udax_disk::{Medium, MemoryMedium, Unreliable};
use udax_pmem::Region;

use crate::cached::bytes;
use crate::pool::{MIB, content, open};

const BLOCK: u64 = 4096;
/// Blocks of the file, every second of which is a hole.
const BLOCKS: u64 = 64;

/// A pool in memory with such a device, on which there are no other threads that make requests.
fn pool() -> (Filesystem, Arc<Unreliable>) {
    let device = Arc::new(Unreliable::new(Arc::new(MemoryMedium::new(16 * MIB)), 5));
    let medium = Arc::clone(&device);
    (pool_on(medium), device)
}

/// A pool in memory with this device.
fn pool_on(medium: Arc<dyn Medium>) -> Filesystem {
    let source = DataSource::Disk(Arc::new(Disk::new(medium)));
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
    Filesystem::open_region(region, &options).unwrap()
}

/// A file of which every second block is on the device, and what it holds.
fn file(fs: &Filesystem) -> (File, Vec<u8>) {
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

fn open_direct(fs: &Filesystem) -> File {
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::DIRECT;
    fs.open_file("/f", flags, NewInode::with_permissions(0o600))
        .unwrap()
}

/// Does something of this kind, the first six of which are writes; how much was written.
fn act(
    (fs, file, direct): (&Filesystem, &File, &File),
    kind: u32,
    (first, data): (u64, &[u8]),
    expected: &mut Expected,
) -> udax::Result<Option<usize>> {
    let at = first * BLOCK;
    match kind {
        0..4 => file.write_at(data, at).map(Some),
        4 => file
            .write_with(data, at, WriteFlags::DSYNC)
            .map(|done| Some(done.1)),
        5 => direct.write_at(data, at).map(Some),
        6 => file.sync().map(|()| None),
        7 => fs.sync().map(|()| None),
        8 => file.set_dax(Dax::On).map(|()| None),
        9 => file.set_dax(Dax::Off).map(|()| None),
        _ => {
            file.dont_need(0, u64::MAX);
            let mut to = vec![0; data.len()];
            let door = if kind == 10 { file } else { direct };
            let count = door.read_at(&mut to, at)?;
            expected.read(first, &to[..count]);
            Ok(None)
        }
    }
}

#[test]
fn what_could_not_be_written_is_written_when_the_device_works_again() {
    let (fs, device) = pool();
    let (file, whole) = file(&fs);
    let direct = open_direct(&fs);
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
        let kind = random.random_range(0..12);
        let result = act((&fs, &file, &direct), kind, (first, &data), &mut expected);
        match result {
            Ok(Some(count)) => {
                let (certain, rest) = data.split_at(count / 4096 * 4096);
                expected.wrote(first, certain, true);
                expected.wrote(first + u64::try_from(count).unwrap() / BLOCK, rest, false);
                done += 1;
            }
            Ok(None) => done += 1,
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

/// An operation of a file that needs its bytes to be durable.
type Step = fn(&Filesystem, &File) -> udax::Result<()>;

#[test]
fn what_the_failed_flush_of_another_file_may_have_lost_is_refused_once() {
    let steps: [(&str, Step); 4] = [
        ("sync", |_, file| file.sync()),
        ("write with DSYNC", |_, file| {
            file.write_with(&[3; 4096], MIB, WriteFlags::DSYNC).map(drop)
        }),
        ("clone", |fs, file| {
            file.clone_range(0, &open(fs, "/clone"), 0, MIB)
        }),
        ("collapse", |_, file| {
            file.allocate(udax::AllocateMode::Collapse, 0, BLOCK)
        }),
    ];
    for (name, step) in steps {
        let medium = Arc::new(MemoryMedium::new(16 * MIB));
        let device = Arc::clone(&medium);
        let fs = pool_on(device);
        let (file, other) = (open(&fs, "/f"), open(&fs, "/other"));
        for file in [&file, &other] {
            file.write_at(&bytes(2 * MIB, 1), 0).unwrap();
            file.sync().unwrap();
        }
        // In place: written, and not flushed.
        for file in [&file, &other] {
            file.write_with(&bytes(MIB, 2), 0, WriteFlags::DONTCACHE).unwrap();
        }
        assert_eq!(fs.cache_statistics().dirty, 0);
        medium.lose_flushes(1);
        other.sync().unwrap_err();
        file.dont_need(0, u64::MAX);
        assert!(content(&file)[..4096] == bytes(MIB, 1)[..4096], "lost");
        let refused = step(&fs, &file).unwrap_err();
        assert_eq!(refused.errno(), Errno::EIO, "{name}: {refused}");
        step(&fs, &file).unwrap();
        drop((file, other));
        fs.close().unwrap();
    }
}
