//! The tree that the demo copies, and the space it may take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use udax::FileKind;
use udax_media::BLOCK_BYTES;

use crate::copy::{Plan, Root};

const MIB: u64 = 1 << 20;
/// What the pool needs beyond the tree: journal, the killed writer's files, and room to work.
const SLACK: u64 = 320 * MIB;
/// Bytes of metadata allowed for each file: inode, directory entry, extent nodes.
const PER_FILE: u64 = 1024;

/// A tree, and where it goes.
pub(super) struct Choice {
    /// What it is called in the output.
    pub(super) name: String,
    /// Its tops.
    pub(super) roots: Vec<Root>,
}

/// `directory`, or the toolchain's libraries and documentation, or `/usr/share`; to go below `target`.
pub(super) fn choose(directory: Option<&Path>, target: &Path) -> Result<Choice> {
    if let Some(directory) = directory {
        if !directory.is_dir() {
            bail!(
                "{}: is no directory: name one to copy",
                crate::name::shown(directory)
            );
        }
        return Ok(Choice::of(
            crate::name::shown(directory),
            &[directory.to_owned()],
            target,
        ));
    }
    if let Some(sysroot) = sysroot() {
        let parts: Vec<PathBuf> = ["lib", "share/doc"]
            .iter()
            .map(|part| sysroot.join(part))
            .filter(|part| part.is_dir())
            .collect();
        if !parts.is_empty() {
            return Ok(Choice::of(
                format!("{}/{{lib,share/doc}}", crate::name::shown(&sysroot)),
                &parts,
                target,
            ));
        }
    }
    let share = PathBuf::from("/usr/share");
    if share.is_dir() {
        return Ok(Choice::of("/usr/share".to_owned(), &[share], target));
    }
    bail!("neither a Rust toolchain nor /usr/share is there: name a directory to copy")
}

impl Choice {
    fn of(name: String, parts: &[PathBuf], target: &Path) -> Self {
        let roots = (0..).zip(parts).map(|(index, part): (u32, _)| Root {
            source: part.clone(),
            target: target.join(index.to_string()),
        });
        Self {
            name,
            roots: roots.collect(),
        }
    }
}

fn sysroot() -> Option<PathBuf> {
    let answer = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let text = String::from_utf8(answer.stdout).ok()?;
    let path = PathBuf::from(text.trim());
    (answer.status.success() && path.is_dir()).then_some(path)
}

/// A name for a pool that does not exist: in memory, where there is room.
pub(super) fn scratch_path() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let place = if space(memory) > SLACK * 2 {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    place.join(format!("udax-demo-{}.pool", uuid::Uuid::new_v4().simple()))
}

/// Bytes of a tree that the place of `pool` and the machine's memory allow, at most `limit`.
pub(super) fn affordable(pool: &Path, limit: u64) -> u64 {
    let place = pool.parent().filter(|place| !place.as_os_str().is_empty());
    let by_space = space(place.unwrap_or(Path::new("."))).saturating_sub(SLACK) / 3 * 2;
    let by_memory = available_memory().map_or(u64::MAX, |bytes| bytes.saturating_sub(SLACK) / 3);
    limit.min(by_space).min(by_memory)
}

/// The size of a pool for `plan`.
pub(super) fn pool_bytes(plan: &Plan) -> u64 {
    let data: u64 = plan
        .items
        .iter()
        .filter(|item| item.attributes.kind == FileKind::Regular && item.link_to.is_none())
        .map(|item| {
            item.attributes
                .size
                .min(item.attributes.allocated)
                .next_multiple_of(BLOCK_BYTES)
        })
        .sum();
    let files = u64::try_from(plan.items.len()).unwrap_or(u64::MAX);
    (data + data / 16 + files * PER_FILE + SLACK).next_multiple_of(2 * MIB)
}

fn space(place: &Path) -> u64 {
    rustix::fs::statvfs(place).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
