//! Requests that no kernel sends: numbers of nodes and handles that were never given, names that are none, offsets,
//! modes and flags beyond everything. Each gives an error number or does what it says; none ends in a panic, and the
//! pool stays sound. (Requests whose bytes are no request the protocol library refuses before it comes to us.)

use std::time::{Duration, SystemTime};

use fuser::{FileHandle, INodeNo, RenameFlags, TimeOrNow, WriteFlags};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use udax::{Filesystem, FormatOptions, MountOptions};
use udax_check::{CheckOptions, Silent};
use udax_pmem::{Region, RegionOptions};
use udax_sync::OnceLock;

use crate::acl;
use crate::attributes::Wanted;
use crate::data::Side;
use crate::directories::Room;
use crate::names::Place;
use crate::options::Options;
use crate::refusal::Result;
use crate::server::{Caller, Server};

const REQUESTS: u32 = 100_000;
const SEED: u64 = 20_261_121;
/// Bytes of one write: what the kernel's largest request may have is 1 MiB.
const WRITE_BYTES: usize = 70_000;
const ROOT: INodeNo = INodeNo(1);
const ESTALE: i32 = rustix::io::Errno::STALE.raw_os_error();
const EBADF: i32 = rustix::io::Errno::BADF.raw_os_error();

const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b"",
    b".",
    b"..",
    b"/",
    b"a/b",
    b"nul\0inside",
    b"\xff\xfe",
    &[b'n'; 255],
    &[b'n'; 256],
];
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    3,
    4095,
    4096,
    1 << 20,
    1 << 44,
    (1 << 63) - 4096,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

struct Kernel {
    directory: tempfile::TempDir,
    server: Server,
    nodes: Vec<INodeNo>,
    handles: Vec<FileHandle>,
    choices: SmallRng,
}

impl Kernel {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = directory.path().join("pool");
        let format = FormatOptions {
            size: Some(32 << 20),
            ..FormatOptions::default()
        };
        Filesystem::format(&pool, &format).expect("a pool");
        let filesystem = Filesystem::open(&pool, &MountOptions::default()).expect("a pool");
        let invalidator = std::sync::Arc::new(OnceLock::new());
        let server = Server::new(filesystem, &Options::default(), invalidator).expect("a root");
        Self {
            directory,
            server,
            nodes: vec![ROOT],
            handles: Vec::new(),
            choices: SmallRng::seed_from_u64(SEED),
        }
    }

    /// The pool is sound when all are gone.
    fn finish(self) {
        self.server.close_all();
        let filesystem = self.server.filesystem.clone();
        drop(self.server);
        filesystem.close().expect("closed");
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = Region::open(&self.directory.path().join("pool"), options).expect("a pool");
        let report = udax_check::check(&region, &CheckOptions::default(), &Silent).expect("checked");
        assert!(report.was_clean);
        assert_eq!(report.problems, [], "seed {SEED}");
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        *values.choose(&mut self.choices).expect("there is one")
    }

    fn number(&mut self) -> u64 {
        match self.choices.random_range(0..3) {
            0 => self.one_of(&NUMBERS),
            1 => self.choices.random(),
            _ => self.choices.random_range(0..100_000),
        }
    }

    fn node(&mut self) -> INodeNo {
        let known = self.nodes.clone();
        match self.choices.random_range(0..8) {
            0 => INodeNo(self.number()),
            _ => self.one_of(&known),
        }
    }

    fn handle(&mut self) -> FileHandle {
        let known = self.handles.clone();
        match self.choices.random_range(0..8) {
            1.. if !known.is_empty() => self.one_of(&known),
            _ => FileHandle(self.number()),
        }
    }

    fn name(&mut self) -> &'static [u8] {
        self.one_of(&NAMES)
    }

    fn word(&mut self) -> u32 {
        match self.choices.random_range(0..2) {
            0 => self.choices.random(),
            _ => 1 << self.choices.random_range(0..32),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.choices.random_range(0..WRITE_BYTES);
        vec![self.choices.random(); len]
    }

    fn caller(&mut self) -> Caller {
        Caller {
            uid: self.one_of(&[0, 1000, u32::MAX]),
            gid: self.one_of(&[0, 1000, u32::MAX]),
            pid: self.word(),
        }
    }

    fn time(&mut self) -> Option<TimeOrNow> {
        let distance = Duration::from_secs(self.number() >> 1);
        match self.choices.random_range(0..4) {
            0 => None,
            1 => Some(TimeOrNow::Now),
            2 => SystemTime::UNIX_EPOCH
                .checked_add(distance)
                .map(TimeOrNow::SpecificTime),
            _ => SystemTime::UNIX_EPOCH
                .checked_sub(distance)
                .map(TimeOrNow::SpecificTime),
        }
    }

    /// One request; whether it was done.
    fn send(&mut self) -> bool {
        match self.choices.random_range(0..4) {
            0 => self.send_about_names(),
            1 => self.send_about_inodes(),
            2 => self.send_about_handles(),
            _ => self.send_about_content(),
        }
        .is_ok()
    }

    fn send_about_names(&mut self) -> Result<()> {
        let caller = self.caller();
        let place = Place {
            directory: self.node(),
            name: self.name(),
        };
        let other = Place {
            directory: self.node(),
            name: self.name(),
        };
        let mode = (self.word(), self.word());
        let known = match self.choices.random_range(0..9) {
            0 => self.server.lookup(place.directory, place.name)?,
            1 => Some(self.server.make_node(caller, place, mode, mode.1)?),
            2 => Some(self.server.make_directory(caller, place, mode)?),
            3 => {
                let target = self.bytes();
                Some(self.server.make_link(caller, place, &target)?)
            }
            4 => Some(self.server.link(other.directory, place)?),
            5 => return self.server.unlink(place),
            6 => return self.server.remove_directory(place),
            7 => {
                let flags = self.choices.random_range(0..9);
                return self
                    .server
                    .rename(place, other, RenameFlags::from_bits_retain(flags));
            }
            _ => {
                let flags = self.word().cast_signed();
                let (entry, handle) = self.server.create(caller, place, mode, flags)?;
                self.handles.push(handle);
                Some(entry)
            }
        };
        self.nodes.extend(known.map(|entry| entry.attributes.ino));
        Ok(())
    }

    fn send_about_inodes(&mut self) -> Result<()> {
        let (caller, ino) = (self.caller(), self.node());
        let name = self.one_of(&[
            acl::ACCESS,
            acl::DEFAULT,
            b"user.a",
            b"trusted.b",
            b"",
            b"none",
            &[b'u'; 300],
        ]);
        match self.choices.random_range(0..8) {
            0 => self.server.stat(ino).map(drop),
            1 => {
                let wanted = Wanted {
                    mode: Some(self.word()),
                    uid: Some(self.word()),
                    gid: Some(self.word()),
                    size: Some(self.number()).filter(|size| size % 2 == 0),
                    atime: self.time(),
                    mtime: self.time(),
                };
                self.server.set_attributes(caller, ino, wanted).map(drop)
            }
            2 => self.server.read_link(ino).map(drop),
            3 => self.server.xattr(ino, name).map(drop),
            4 => {
                let (value, flags) = (self.bytes(), self.one_of(&[0, 1, 2, 3, -1, i32::MIN]));
                self.server.set_xattr(caller, ino, (name, &value), flags)
            }
            5 => self.server.list_xattrs(caller, ino).map(drop),
            6 => self.server.remove_xattr(ino, name),
            _ => {
                // The kernel may take back more lookups than it was given; the root it never forgets.
                let lookups = self.number();
                let ino = self.one_of(&[ino, INodeNo(lookups)]);
                // Seldom: most requests should know what they are about.
                if ino != ROOT && self.choices.random_ratio(1, 20) {
                    self.server.nodes.forget(ino.0, lookups);
                }
                Ok(())
            }
        }
    }

    fn send_about_handles(&mut self) -> Result<()> {
        let (ino, handle, offset) = (self.node(), self.handle(), self.number());
        match self.choices.random_range(0..6) {
            0 => {
                let flags = fuser::OpenFlags(self.word().cast_signed());
                self.handles.push(self.server.open(ino, flags)?);
                Ok(())
            }
            1 => {
                self.handles.push(self.server.open_directory(ino)?);
                Ok(())
            }
            2 => {
                self.server.release(ino, handle);
                Ok(())
            }
            3 => self.server.list(handle, offset, |_| Ok(Room::Left)),
            4 => self
                .server
                .list_with_attributes((ino, handle), offset, |_, _| Room::Left),
            _ => {
                let (command, room) = (self.word(), self.word());
                let command = self.one_of(&[command, 0x801c_581f, 0x401c_5820, 0x8008_6601, 0x4008_6602]);
                let input = self.bytes();
                let input = input.get(..self.choices.random_range(0..40)).unwrap_or_default();
                self.server.control((ino, handle), command, input, room).map(drop)
            }
        }
    }

    fn send_about_content(&mut self) -> Result<()> {
        let (caller, ino, handle) = (self.caller(), self.node(), self.handle());
        let (offset, len) = (self.number(), self.number());
        match self.choices.random_range(0..6) {
            0 => {
                let (size, mut result) = (self.word(), Ok(()));
                self.server
                    .read(handle, (offset, size), |read| result = read.map(drop));
                result
            }
            1 => {
                let (bytes, flags) = (self.bytes(), WriteFlags::from_bits_retain(self.word()));
                self.server.write(ino, handle, (offset, &bytes), flags).map(drop)
            }
            2 => {
                let mode = self.choices.random_range(-1..0x81);
                self.server.allocate(caller, (ino, handle), mode, (offset, len))
            }
            3 => {
                let whence = self.choices.random_range(-1..7);
                self.server.seek(handle, offset.cast_signed(), whence).map(drop)
            }
            4 => {
                let from = Side { ino, handle, offset };
                let to = Side {
                    ino: self.node(),
                    handle: self.handle(),
                    offset: self.number(),
                };
                self.server.copy(caller, from, to, len).map(drop)
            }
            _ => self.server.sync(handle),
        }
    }
}

#[test]
fn requests_that_no_kernel_sends_are_refused_or_done() {
    let mut kernel = Kernel::new();
    let mut done = 0;
    for _ in 0..REQUESTS {
        done += u32::from(kernel.send());
    }
    eprintln!("{done} of {REQUESTS} were done; seed {SEED}");
    // Neither all nor nothing: else the requests would not be what they should be.
    assert!((REQUESTS / 20..REQUESTS).contains(&done), "{done} were done");
    kernel.finish();
}

#[test]
fn numbers_that_were_never_given_are_stale_or_no_handle() {
    let kernel = Kernel::new();
    let server = &kernel.server;
    for number in NUMBERS.into_iter().filter(|number| *number != ROOT.0) {
        let ino = INodeNo(number);
        assert_eq!(server.stat(ino).expect_err("unknown").0.code(), ESTALE);
        let place = Place {
            directory: ino,
            name: b"a",
        };
        assert_eq!(server.unlink(place).expect_err("unknown").0.code(), ESTALE);
        let handle = FileHandle(number);
        assert_eq!(server.sync(handle).expect_err("unknown").0.code(), EBADF);
        server.release(ino, handle);
        server.nodes.forget(number, u64::MAX);
    }
    for name in [
        b"".as_slice(),
        b"/",
        b"a/b",
        b"nul\0inside",
        b".",
        b"..",
        &[b'n'; 256],
    ] {
        let place = Place {
            directory: ROOT,
            name,
        };
        let caller = Caller {
            uid: 0,
            gid: 0,
            pid: 1,
        };
        assert!(
            server.make_directory(caller, place, (0o755, 0)).is_err(),
            "{name:?}"
        );
    }
    assert!(server.stat(ROOT).is_ok());
    kernel.finish();
}
