//! Small pools with something of every structure in them, made once.
//!
//! A pool lives through four phases. After each of the first three everything is complete in place: those are the
//! older versions that a damage puts back. The last phase leaves records in two lanes. One such pool, with checksums of
//! data, is seen three ways; another one, with a data device, once.

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use udax::{
    AllocateMode, Checksums, DataSource, Dax, File, FileKind, Filesystem, FormatOptions, MountOptions,
    NewInode, OpenFlags, Owner, RenameMode, SetAttributes, XattrMode,
};
use udax_check::{CheckOptions, Silent};
use udax_disk::{Disk, MemoryMedium};
use udax_media::device::DeviceHeader;
use udax_media::geometry::SUPERBLOCKS;
use udax_media::{BLOCK_BYTES, Superblock};
use udax_pmem::{Region, RegionOptions};

use crate::image::{Image, Scratch};
use crate::shadow::Shadow;
use crate::tree::{Allowance, State, Tree, compare};

/// The identity of all samples.
pub const UUID: uuid::Uuid = uuid::Uuid::from_u128(0x6461_6d61_6765);
/// That of their data devices.
const DEVICE_UUID: uuid::Uuid = uuid::Uuid::from_u128(0x6469_736b);
const POOL_BYTES: usize = 20 << 20;
const DEVICE_BYTES: u64 = 2 << 20;
/// What the pool is made with: it grows by the rest, so that it has two segments.
const FIRST_BYTES: u64 = 16 << 20;
/// Blocks that the medium has lost before the pool is used: those that the allocator meets are listed as bad.
const LOST: std::ops::Range<u64> = 320..1200;
const LOST_EVERY: usize = 40;
const CREATE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::CREATE);
const NEW: NewInode = NewInode {
    permissions: 0o644,
    owner: Owner { uid: 7, gid: 8 },
};
/// Files in the directory of several leaves.
const MANY: usize = 120;
/// Islands of the file whose extents take several leaves.
const ISLANDS: u64 = 300;

/// How a pool was left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ending {
    /// Closed.
    Clean,
    /// The process died: all stores are there, and records that no checkpoint has passed.
    Killed,
    /// Power failed: records are there, and nothing that was stored in place since the checkpoint.
    Cut,
    /// Power failed, in a pool with a data device (and without checksums of data).
    Tiered,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Clean, Self::Killed, Self::Cut, Self::Tiered];

    /// Its name in a case's text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Killed => "killed",
            Self::Cut => "cut",
            Self::Tiered => "tiered",
        }
    }
}

/// A pool to damage.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How it was left.
    pub ending: Ending,
    /// Its bytes.
    pub image: Image,
    /// What its data device holds, if it has one.
    pub device: Option<Arc<MemoryMedium>>,
    /// Its files.
    pub tree: Tree,
    /// Its files after each operation since the checkpoint, the last state included; of a clean pool one.
    pub states: Vec<Tree>,
    /// The same pool earlier, each time complete in place; the latest last.
    pub older: Arc<Vec<Image>>,
}

/// Makes all samples.
///
/// # Errors
/// When a pool cannot be made, or is not what it should be.
pub fn make() -> anyhow::Result<Vec<Sample>> {
    let scratch = Scratch::new("sample")?;
    let plain = Life::live(Kind::Summed)?;
    let clean = Life {
        states: plain.states.last().cloned().into_iter().collect(),
        ..plain.clone()
    };
    let closed = closed(&scratch, &plain.killed)?;
    let killed = plain.killed.clone();
    let cut = plain.cut.clone();
    let tiered = Life::live(Kind::Tiered)?;
    let tiered_cut = tiered.cut.clone();
    let samples = vec![
        clean.left(Ending::Clean, closed),
        plain.clone().left(Ending::Killed, killed),
        plain.left(Ending::Cut, cut),
        tiered.left(Ending::Tiered, tiered_cut),
    ];
    for sample in &samples {
        sample
            .verify(&scratch)
            .with_context(|| format!("the sample {}", sample.ending.name()))?;
    }
    Ok(samples)
}

/// What a pool has beside the usual: not both, so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Checksums of data.
    Summed,
    /// A data device.
    Tiered,
}

/// What a pool's life leaves.
#[derive(Clone)]
struct Life {
    /// All that was stored.
    killed: Image,
    /// What of that was durable.
    cut: Image,
    device: Option<Arc<MemoryMedium>>,
    states: Vec<Tree>,
    older: Arc<Vec<Image>>,
}

impl Life {
    fn live(kind: Kind) -> anyhow::Result<Self> {
        let shadow = Arc::new(Shadow::new(POOL_BYTES));
        let len = u64::try_from(POOL_BYTES)?;
        let region = Region::anonymous(len, Some(shadow.clone()))?;
        let medium = (kind == Kind::Tiered).then(|| Arc::new(MemoryMedium::new(DEVICE_BYTES)));
        let disk = medium.clone().map(|medium| Arc::new(Disk::new(medium)));
        format(&region, disk.as_ref())?;
        for block in LOST.step_by(LOST_EVERY) {
            region.poison(block * BLOCK_BYTES, BLOCK_BYTES)?;
        }
        let options = MountOptions {
            no_atime: true,
            data: disk.map(DataSource::Disk),
            ..MountOptions::default()
        };
        let fs = Filesystem::open_region(region, &options)?;
        let mut older = Vec::new();
        for phase in [fill, change, change_more] {
            phase(&fs, kind)?;
            fs.sync()?;
            older.push(Image::new(shadow.current()));
        }
        let before = Tree::read(&fs);
        let mut states = vec![before];
        let orphan = fs.open_file("/doomed", CREATE, NEW)?;
        orphan.append(&[0xdd; 20_000])?;
        states.push(Tree::read(&fs));
        fs.unlink("/doomed")?;
        states.push(Tree::read(&fs));
        last_phase(&fs, kind, &mut states)?;
        let (killed, cut) = (Image::new(shadow.current()), Image::new(shadow.durable()));
        // All of it was flushed.
        let device = medium.map(|medium| Arc::new(medium.after_power_failure(|_| false)));
        drop(orphan);
        fs.close()?;
        Ok(Self {
            killed,
            cut,
            device,
            states,
            older: Arc::new(older),
        })
    }

    fn left(self, ending: Ending, image: Image) -> Sample {
        Sample {
            ending,
            image,
            device: self.device,
            tree: self.states.last().cloned().unwrap_or_default(),
            states: self.states,
            older: self.older,
        }
    }
}

impl Sample {
    /// It is sound, and holds what it should.
    fn verify(&self, scratch: &Scratch) -> anyhow::Result<()> {
        scratch.load(&self.image, self.device.as_deref())?;
        let region = Region::open(scratch.path(), RegionOptions::default())?;
        let report = udax_check::check(
            &region,
            &CheckOptions {
                repair: false,
                threads: 1,
                ..CheckOptions::default()
            },
            &Silent,
        )?;
        anyhow::ensure!(report.problems.is_empty(), "{:#?}", report.problems);
        anyhow::ensure!(report.orphans == 1, "{} orphans", report.orphans);
        anyhow::ensure!(report.bad_blocks > 0, "no bad block is listed");
        let superblock = Superblock::decode(self.image.block(0), 0, region.len())?;
        anyhow::ensure!(superblock.segments.len() == 2, "the pool has not grown");
        drop(region);
        let fs = scratch.open(MountOptions::default())?;
        if superblock.device.is_some() {
            let all = fs.stat_filesystem();
            anyhow::ensure!(
                all.device_free_blocks + 2 < all.device_blocks,
                "nothing is on the device"
            );
        }
        let found = Tree::read(&fs);
        fs.close()?;
        let same =
            compare(&self.tree, &found, &Allowance::default(), State::Sound).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(same, "what is read is not what was written");
        Ok(())
    }
}

/// A new pool whose directories have their names in the same order each time.
fn format(region: &Region, disk: Option<&Arc<Disk>>) -> anyhow::Result<()> {
    let options = FormatOptions {
        size: Some(FIRST_BYTES),
        label: "damage".to_owned(),
        uuid: Some(UUID),
        data_checksums: disk.is_none(),
        data: disk.map(|disk| DataSource::Disk(Arc::clone(disk))),
        ..FormatOptions::default()
    };
    let mut superblock = Filesystem::format_region(region, &options)?;
    superblock.hash_key = *b"a key that stays";
    if let (Some(device), Some(disk)) = (&mut superblock.device, disk) {
        device.uuid = DEVICE_UUID;
        let header = DeviceHeader {
            pool: UUID,
            device: DEVICE_UUID,
            blocks: device.blocks,
        };
        disk.write(0, header.encode(0).as_slice())?;
        disk.write((device.blocks - 1) * BLOCK_BYTES, header.encode(1).as_slice())?;
        disk.flush()?;
    }
    for block in SUPERBLOCKS {
        region.store_nontemporal(block.offset().raw(), superblock.encode().as_slice())?;
    }
    Ok(())
}

/// The pool `killed`, closed without being mounted: a mount would finish its orphan.
fn closed(scratch: &Scratch, killed: &Image) -> anyhow::Result<Image> {
    scratch.load(killed, None)?;
    let region = Region::open(scratch.path(), RegionOptions::default())?;
    let report = udax_check::check(
        &region,
        &CheckOptions {
            repair: true,
            threads: 1,
            ..CheckOptions::default()
        },
        &Silent,
    )?;
    anyhow::ensure!(report.problems.is_empty(), "{:#?}", report.problems);
    let mut bytes = vec![0; POOL_BYTES];
    region.read(0, &mut bytes)?;
    Ok(Image::new(bytes))
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..=250_u8)
        .map(|byte| byte ^ seed | 1)
        .cycle()
        .take(len)
        .collect()
}

fn name(number: usize) -> String {
    format!("/d/{number:0>40}")
}

fn open(fs: &Filesystem, path: &str) -> udax::Result<File> {
    fs.open_file(path, CREATE, NEW)
}

fn fill(fs: &Filesystem, kind: Kind) -> anyhow::Result<()> {
    let sums = match kind {
        Kind::Summed => Checksums::On,
        Kind::Tiered => Checksums::Off,
    };
    // Data with checksums and data without.
    fs.set_checksums("/", Checksums::Off)?;
    if kind == Kind::Tiered {
        fs.create_dir("/cached", NEW)?;
        fs.set_dax("/", Dax::On)?;
        fill_device(fs)?;
    }
    for directory in ["/d", "/d/sub", "/d/sub/deep", "/empty"] {
        fs.create_dir(directory, NEW)?;
    }
    fs.set_checksums("/d", sums)?;
    for number in 0..MANY {
        let file = open(fs, &name(number))?;
        if number % 10 == 0 {
            file.append(&pattern(u8::try_from(number)?, 5000))?;
        }
    }
    let islands = open(fs, "/islands")?;
    for at in 0..ISLANDS {
        islands.write_at(&pattern(u8::try_from(at % 256)?, 4096), at * 8192)?;
    }
    let inline = open(fs, "/inline")?;
    inline.append(&pattern(3, 10_000))?;
    inline.allocate(AllocateMode::Allocate, 20_480, 8192)?;
    inline.set_xattr(b"user.huge", &pattern(9, 9000), XattrMode::Create)?;
    let many = open(fs, "/attributes")?;
    for number in 0..40_u8 {
        let name = format!("user.number {number}");
        many.set_xattr(name.as_bytes(), &pattern(number, 150), XattrMode::Create)?;
    }
    many.set_xattr(b"user.large", &pattern(8, 6000), XattrMode::Create)?;
    fs.symlink(b"d/sub", "/short", NEW)?;
    fs.symlink(&pattern(b'y', 500), "/long", NEW)?;
    fs.make_node("/fifo", FileKind::Fifo, 0, NEW)?;
    fs.make_node("/device", FileKind::CharDevice, 0x103, NEW)?;
    fs.link("/inline", "/d/hard")?;
    let origin = open(fs, "/origin")?;
    origin.set_checksums(sums)?;
    origin.append(&pattern(5, 40_960))?;
    for (copy, from, len) in [("/copy", 0, 40_960), ("/part", 8192, 8192)] {
        origin.clone_range(from, &open(fs, copy)?, 0, len)?;
    }
    Ok(())
}

/// Files whose data is on the device: in one piece, in many, and shared.
fn fill_device(fs: &Filesystem) -> anyhow::Result<()> {
    open(fs, "/cached/whole")?.append(&pattern(21, 50_000))?;
    let islands = open(fs, "/cached/islands")?;
    for at in 0..20 {
        islands.write_at(&pattern(u8::try_from(at)?, 4096), at * 8192)?;
    }
    let origin = open(fs, "/cached/origin")?;
    origin.append(&pattern(22, 30_000))?;
    origin.clone_range(8192, &open(fs, "/cached/clone")?, 0, 8192)?;
    for (name, len) in [("/cached/goes", 9000), ("/cached/moves", 20_000)] {
        open(fs, name)?.append(&pattern(23, len))?;
    }
    Ok(())
}

fn change(fs: &Filesystem, kind: Kind) -> anyhow::Result<()> {
    fs.grow(u64::try_from(POOL_BYTES)?)?;
    for number in (0..MANY).step_by(7) {
        fs.unlink(name(number))?;
    }
    for number in 0..6 {
        open(fs, &format!("/d/sub/new {number}"))?.append(&pattern(50, 3000))?;
    }
    fs.rename(name(1), "/d/sub/deep/moved", RenameMode::Replace)?;
    let islands = open(fs, "/islands")?;
    islands.allocate(AllocateMode::PunchHole, 8192 * 20, 8192 * 10)?;
    for at in 20..30 {
        islands.write_at(&pattern(77, 4096), at * 8192 + 4096)?;
    }
    let many = open(fs, "/attributes")?;
    for number in 0..5_u8 {
        many.remove_xattr(format!("user.number {number}").as_bytes())?;
    }
    many.set_xattr(b"user.large", &pattern(18, 7000), XattrMode::Replace)?;
    open(fs, "/copy")?.write_at(&pattern(99, 4096), 4096)?;
    if kind == Kind::Tiered {
        open(fs, "/cached/whole")?.write_at(&pattern(24, 5000), 6000)?;
        open(fs, "/cached/islands")?.allocate(AllocateMode::PunchHole, 0, 8192 * 3)?;
        open(fs, "/cached/moves")?.set_dax(Dax::On)?;
        fs.unlink("/cached/goes")?;
    }
    Ok(())
}

fn change_more(fs: &Filesystem, kind: Kind) -> anyhow::Result<()> {
    let permissions = SetAttributes {
        permissions: Some(0o600),
        ..SetAttributes::default()
    };
    fs.set_attributes("/inline", permissions)?;
    fs.set_attributes(name(2), permissions)?;
    open(fs, "/inline")?.append(&pattern(41, 3000))?;
    for number in 0..10 {
        open(fs, &format!("/d/later {number}"))?.append(&pattern(51, 6000))?;
    }
    fs.unlink("/long")?;
    fs.symlink(&pattern(b'z', 700), "/long", NEW)?;
    open(fs, "/origin")?.clone_range(0, &open(fs, "/second")?, 0, 16_384)?;
    if kind == Kind::Tiered {
        open(fs, "/cached/new")?.append(&pattern(25, 12_000))?;
        open(fs, "/cached/origin")?.write_at(&pattern(26, 100), 5000)?;
    }
    open(fs, "/islands")?.truncate(8192 * 290)?;
    fs.remove_dir("/empty")?;
    fs.create_dir("/empty", NEW)?;
    Ok(())
}

/// Operations whose records stay in the lanes, by two threads in turn, so that two lanes have some.
fn last_phase(fs: &Filesystem, kind: Kind, states: &mut Vec<Tree>) -> anyhow::Result<()> {
    type Step = fn(&Filesystem) -> anyhow::Result<()>;
    let mut steps: Vec<Step> = vec![
        |fs| Ok(open(fs, "/d/last")?.append(&pattern(61, 5000)).map(|_| ())?),
        |fs| Ok(fs.unlink(name(8))?),
        |fs| Ok(fs.rename(name(9), "/empty/renamed", RenameMode::Replace)?),
        |fs| Ok(open(fs, "/attributes")?.set_xattr(b"user.last", &pattern(4, 100), XattrMode::Create)?),
        |fs| {
            Ok(open(fs, "/islands")?
                .write_at(&pattern(66, 4096), 8192 * 100 + 4096)
                .map(|_| ())?)
        },
        |fs| Ok(fs.unlink("/part")?),
        |fs| Ok(fs.create_dir("/empty/directory", NEW).map(|_| ())?),
        |fs| Ok(open(fs, "/inline")?.truncate(9000)?),
    ];
    if kind == Kind::Tiered {
        steps.push(|fs| {
            let new = open(fs, "/cached/last")?;
            new.append(&pattern(27, 10_000))?;
            Ok(new.sync()?)
        });
        steps.push(|fs| Ok(open(fs, "/cached/islands")?.truncate(8192 * 10)?));
    }
    for pair in steps.chunks(2) {
        for step in pair {
            thread::scope(|scope| scope.spawn(|| step(fs)).join()).expect("no step panics")?;
            states.push(Tree::read(fs));
        }
    }
    Ok(())
}
