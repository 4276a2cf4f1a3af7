//! A power failure while an open notes in the superblock where the pool's data device is now: at every event of it the
//! pool knows the old place or the new one, and all else is as it was.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use udax::{DataSource, Dax, DaxMode, File, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};
use udax_crash::{Cut, Domain, Image, Medium, Pick};
use udax_pmem::{Region, RegionOptions, Traced};
use udax_test_crash::judge::check;

const POOL: u64 = 16 << 20;
const DEVICE: u64 = 4 << 20;

/// Images of each moment, where there are more.
const CUTS: usize = 12;

/// Of so many moments one is opened again with a power failure in that, too.
const AGAIN: usize = 7;

/// How the pool was left before its device was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Closed,
    /// With records to be replayed.
    Killed,
}

/// A pool whose data device has been moved: it has two names, of which the pool knows the old one.
struct Moved {
    _directory: tempfile::TempDir,
    image: Image,
    old: PathBuf,
    new: PathBuf,
    left: Left,
}

fn options(device: Option<&Path>) -> MountOptions {
    MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        no_atime: true,
        data: device.map(|path| DataSource::Path(path.to_owned())),
        ..MountOptions::default()
    }
}

fn open(filesystem: &Filesystem, path: &str, flags: OpenFlags) -> File {
    let new = NewInode::with_permissions(0o600);
    filesystem.open_file(path, flags, new).unwrap()
}

/// What `/pool` and `/device` hold, of which the pool has one, and the device the other.
fn bytes(path: &str) -> Vec<u8> {
    let words = (0..2_500_u64).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words
        .flat_map(u64::to_le_bytes)
        .map(|byte| byte ^ path.as_bytes()[1])
        .collect()
}

impl Moved {
    fn new(left: Left) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let [pool, old, new] = ["pool", "old", "new"].map(|name| directory.path().join(name));
        let device = std::fs::File::create(&old).unwrap();
        device.set_len(DEVICE).unwrap();
        std::fs::hard_link(&old, &new).unwrap();
        let format = FormatOptions {
            size: Some(POOL),
            data: Some(DataSource::Path(old.clone())),
            ..FormatOptions::default()
        };
        Filesystem::format(&pool, &format).unwrap();
        let filesystem = Filesystem::open(&pool, &options(None)).unwrap();
        let create = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        for (path, dax) in [("/pool", Dax::On), ("/device", Dax::Off)] {
            let file = open(&filesystem, path, create);
            file.set_dax(dax).unwrap();
            file.write_at(&bytes(path), 0).unwrap();
        }
        filesystem.sync().unwrap();
        drop(open(&filesystem, "/late", create));
        let killed = directory.path().join("killed");
        std::fs::copy(&pool, &killed).unwrap();
        filesystem.close().unwrap();
        let from = match left {
            Left::Closed => &pool,
            Left::Killed => &killed,
        };
        let image = Image::of(&Region::open(from, RegionOptions::default()).unwrap()).unwrap();
        Self {
            _directory: directory,
            image,
            old,
            new,
            left,
        }
    }

    /// What an open stores that is told the new path.
    fn events(&self, image: &Image) -> Vec<Traced> {
        let (region, trace) = image.recorded().unwrap();
        let filesystem = Filesystem::open_region(region, &options(Some(&self.new))).unwrap();
        let events = trace.since(0);
        filesystem.close().unwrap();
        events
    }

    /// Whether the pool knows the new place; all else is asserted.
    fn knows(&self, image: &Image, of: &str) -> bool {
        let region = image.region().unwrap();
        check(&region).unwrap_or_else(|problems| panic!("{of}: {problems}"));
        // Where the device is, the pool must know.
        let filesystem = Filesystem::open_region(region, &options(None)).unwrap();
        let device = filesystem.superblock().device.unwrap();
        let is_new = device.path == self.new.as_os_str().as_bytes();
        assert!(is_new || device.path == self.old.as_os_str().as_bytes(), "{of}");
        for path in ["/pool", "/device"] {
            let expected = bytes(path);
            let mut found = vec![0; expected.len() + 1];
            let count = open(&filesystem, path, OpenFlags::READ).read_at(&mut found, 0);
            assert_eq!(count.unwrap(), expected.len(), "{of}: {path}");
            assert!(found.starts_with(&expected), "{of}: {path}");
        }
        assert_eq!(filesystem.stat("/late").unwrap().size, 0, "{of}");
        assert_eq!(filesystem.damage(), None, "{of}");
        filesystem.close().unwrap();
        is_new
    }

    /// Cuts power before each event of an open and after the last; how many images knew the old place, and the new.
    fn cut_everywhere(&self, domain: Domain) -> [usize; 2] {
        let events = self.events(&self.image);
        let mut medium = Medium::new(domain, self.image.clone());
        let mut seen = [0; 2];
        for index in 0..=events.len() {
            for cut in medium.cuts(CUTS, 1) {
                let of = format!("{:?}, {domain:?}, after event {index}, {cut}", self.left);
                let knows = self.knows(&medium.image(&cut), &of);
                seen[usize::from(knows)] += 1;
            }
            if index.is_multiple_of(AGAIN) {
                self.cut_again(&medium.image(&Cut::now(Pick::Random(3))), domain);
            }
            if let Some(event) = events.get(index) {
                medium.step(event);
            }
        }
        let durable = medium.image(&Cut::now(Pick::Least));
        assert!(self.knows(&durable, "after the open"), "it is durable");
        seen
    }

    /// Power fails again while the pool is opened after a failure.
    fn cut_again(&self, image: &Image, domain: Domain) {
        let mut medium = Medium::new(domain, image.clone());
        for (index, event) in self.events(image).iter().enumerate() {
            let of = format!("{:?}, {domain:?}, again after event {index}", self.left);
            self.knows(&medium.image(&Cut::now(Pick::Random(4))), &of);
            medium.step(event);
        }
    }
}

fn each_cut_leaves_one_place_or_the_other(left: Left) {
    let moved = Moved::new(left);
    for domain in Domain::ALL {
        let seen = moved.cut_everywhere(domain);
        assert!(seen.iter().all(|count| *count > 0), "{domain:?}: {seen:?}");
    }
}

#[test]
fn power_that_fails_while_the_place_of_a_device_is_noted_leaves_one_or_the_other() {
    each_cut_leaves_one_place_or_the_other(Left::Closed);
}

#[test]
fn so_does_power_that_fails_when_there_was_a_replay_before() {
    each_cut_leaves_one_place_or_the_other(Left::Killed);
}
