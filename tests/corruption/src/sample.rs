//! Small pools with something of every structure in them, made once.
//!
//! One pool lives through four phases. After each of the first three everything is complete in place: those are the
//! older versions that a damage puts back. The last phase leaves records in two lanes and is seen three ways.

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use udax::{
    AllocateMode, Checksums, File, FileKind, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags,
    Owner, RenameMode, SetAttributes, XattrMode,
};
use udax_check::{CheckOptions, Silent};
use udax_media::geometry::SUPERBLOCKS;
use udax_media::{BLOCK_BYTES, Superblock};
use udax_pmem::{Region, RegionOptions};

use crate::image::{Image, Scratch};
use crate::shadow::Shadow;
use crate::tree::{Allowance, State, Tree, compare};

/// The identity of all samples.
pub const UUID: uuid::Uuid = uuid::Uuid::from_u128(0x6461_6d61_6765);
const POOL_BYTES: usize = 20 << 20;
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
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clean, Self::Killed, Self::Cut];

    /// Its name in a case's text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Killed => "killed",
            Self::Cut => "cut",
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
    let shadow = Arc::new(Shadow::new(POOL_BYTES));
    let len = u64::try_from(POOL_BYTES)?;
    let region = Region::anonymous(len, Some(shadow.clone()))?;
    format(&region)?;
    for block in LOST.step_by(LOST_EVERY) {
        region.poison(block * BLOCK_BYTES, BLOCK_BYTES)?;
    }
    let options = MountOptions {
        no_atime: true,
        ..MountOptions::default()
    };
    let fs = Filesystem::open_region(region, &options)?;
    let mut older = Vec::new();
    for phase in [fill, change, change_more] {
        phase(&fs)?;
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
    last_phase(&fs, &mut states)?;
    let (killed, cut) = (Image::new(shadow.current()), Image::new(shadow.durable()));
    drop(orphan);
    fs.close()?;
    let scratch = Scratch::new("sample")?;
    let clean = closed(&scratch, &killed)?;
    let older = Arc::new(older);
    let mut samples = Vec::new();
    for (ending, image) in Ending::ALL.into_iter().zip([clean, killed, cut]) {
        let tree = states.last().cloned().unwrap_or_default();
        let states = if ending == Ending::Clean {
            vec![tree.clone()]
        } else {
            states.clone()
        };
        let sample = Sample {
            ending,
            image,
            tree,
            states,
            older: Arc::clone(&older),
        };
        sample
            .verify(&scratch)
            .with_context(|| format!("the sample {}", ending.name()))?;
        samples.push(sample);
    }
    Ok(samples)
}

impl Sample {
    /// It is sound, and holds what it should.
    fn verify(&self, scratch: &Scratch) -> anyhow::Result<()> {
        scratch.load(&self.image)?;
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
        let fs = Filesystem::open(scratch.path(), &MountOptions::default())?;
        let found = Tree::read(&fs);
        fs.close()?;
        let same =
            compare(&self.tree, &found, &Allowance::default(), State::Sound).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(same, "what is read is not what was written");
        Ok(())
    }
}

/// A new pool whose directories have their names in the same order each time.
fn format(region: &Region) -> anyhow::Result<()> {
    let options = FormatOptions {
        size: Some(FIRST_BYTES),
        label: "damage".to_owned(),
        uuid: Some(UUID),
        data_checksums: true,
        ..FormatOptions::default()
    };
    let mut superblock = Filesystem::format_region(region, &options)?;
    superblock.hash_key = *b"a key that stays";
    for block in SUPERBLOCKS {
        region.store_nontemporal(block.offset().raw(), superblock.encode().as_slice())?;
    }
    Ok(())
}

/// The pool `killed`, closed without being mounted: a mount would finish its orphan.
fn closed(scratch: &Scratch, killed: &Image) -> anyhow::Result<Image> {
    scratch.load(killed)?;
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

fn fill(fs: &Filesystem) -> anyhow::Result<()> {
    // Data with checksums and data without.
    fs.set_checksums("/", Checksums::Off)?;
    for directory in ["/d", "/d/sub", "/d/sub/deep", "/empty"] {
        fs.create_dir(directory, NEW)?;
    }
    fs.set_checksums("/d", Checksums::On)?;
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
    origin.set_checksums(Checksums::On)?;
    origin.append(&pattern(5, 40_960))?;
    for (copy, from, len) in [("/copy", 0, 40_960), ("/part", 8192, 8192)] {
        origin.clone_range(from, &open(fs, copy)?, 0, len)?;
    }
    Ok(())
}

fn change(fs: &Filesystem) -> anyhow::Result<()> {
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
    Ok(())
}

fn change_more(fs: &Filesystem) -> anyhow::Result<()> {
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
    open(fs, "/islands")?.truncate(8192 * 290)?;
    fs.remove_dir("/empty")?;
    fs.create_dir("/empty", NEW)?;
    Ok(())
}

/// Operations whose records stay in the lanes, by two threads in turn, so that two lanes have some.
fn last_phase(fs: &Filesystem, states: &mut Vec<Tree>) -> anyhow::Result<()> {
    type Step = fn(&Filesystem) -> anyhow::Result<()>;
    let steps: [Step; 8] = [
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
    for pair in steps.chunks(2) {
        for step in pair {
            thread::scope(|scope| scope.spawn(|| step(fs)).join()).expect("no step panics")?;
            states.push(Tree::read(fs));
        }
    }
    Ok(())
}
