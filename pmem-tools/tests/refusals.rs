//! What `udax mount` says where it cannot mount, and what a mount does whose pool is damaged under it.
//!
//! Needs /dev/fuse and root; without them each test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod apart;
#[expect(dead_code, reason = "other tests use the rest")]
mod command;
#[expect(dead_code, reason = "other tests use the rest")]
mod mounted;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use apart::run_apart;
use mounted::{FAILED, Mounts};
use rustix::fs::XattrFlags;
use udax_check::Use;
use udax_media::geometry::SUPERBLOCKS;
use udax_media::inode::CHUNK_INODES;
use udax_media::{InodeNo, Superblock};
use udax_pmem::{Region, RegionOptions};

const BLOCK: usize = 4096;
/// Where a superblock has the format's version.
const VERSION_AT: usize = 8;

/// Changes both superblocks of the pool, and seals them again.
fn change_superblocks(pool: &Path, change: impl Fn(Superblock) -> [u8; BLOCK]) {
    let file = File::options().read(true).write(true).open(pool).unwrap();
    let length = file.metadata().unwrap().len();
    for (copy, block) in SUPERBLOCKS.iter().enumerate() {
        let at = block.raw() * 4096;
        let mut bytes = [0; BLOCK];
        file.read_exact_at(&mut bytes, at).unwrap();
        let superblock = Superblock::decode(&bytes, copy, length).unwrap();
        let seed = superblock.seed();
        let mut bytes = change(superblock);
        udax_media::seal::seal(seed, &mut bytes);
        file.write_all_at(&bytes, at).unwrap();
    }
}

#[test]
fn a_pool_of_a_newer_format_is_told_from_a_damaged_one() {
    let Some(mounts) = Mounts::new() else { return };
    let pool = mounts.place.path("pool");
    let whole = fs::read(&pool).unwrap();
    let newer = "a newer version of udax is needed";

    change_superblocks(&pool, |superblock| {
        let mut bytes = *superblock.encode();
        bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&2_u16.to_le_bytes());
        bytes
    });
    for options in ["rw", "ro", "ro,norecovery"] {
        let ran = mounts.mount(options);
        mounts.fails(&ran, FAILED, &["pool: cannot open", "format 2", newer]);
        assert!(!ran.stderr().contains("lost"), "nothing is: {}", ran.stderr());
    }
    let before = fs::read(&pool).unwrap();
    let ran = mounts.place.run(["fsck", "-y", "pool"]);
    ran.status(8);
    assert!(ran.stderr().contains(newer), "{}", ran.stderr());
    assert!(before == fs::read(&pool).unwrap(), "an older fsck mends nothing");

    fs::write(&pool, &whole).unwrap();
    change_superblocks(&pool, |mut superblock| {
        superblock.incompat |= 1 << 40;
        *superblock.encode()
    });
    for options in ["rw", "ro"] {
        let ran = mounts.mount(options);
        mounts.fails(&ran, FAILED, &["incompat", newer]);
        assert!(!ran.stderr().contains("fsck"), "{}", ran.stderr());
    }

    fs::write(&pool, &whole).unwrap();
    change_superblocks(&pool, |mut superblock| {
        superblock.ro_compat |= 1;
        *superblock.encode()
    });
    let ran = mounts.mount("rw");
    mounts.fails(&ran, FAILED, &["ro_compat", newer, "'ro'"]);
    assert!(!ran.stderr().contains("fsck"), "{}", ran.stderr());
    mounts.mount("ro").success();
    mounts.umount().success();
}

#[track_caller]
fn told(output: &Output, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
}

#[test]
fn a_missing_device_is_told_with_what_to_do() {
    let Some(mounts) = Mounts::new() else { return };
    let run = |line| run_apart(&mounts.place, Path::new(env!("CARGO_BIN_EXE_udax")), line);
    let empty = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$0\" mount pool mnt";
    let Some(output) = run(empty) else { return };
    told(&output, &["/dev/fuse", "modprobe fuse"]);
    // Some other device under its name.
    let other = "mount --bind /dev/null /dev/fuse && exec \"$0\" mount pool mnt";
    told(&run(other).unwrap(), &["mnt: cannot mount"]);
    // The pool is as it was.
    mounts.mount("rw").success();
    mounts.umount().success();
}

#[test]
fn a_user_without_the_helper_is_told_its_package() {
    let Some(mounts) = Mounts::new() else { return };
    let place = mounts.place.path("");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    // Where the program was built only its owner may look.
    let program = mounts.place.path("udax");
    fs::copy(env!("CARGO_BIN_EXE_udax"), &program).unwrap();
    for name in ["pool", "mnt"] {
        std::os::unix::fs::chown(mounts.place.path(name), Some(65534), Some(65534)).unwrap();
    }
    // The device may be root's alone here; and where the helper is installed, something else takes its place.
    let line = "for helper in $(command -v fusermount3 fusermount); do mount --bind /dev/null $(realpath $helper); done; \
                mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/fuse c 10 229 && \
                exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                env PATH=/nonexistent \"$0\" mount pool mnt";
    let Some(output) = run_apart(&mounts.place, &program, line) else {
        return;
    };
    told(&output, &["fusermount3", "package fuse3", "mnt"]);
    // Without the device's permission that is what is told.
    let line = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 600 /dev/fuse c 10 229 && \
                exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" mount pool mnt";
    told(
        &run_apart(&mounts.place, &program, line).unwrap(),
        &["/dev/fuse", "mount as root"],
    );
    assert_eq!(mounts.line(), None);
}

/// A tree with something of every structure; gives its paths.
fn make_tree(top: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for at in 0..40_u32 {
        let directory = top.join(format!("d{at}"));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("file");
        let bytes = vec![1; 20_000];
        let open = File::create_new(&file).unwrap();
        // Extents of their own.
        for piece in 0..60 {
            open.write_all_at(&bytes[..4096], piece * 8192).unwrap();
        }
        let value = [b'v'; 3000];
        rustix::fs::setxattr(&file, "user.long", &value, XattrFlags::empty()).unwrap();
        symlink("t/".repeat(300), directory.join("link")).unwrap();
        for name in 0..30 {
            File::create_new(directory.join(format!("{name:0100}"))).unwrap();
        }
        paths.extend([file, directory.join("link"), directory]);
    }
    paths
}

/// Does something of everything; gives how much of it failed. Wrong bytes are what no failure may give.
fn use_all(top: &Path, paths: &[PathBuf]) -> usize {
    let mut failures = 0;
    let mut tried = |result: io::Result<()>| failures += usize::from(result.is_err());
    for (at, path) in paths.iter().enumerate() {
        tried(fs::symlink_metadata(path).map(drop));
        tried(fs::read_dir(path).map(|entries| entries.for_each(drop)));
        if let Ok(bytes) = fs::read(path) {
            assert!(bytes.iter().all(|byte| *byte <= 1), "{path:?} has wrong bytes");
        }
        let mut value = [0; 4096];
        match rustix::fs::lgetxattr(path, "user.long", value.as_mut_slice()) {
            Ok(length) => assert!(value[..length].iter().all(|byte| *byte == b'v'), "{path:?}"),
            Err(error) => tried(Err(error.into())),
        }
        tried(fs::read_link(path).map(drop));
        tried(fs::write(path.join("new"), [1; 5000]));
        tried(fs::write(top.join(format!("n{at}")), [1; 5000]));
        tried(fs::rename(path, top.join(format!("r{at}"))));
        tried(fs::remove_file(top.join(format!("r{at}"))));
        tried(fs::remove_dir_all(path));
    }
    tried(File::open(top).and_then(|root| root.sync_all()));
    failures
}

/// Which blocks.
type Choice = fn(Use) -> bool;

/// Blocks and what they are for, while nobody has the pool.
fn map(pool: &Path) -> Vec<(u64, Use)> {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let map = udax_check::map(&Region::open(pool, options).unwrap()).unwrap();
    map.into_iter()
        .flat_map(|(range, used_for)| {
            let blocks = range.start.raw()..range.end().raw();
            blocks.map(move |block| (block, used_for))
        })
        .collect()
}

#[test]
fn a_directory_lists_files_whose_inodes_are_damaged_and_all_others() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount("rw").success();
    let names: BTreeSet<String> = (0..200).map(|number| format!("file-{number}")).collect();
    fs::create_dir(mounts.path("d")).unwrap();
    for name in &names {
        File::create_new(mounts.path("d").join(name)).unwrap();
    }
    let chunk_of = |path: &Path| fs::metadata(path).unwrap().ino() / CHUNK_INODES;
    let own = chunk_of(&mounts.path("d"));
    // Threads have chunks of their own: the files of one that is not the directory's.
    let chunks: Vec<u64> = names
        .iter()
        .map(|name| chunk_of(&mounts.path("d").join(name)))
        .collect();
    let lost = *chunks.iter().find(|chunk| **chunk != own).unwrap();
    let files = chunks.iter().filter(|chunk| **chunk == lost).count();
    mounts.umount().success();
    let pool = mounts.place.path("pool");
    let (block, _) = *map(&pool)
        .iter()
        .find(|(_, used_for)| *used_for == Use::Chunk(lost))
        .unwrap();
    mounts.mount("rw").success();
    let file = File::options().write(true).open(&pool).unwrap();
    file.write_all_at(&[0xa5; BLOCK], block * 4096).unwrap();
    for _ in 0..2 {
        let mut damaged = 0;
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(mounts.path("d")).unwrap() {
            let entry = entry.unwrap();
            listed.insert(entry.file_name().into_string().unwrap());
            damaged += usize::from(entry.metadata().is_err());
        }
        assert_eq!(listed, names);
        assert_eq!(damaged, files);
    }
    mounts.umount().success();
}

#[test]
fn a_pool_that_is_damaged_while_it_is_mounted_gives_errors_and_the_daemon_lives() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount("rw").success();
    let paths = make_tree(&mounts.path(""));
    mounts.umount().success();
    let pool = mounts.place.path("pool");
    let whole = fs::read(&pool).unwrap();
    let map = map(&pool);
    let kinds: [(&str, Choice); 6] = [
        ("the pool's own", |used_for| used_for == Use::Own),
        ("the root's inode", |used_for| used_for == Use::Chunk(0)),
        ("inodes", |used_for| matches!(used_for, Use::Chunk(1..))),
        ("nodes of the pool's trees", |used_for| {
            matches!(used_for, Use::Node(_, InodeNo(0)))
        }),
        ("nodes of files' trees", |used_for| {
            matches!(used_for, Use::Node(_, InodeNo(1..)))
        }),
        ("values and targets", |used_for| {
            matches!(used_for, Use::XattrValue(_) | Use::Target(_))
        }),
    ];
    for (what, is_chosen) in kinds {
        for byte in [0, 0xa5] {
            fs::write(&pool, &whole).unwrap();
            let log = mounts.place.path(format!("log of {what} {byte}"));
            let shown = log.display();
            mounts.mount(&format!("rw,log_file={shown}")).success();
            let file = File::options().write(true).open(&pool).unwrap();
            let mut blocks = 0;
            for (block, _) in map.iter().filter(|(_, used_for)| is_chosen(*used_for)) {
                file.write_all_at(&[byte; BLOCK], block * 4096).unwrap();
                blocks += 1;
            }
            assert!(blocks > 0, "there are no {what}");
            let failures = use_all(&mounts.path(""), &paths);
            assert!(mounts.line().is_some(), "{what} {byte}: the mount is gone");
            let told = fs::read_to_string(&log).unwrap();
            assert!(!told.contains("panic"), "{what} {byte}: {told}");
            // What was verified when the pool was opened is not verified again: of the root, the kernel finds that it
            // is no directory any more. Zeros in the place of inodes are inodes that have never been.
            let is_silent =
                is_chosen(Use::Own) || is_chosen(Use::Chunk(0)) || (is_chosen(Use::Chunk(1)) && byte == 0);
            assert!(
                is_silent || told.contains("ERROR"),
                "{what} {byte}: {failures} failures, and nothing is told"
            );
            assert!(failures > 0, "{what} {byte}");
            eprintln!("{what} {byte}: {blocks} blocks, {failures} failures");
            // Closing may fail, which is told too; the mount goes in any case.
            mounts.umount();
            assert_eq!(mounts.line(), None, "{what} {byte}");
            let told = fs::read_to_string(&log).unwrap();
            assert!(!told.contains("panic"), "{what} {byte}: {told}");
        }
    }
}
