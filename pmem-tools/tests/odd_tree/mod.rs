//! A directory tree with everything odd in it, and a snapshot of a tree that two copies can be compared by.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

/// Depth of the deepest directory.
const DEPTH: usize = 150;

/// Makes the tree in the new directory `top`.
pub(super) fn make(top: &Path) {
    fs::create_dir(top).unwrap();
    make_files(top);
    make_names(top);
    make_links(top);
    make_nodes(top);
    make_xattrs(top);
    // Last: everything above changes times and may need permissions.
    make_modes(top);
    make_times(top);
}

fn make_files(top: &Path) {
    fs::write(top.join("empty"), b"").unwrap();
    fs::write(top.join("one byte"), b"x").unwrap();
    fs::write(top.join("one block"), [7; 4096]).unwrap();
    fs::write(top.join("large"), pattern((5 << 20) + 3)).unwrap();
    fs::create_dir(top.join("empty directory")).unwrap();

    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    sparse.set_len(16 << 20).unwrap();
    let hole = File::create(top.join("only a hole")).unwrap();
    hole.set_len((1 << 20) + 1).unwrap();
}

fn make_names(top: &Path) {
    let directory = top.join("names");
    fs::create_dir(&directory).unwrap();
    let longest = [b'n'; 255];
    for name in [
        b"new\nline".as_slice(),
        b"\xff\xfe not text",
        b"-rf",
        b"back\\slash",
        b" space ",
        b"\x1b[31mred",
        b"colon:",
        "größe".as_bytes(),
        &longest,
    ] {
        fs::write(directory.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut deep = top.join("deep");
    for _ in 0..DEPTH {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"down here").unwrap();
}

fn make_links(top: &Path) {
    let directory = top.join("links");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("first"), b"three names").unwrap();
    fs::hard_link(directory.join("first"), directory.join("second")).unwrap();
    fs::hard_link(directory.join("first"), top.join("third")).unwrap();
    symlink("nowhere/at all", directory.join("dangling")).unwrap();
    symlink("..", directory.join("up")).unwrap();
    symlink("loop", directory.join("loop")).unwrap();
    symlink("t/".repeat(400), directory.join("long target")).unwrap();
    fs::hard_link(directory.join("dangling"), directory.join("dangling too")).unwrap();
}

fn make_nodes(top: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, top.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    drop(UnixListener::bind(short(top).join("socket")).unwrap());
    let null = rustix::fs::makedev(1, 3);
    match rustix::fs::mknodat(CWD, top.join("device"), FileType::CharacterDevice, mode, null) {
        // Only root may, and not in every container.
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => panic!("mknod: {error}"),
    }
}

/// A name of the directory that fits in a socket's address, which has 108 bytes.
fn short(top: &Path) -> PathBuf {
    assert!(
        top.as_os_str().len() < 90,
        "{} is too long for a socket in it",
        top.display()
    );
    top.to_owned()
}

fn make_xattrs(top: &Path) {
    let path = top.join("xattrs");
    fs::write(&path, b"look at my attributes").unwrap();
    set_xattr(&path, "user.text", b"value");
    set_xattr(&path, "user.binary", b"\0\xff\n");
    set_xattr(&path, "user.empty", b"");
    set_xattr(&path, "user.long", &pattern(3000));
    set_xattr(top, "user.on a directory", b"yes");
    // Version 2; owner rw-, user 1234 r--, group r--, mask r--, others ---.
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1234),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    set_xattr(&path, "system.posix_acl_access", &acl);
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        // The test's own filesystem need not have them.
        Ok(()) | Err(Errno::NOTSUP) => {}
        Err(error) => panic!("{}: {name}: {error}", path.display()),
    }
}

fn make_modes(top: &Path) {
    let directory = top.join("modes");
    fs::create_dir(&directory).unwrap();
    for mode in [0o4755, 0o2711, 0o600, 0o444, 0o777] {
        let path = directory.join(format!("{mode:o}"));
        fs::write(&path, format!("{mode:o}")).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(&path, Some(1234), Some(5678)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(directory.join("sticky")).unwrap();
    fs::set_permissions(directory.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2750)).unwrap();
}

fn make_times(top: &Path) {
    let directory = top.join("times");
    fs::create_dir(&directory).unwrap();
    for (name, seconds, nanoseconds) in [
        ("before 1970", -150_000_000, 1),
        ("epoch", 0, 0),
        ("past 2038", 5_000_000_000, 999_999_999),
    ] {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        set_times(&path, seconds, nanoseconds);
    }
    symlink("x", directory.join("link")).unwrap();
    set_times(&directory.join("link"), 1_000_000_000, 5);
    set_times(&directory, 1_234_567_890, 123_456_789);
    set_times(top, 1_111_111_111, 1);
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: seconds + 1,
            tv_nsec: nanoseconds,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn pattern(length: usize) -> Vec<u8> {
    (0_u32..)
        .map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .take(length)
        .collect()
}

/// Everything about one file that a copy must keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    size: u64,
    mtime: (i64, i64),
    /// The least path that names the same file.
    first_name: PathBuf,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Option<Vec<u8>>,
    /// Whether at most half of its bytes are stored.
    is_sparse: bool,
}

/// Everything below `top`, by relative path.
pub(super) fn snapshot(top: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut facts = BTreeMap::new();
    let mut names = HashMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = top.join(&relative);
        let found = fs::symlink_metadata(path.as_os_str()).unwrap();
        if found.is_dir() {
            let mut children: Vec<PathBuf> = fs::read_dir(&path)
                .unwrap()
                .map(|entry| relative.join(entry.unwrap().file_name()))
                .collect();
            children.sort();
            open.extend(children.into_iter().rev());
        }
        let identity = (found.dev(), found.ino());
        let first_name = names.entry(identity).or_insert_with(|| relative.clone()).clone();
        facts.insert(
            relative,
            Facts {
                mode: found.mode(),
                owner: (found.uid(), found.gid()),
                rdev: found.rdev(),
                size: if found.is_dir() { 0 } else { found.size() },
                mtime: (found.mtime(), found.mtime_nsec()),
                first_name,
                target: found.is_symlink().then(|| fs::read_link(&path).unwrap()),
                xattrs: xattrs(&path).unwrap(),
                content: found.is_file().then(|| fs::read(&path).unwrap()),
                is_sparse: found.is_file() && found.size() > 8192 && found.blocks() * 512 <= found.size() / 2,
            },
        );
    }
    facts
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    names
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
            value.truncate(length);
            Ok((name.to_vec(), value))
        })
        .collect()
}

/// Fails unless the files in `times` still have their access times. To be called before anything reads the
/// copy.
pub(super) fn assert_access_times(copy: &Path) {
    for (name, seconds, nanoseconds) in [
        ("before 1970", -149_999_999, 1),
        ("past 2038", 5_000_000_001, 999_999_999),
    ] {
        let found = fs::symlink_metadata(copy.join("times").join(name)).unwrap();
        assert_eq!(
            (found.atime(), found.atime_nsec()),
            (seconds, nanoseconds),
            "{name}"
        );
    }
}

/// Fails with the first file that differs.
pub(super) fn assert_same(wanted: &BTreeMap<PathBuf, Facts>, found: &BTreeMap<PathBuf, Facts>) {
    for (path, wanted) in wanted {
        let Some(found) = found.get(path) else {
            panic!("{path:?} is missing");
        };
        if wanted != found {
            let (mut wanted, mut found) = (wanted.clone(), found.clone());
            if wanted.content == found.content {
                (wanted.content, found.content) = (None, None);
            }
            panic!("{path:?}\nwanted {wanted:?}\nfound  {found:?}");
        }
    }
    for path in found.keys() {
        assert!(wanted.contains_key(path), "{path:?} should not be there");
    }
}
