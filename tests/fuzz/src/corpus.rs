//! Bytes to begin with: units of real pools, and a few choices for what is made of choices.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_media::device::DeviceHeader;
use udax_media::inode::INODE_SIZE;
use udax_media::node::{SLOT_SIZE, SLOTS_START, Slot};
use udax_media::{BLOCK_SIZE, LINE_SIZE};
use udax_test_corruption::place::{Places, Role};
use udax_test_corruption::run::Samples;
use udax_test_corruption::sample::{Ending, Sample, UUID};
use udax_test_model::pool::Files;

use crate::input::{DEVICE, SEALED};

/// The most files of one target.
const MAX_FILES: usize = 12;

/// Where the corpus is, in the source tree.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of `target`, sorted.
///
/// # Errors
/// When there are none.
pub fn read(target: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let directory = directory().join(target);
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    paths.sort();
    anyhow::ensure!(!paths.is_empty(), "{} is empty", directory.display());
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

/// Makes the corpus in `to`, from the sample pools.
///
/// # Errors
/// When a file cannot be written.
pub fn make(to: &Path) -> anyhow::Result<()> {
    let samples = Samples::make()?;
    let mut units: Vec<(&str, Vec<u8>)> = Vec::new();
    for (ending, mode) in [(Ending::Killed, SEALED), (Ending::Tiered, SEALED | DEVICE)] {
        let (sample, places) = samples.of(ending);
        units.extend(units_of(sample, places, mode)?);
    }
    let header = DeviceHeader {
        pool: UUID,
        device: UUID,
        blocks: 4096,
    };
    units.extend([0, 1].map(|copy| ("device", unit(SEALED, header.encode(copy).as_slice()))));
    let mut random = SmallRng::seed_from_u64(1);
    for target in ["journal", "image", "operations"] {
        let of_one = |len: usize, random: &mut SmallRng| (0..len).map(|_| random.random()).collect();
        units.extend([16, 40, 200, 600].map(|len| (target, of_one(len, &mut random))));
    }
    // One of each kind of files.
    for (kind, _) in (0..).zip(Files::ALL) {
        let mut bytes = vec![0; 200];
        random.fill(&mut bytes[..]);
        bytes[0] = kind;
        units.push(("operations", bytes));
    }
    for (target, _) in crate::TARGETS {
        let own = units
            .iter()
            .filter(|(name, _)| *name == target)
            .map(|(_, bytes)| bytes);
        let mut own: Vec<&Vec<u8>> = own.collect();
        own.sort_by_key(|bytes| bytes.len());
        own.dedup();
        let step = own.len().div_ceil(MAX_FILES).max(1);
        fs::create_dir_all(to.join(target))?;
        for (index, bytes) in own.into_iter().step_by(step).enumerate() {
            fs::write(to.join(target).join(format!("pool-{index}")), bytes)?;
        }
    }
    Ok(())
}

/// The metadata of one pool, and what is in it.
fn units_of(sample: &Sample, places: &Places, mode: u8) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut units = Vec::new();
    for (block, role) in &places.roles {
        let bytes = places.bytes(sample, *block);
        let name = match role {
            Role::Superblock => "superblock",
            Role::Checkpoint => "checkpoint",
            Role::Roots => "roots",
            Role::Bitmap => "bitmap",
            Role::Sums => "sums",
            Role::PoolNode(_) | Role::Node(..) => "node",
            Role::Chunk(_) => "chunk",
            Role::Lane | Role::XattrValue(_) | Role::Target(_) => continue,
        };
        let len = if name == "checkpoint" {
            LINE_SIZE
        } else {
            BLOCK_SIZE
        };
        units.push((name, unit(mode, bytes.get(..len).unwrap_or_default())));
        match role {
            Role::Chunk(_) => {
                let slots = bytes.as_chunks::<INODE_SIZE>().0.iter();
                let used = slots.filter(|slot| slot[0] != 0);
                units.extend(used.take(3).map(|slot| ("inode", unit(mode, slot))));
            }
            Role::Node(2, _) => units.extend(values(bytes).map(|(_, value)| ("dentry", value.to_vec()))),
            Role::Node(4, _) => units.extend(values(bytes).map(|(_, value)| ("xattr", value.to_vec()))),
            Role::Node(1, _) | Role::PoolNode(_) => {
                let keyed =
                    |(key, value): (u64, &[u8])| [&[mode], key.to_le_bytes().as_slice(), value].concat();
                units.extend(values(bytes).map(|entry| ("extent", keyed(entry))));
            }
            _ => {}
        }
    }
    for record in &places.records {
        let (start, end) = (usize::try_from(record.start)?, usize::try_from(record.end)?);
        let bytes = sample.image.bytes().get(start..end).unwrap_or_default();
        units.push(("record", [&[mode, 0], bytes].concat()));
    }
    Ok(units)
}

/// The unit as input of its parser, without the zeros at its end.
fn unit(mode: u8, bytes: &[u8]) -> Vec<u8> {
    let len = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    [&[mode], bytes.get(..len).unwrap_or_default()].concat()
}

/// The first entries of a leaf.
fn values(leaf: &[u8; BLOCK_SIZE]) -> impl Iterator<Item = (u64, &[u8])> {
    let slots = leaf.get(SLOTS_START..).unwrap_or_default();
    let slots = slots.as_chunks::<SLOT_SIZE>().0.iter().map(Slot::from_raw);
    let used = slots.filter(|slot| slot.is_used && slot.length > 0).take(4);
    used.filter_map(|slot| {
        let start = usize::from(slot.offset);
        Some((slot.key, leaf.get(start..start + usize::from(slot.length))?))
    })
}
