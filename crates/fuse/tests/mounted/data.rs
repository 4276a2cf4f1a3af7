//! Content: reading, writing, holes, allocation, copies.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FallocateFlags, OFlags};
use udax::{DataSource, Disk};
use udax_disk::MemoryMedium;

use crate::place::Place;

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + seed) % 251).unwrap())
        .collect()
}

fn new_file(place: &Place, name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(place.path(name))
        .unwrap()
}

#[test]
fn large_content_is_read_back_as_written() {
    let Some(place) = Place::new() else { return };
    let bytes = pattern(9_000_001, 1);
    fs::write(place.path("f"), &bytes).unwrap();
    assert!(fs::read(place.path("f")).unwrap() == bytes);
    let place = place.remount("");
    assert!(fs::read(place.path("f")).unwrap() == bytes);
}

#[test]
fn a_mib_is_one_request() {
    const MIB: usize = 1 << 20;
    let Some(place) = Place::new() else { return };
    let file = new_file(&place, "f");
    // Of pages of their own: the kernel counts those that it touches.
    let mut memory = vec![7; MIB + 4096];
    let begin = memory.as_ptr().align_offset(4096);
    let bytes = &mut memory[begin..begin + MIB];
    for at in 0..4 {
        file.write_all_at(bytes, at << 20).unwrap();
    }
    place.wait_for_requests("write", 4);
    // Past the kernel's cache, which reads ahead in steps of its own.
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
    let mut options = File::options();
    let file = options.read(true).custom_flags(direct).open(place.path("f"));
    let file = file.unwrap();
    for at in 0..4 {
        bytes.fill(0);
        file.read_exact_at(bytes, at << 20).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
    place.wait_for_requests("read", 4);
}

#[test]
fn what_write_was_told_is_in_the_pool() {
    let Some(place) = Place::new() else { return };
    let mut file = new_file(&place, "f");
    file.write_all(b"through").unwrap();
    // No close, no fsync.
    let inside = place
        .filesystem()
        .open_file("/f", udax::OpenFlags::READ, udax::NewInode::with_permissions(0))
        .unwrap();
    let mut back = [0; 7];
    assert_eq!(inside.read_at(&mut back, 0).unwrap(), 7);
    assert_eq!(&back, b"through");
}

#[test]
fn appends_of_several_handles_do_not_meet() {
    let Some(place) = Place::new() else { return };
    let open = || {
        File::options()
            .append(true)
            .create(true)
            .open(place.path("log"))
            .unwrap()
    };
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let mut file = open();
            scope.spawn(move || {
                for _ in 0..100 {
                    file.write_all(&[thread; 33]).unwrap();
                }
            });
        }
    });
    let content = fs::read(place.path("log")).unwrap();
    assert_eq!(content.len(), 4 * 100 * 33);
    assert!(
        content
            .chunks(33)
            .all(|line| line.iter().all(|byte| *byte == line[0]))
    );
}

#[test]
fn holes_are_found_and_made() {
    let Some(place) = Place::new() else { return };
    let file = new_file(&place, "f");
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[1; 4096], 8192).unwrap();
    let mut seek = &file;
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(),
        8192
    );
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(8192)).unwrap(),
        12_288
    );
    assert_eq!(seek.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
    let allocate = |flags, at, len| rustix::fs::fallocate(&file, flags, at, len);
    allocate(FallocateFlags::empty(), 1 << 20, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
    allocate(FallocateFlags::KEEP_SIZE, 2 << 20, 8192).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
    assert_eq!(file.metadata().unwrap().blocks(), 8 * 4);
    allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 4096).unwrap();
    let mut back = [9; 4096];
    file.read_exact_at(&mut back, 8192).unwrap();
    assert_eq!(back, [0; 4096]);
    file.write_all_at(&[3; 8192], 0).unwrap();
    allocate(FallocateFlags::ZERO_RANGE, 100, 5000).unwrap();
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back[..100] == [3; 100] && back[100..] == [0; 3996]);
    let collapse = allocate(FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn copies_inside_the_mount_are_the_same_and_stay_apart() {
    let Some(place) = Place::new() else { return };
    let bytes = pattern(1_000_001, 5);
    fs::write(place.path("from"), &bytes).unwrap();
    let from = File::open(place.path("from")).unwrap();
    let to = new_file(&place, "to");
    for (at, to_at, len) in [(0, 0, 1_000_001), (4096, 8192, 100_000), (3, 1_000_000, 5000)] {
        let (mut from_at, mut target_at) = (at, to_at);
        let mut left = len;
        while left > 0 {
            let done =
                rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut target_at), left)
                    .unwrap();
            assert!(done > 0);
            left -= done;
        }
        let mut back = vec![0; len];
        to.read_exact_at(&mut back, to_at).unwrap();
        let start = usize::try_from(at).unwrap();
        assert!(back == bytes[start..start + len], "{at} {to_at} {len}");
    }
    to.write_all_at(&[0; 10_000], 0).unwrap();
    assert!(fs::read(place.path("from")).unwrap() == bytes);
}

#[test]
fn direct_and_cached_access_see_each_other() {
    let Some(place) = Place::new() else { return };
    let cached = new_file(&place, "f");
    cached.write_all_at(&pattern(16_384, 1), 0).unwrap();
    let mut back = vec![0; 16_384];
    cached.read_exact_at(&mut back, 0).unwrap();
    let direct = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(place.path("f"))
        .unwrap();
    direct.write_all_at(&pattern(8192, 2), 4096).unwrap();
    cached.read_exact_at(&mut back[..8192], 4096).unwrap();
    assert!(back[..8192] == pattern(8192, 2));
    cached.write_all_at(&pattern(4096, 3), 8192).unwrap();
    direct.read_exact_at(&mut back[..4096], 8192).unwrap();
    assert!(back[..4096] == pattern(4096, 3));
    // Of any length and place, as on the library's files.
    assert_eq!(direct.read_at(&mut back[..100], 16_384 - 50).unwrap(), 50);
}

#[test]
fn synchronous_writes_are_synced_by_whoever_asks_for_it() {
    // A file of the option's or of the flag's own is synced with each write, others when they ask.
    for (options, flags, is_synced) in [
        ("sync", OFlags::empty(), true),
        ("", OFlags::SYNC, true),
        ("", OFlags::DSYNC, true),
        ("", OFlags::empty(), false),
    ] {
        let Some(place) = Place::with_options(options, 32 << 20) else {
            return;
        };
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags.bits().cast_signed())
            .open(place.path("f"))
            .unwrap();
        file.write_all_at(b"synced", 10).unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        place.wait_for_requests("fsync", 2 + u64::from(is_synced));
        File::open(place.path("")).unwrap().sync_all().unwrap();
        assert_eq!(fs::read(place.path("f")).unwrap(), b"\0\0\0\0\0\0\0\0\0\0synced");
    }
}

#[test]
fn a_removed_file_that_is_held_by_its_path_can_be_looked_at_after_its_last_close() {
    let Some(place) = Place::with_options("attr_timeout=0", 32 << 20) else {
        return;
    };
    let file = new_file(&place, "f");
    file.write_all_at(b"content", 0).unwrap();
    let held = rustix::fs::open(place.path("f"), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    fs::remove_file(place.path("f")).unwrap();
    assert_eq!(rustix::fs::fstat(&held).unwrap().st_nlink, 0);
    drop(file);
    // The kernel releases a file after its close.
    place.wait_for_requests("release", 1);
    let stat = rustix::fs::fstat(&held).unwrap();
    assert_eq!((stat.st_nlink, stat.st_size), (0, 7));
}

#[test]
fn a_full_pool_says_so_and_works_again_after_a_removal() {
    let Some(place) = Place::with_options("", 16 << 20) else {
        return;
    };
    let mut file = new_file(&place, "f");
    let mut written = 0;
    let error = loop {
        match file.write(&[1; 100_000]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(u64::try_from(written).unwrap(), file.metadata().unwrap().len());
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    file.write_all(&[2; 100_000]).unwrap();
    let mut back = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut back).unwrap();
    assert!(back == [2; 100_000]);
}

#[test]
fn locks_of_files_exclude_each_other() {
    let Some(place) = Place::new() else { return };
    let first = new_file(&place, "f");
    let second = File::open(place.path("f")).unwrap();
    first.lock().unwrap();
    assert!(second.try_lock().is_err());
    first.unlock().unwrap();
    second.try_lock().unwrap();
    second.unlock().unwrap();
    // Those of fcntl(2), of bytes 10 to 19.
    let lock = |file: &File, kind: i32, from: i64| {
        let wanted = nix::libc::flock {
            l_type: i16::try_from(kind).unwrap(),
            l_whence: 0,
            l_start: from,
            l_len: 10,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)).map(drop)
    };
    let write = nix::libc::F_WRLCK;
    let second = File::options()
        .read(true)
        .write(true)
        .open(place.path("f"))
        .unwrap();
    lock(&first, write, 10).unwrap();
    assert_eq!(lock(&second, write, 15), Err(Errno::EAGAIN));
    lock(&second, write, 20).unwrap();
    lock(&first, nix::libc::F_UNLCK, 10).unwrap();
    lock(&second, write, 15).unwrap();
    // Of a process, which is somebody else too.
    let whole = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    assert!(rustix::fs::fcntl_lock(&first, whole).is_err());
    drop(second);
    rustix::fs::fcntl_lock(&first, whole).unwrap();
}

#[test]
fn what_cannot_be_read_is_an_error_and_never_the_end_of_the_file() {
    const PAGE: u64 = 4096;
    let medium = Arc::new(MemoryMedium::new(64 << 20));
    let device = Arc::clone(&medium);
    let source = DataSource::Disk(Arc::new(Disk::new(device)));
    let Some(place) = Place::with_device("dax=inode", 32 << 20, Some(source)) else {
        return;
    };
    let whole: Vec<u8> = (0..4 << 20).map(|at: u32| at.to_le_bytes()[1] ^ 0x5A).collect();
    fs::write(place.path("f"), &whole).unwrap();
    File::open(place.path("f")).unwrap().sync_all().unwrap();
    // Of what is nowhere cached, blocks in the middle are lost.
    let beneath =
        place
            .filesystem()
            .open_file("/f", udax::OpenFlags::READ, udax::NewInode::with_permissions(0));
    let beneath = beneath.unwrap();
    beneath.dont_need(0, u64::MAX);
    let start = beneath.extents(0, 1).unwrap()[0].pool_offset - (1 << 52);
    for lost in [100, 101, 700] {
        medium.lose(start + lost * PAGE..start + (lost + 1) * PAGE);
    }
    let is_lost = |page: u64| [100, 101, 700].contains(&page);
    place.drop_kernel_cache("f");
    let error = fs::read(place.path("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    for size in [4096, 128 << 10, 1 << 20] {
        place.drop_kernel_cache("f");
        beneath.dont_need(0, u64::MAX);
        let file = File::open(place.path("f")).unwrap();
        let mut bytes = vec![0; size];
        for at in (0..whole.len()).step_by(size) {
            let pages = u64::try_from(at).unwrap() / PAGE..u64::try_from(at + size).unwrap() / PAGE;
            match file.read_at(&mut bytes, u64::try_from(at).unwrap()) {
                // As much as is before the first lost page.
                Ok(count) => {
                    let good = pages.clone().take_while(|page| !is_lost(*page)).count();
                    assert_eq!(count, good * 4096, "{size} bytes at {at}");
                    assert!(bytes[..count] == whole[at..at + count], "{size} bytes at {at}");
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                    assert!(is_lost(pages.start), "{size} bytes at {at}");
                }
            }
        }
    }
    assert_eq!(fs::metadata(place.path("f")).unwrap().len(), 4 << 20);
}
