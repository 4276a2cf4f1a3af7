//! The kernel's list of mounts (proc(5), `/proc/PID/mountinfo`).

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mount, as the kernel tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// Where it is.
    pub directory: PathBuf,
    /// `major:minor`.
    pub device: String,
    /// Its type: `fuse.udax` for a pool.
    pub kind: Vec<u8>,
    /// What is mounted: the pool's file or device.
    pub source: PathBuf,
    /// It was mounted read-only.
    pub is_read_only: bool,
    /// Who has mounted it, where the kernel tells (FUSE).
    pub user: Option<u32>,
}

impl Mounted {
    /// The topmost mount on `directory`, a path without links.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn find(directory: &Path) -> io::Result<Option<Self>> {
        Ok(Self::all(directory)?.pop())
    }

    /// What is mounted where files have this number (`st_dev`).
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn of_device(number: u64) -> io::Result<Option<Self>> {
        let mut mounts = Self::list()?;
        mounts.retain(|mount| mount.device_number() == Some(number));
        Ok(mounts.pop())
    }

    /// The latest mount of `pool`, a path without links.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn of_pool(pool: &Path) -> io::Result<Option<Self>> {
        let is_it = |mount: &Self| mount.source.canonicalize().is_ok_and(|source| source == pool);
        let mut mounts = Self::list()?;
        mounts.retain(|mount| mount.is_pool() && is_it(mount));
        Ok(mounts.pop())
    }

    /// All that is mounted in `directory`, a path without links, or below it: what is in others last.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn below(directory: &Path) -> io::Result<Vec<Self>> {
        let mut mounts = Self::list()?;
        mounts.retain(|mount| mount.directory.starts_with(directory));
        Ok(mounts)
    }

    /// All that is mounted on `directory`, the topmost last.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut mounts = Self::list()?;
        mounts.retain(|mount| mount.directory == directory);
        Ok(mounts)
    }

    /// Where the same filesystem is mounted now, the latest last: where it was moved to, and what is bound to it.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn everywhere(&self) -> io::Result<Vec<Self>> {
        let mut mounts = Self::list()?;
        mounts.retain(|mount| self.is_same(mount));
        Ok(mounts)
    }

    /// The pool that is mounted on the directory or on one above it, the innermost; none if that is no pool.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn around(path: &Path) -> io::Result<Option<Self>> {
        let mounts = Self::list()?.into_iter();
        let above = mounts.filter(|mount| path.starts_with(&mount.directory));
        let innermost = above.max_by_key(|mount| mount.directory.as_os_str().len());
        Ok(innermost.filter(Self::is_pool))
    }

    fn list() -> io::Result<Vec<Self>> {
        let list = std::fs::read("/proc/self/mountinfo")?;
        Ok(parse(&list).collect())
    }

    /// Its device as `st_dev` of its files has it.
    pub fn device_number(&self) -> Option<u64> {
        let (major, minor) = self.device.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether both are mounts of the same filesystem. One that is moved or remounted stays what it is; the number of
    /// its device may be another one's when it is gone.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.device, &self.kind, &self.source) == (&other.device, &other.kind, &other.source)
    }

    /// Whether it is a pool.
    pub fn is_pool(&self) -> bool {
        self.kind == b"fuse.udax"
    }
}

fn parse(list: &[u8]) -> impl Iterator<Item = Mounted> {
    list.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let directory = path(fields.nth(1)?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let kind = unescaped(fields.next()?);
        let source = path(fields.next()?);
        let options = fields.next()?.split(|byte| *byte == b',');
        let user = options
            .clone()
            .find_map(|option| option.strip_prefix(b"user_id="));
        Some(Mounted {
            directory,
            device,
            kind,
            source,
            is_read_only: options.clone().any(|option| option == b"ro"),
            user: user.and_then(|user| std::str::from_utf8(user).ok()?.parse().ok()),
        })
    })
}

fn path(field: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(unescaped(field)).into()
}

/// A field without the kernel's octal escapes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escape = after
            .first_chunk::<3>()
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escape {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_is_found_with_odd_names() {
        let list = b"22 1 0:20 / / rw - ext4 /dev/sda rw\n\
            30 22 0:30 / /a\\040b rw,nosuid shared:1 master:2 - fuse.udax /pool\\134one rw\n\
            31 30 0:31 / /a\\040b rw - tmpfs none rw\n\
            32 22 0:33 / /c rw shared:5 - fuse.udax /pool\\134one ro,user_id=0\n";
        let all = |path| parse(list).filter(move |mount| mount.directory == Path::new(path));
        let found = |path| all(path).last();
        assert_eq!(all("/a b").count(), 2);
        let other = found("/a b").expect("it is listed");
        assert!(!other.is_pool() && !other.is_read_only);
        let pool = found("/c").expect("it is listed");
        assert!(pool.is_pool() && pool.is_read_only);
        assert_eq!((pool.user, other.user), (Some(0), None));
        assert_eq!(pool.source, Path::new("/pool\\one"));
        assert_eq!(pool.device, "0:33");
        assert_eq!(pool.device_number(), Some(33));
        assert_eq!(found("/a"), None);
        assert_eq!(unescaped(b"/pool\\134one\\"), b"/pool\\one\\");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_list_of_mounts(list in "([0-9:/a -]|\\\\[0-9+]{0,4}|\n| - ){0,60}") {
            for mount in parse(list.as_bytes()) {
                let _ = (mount.device_number(), mount.is_pool());
            }
        }

        #[test]
        fn any_name_is_what_it_was_before_the_kernel_escaped_it(name in proptest::collection::vec(1..=u8::MAX, 0..20)) {
            let escaped = name.iter().flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            });
            let line = [b"30 22 0:30 / /".to_vec(), escaped.collect(), b" rw - fuse.udax p rw".to_vec()].concat();
            let found: Vec<_> = parse(&line).map(|mount| mount.directory).collect();
            let expected = [b"/".to_vec(), name].concat();
            assert_eq!(found, [PathBuf::from(std::ffi::OsString::from_vec(expected))]);
        }
    }
}
