//! Checks that what a plan made equals what it was made from, byte by byte.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use udax::FileKind;

use super::engine::in_parallel;
use super::plan::{Item, Plan};
use super::tally::Tally;
use super::tree::{Attributes, Source};

/// Bytes compared at a time: two buffers of it fit in a processor's second-level cache.
const CHUNK: usize = 256 << 10;

/// Compares every item of `plan` between `source` and `target` in `threads` threads. Differences are failures
/// in `tally`.
pub(crate) fn compare<S: Source, T: Source>(
    source: &S,
    target: &T,
    plan: &Plan,
    threads: usize,
    tally: &Tally,
) {
    let all: Vec<usize> = (0..plan.items.len()).collect();
    let buffers = || (vec![0; CHUNK], vec![0; CHUNK]);
    in_parallel(&all, threads, buffers, |buffers, index| {
        let Some(item) = plan.items.get(index) else { return };
        let result = match item.link_to.and_then(|first| plan.items.get(first)) {
            Some(first) => compare_names(target, &first.target, &item.target),
            None => compare_item(source, target, item, tally, buffers),
        };
        match result {
            Ok(()) if item.link_to.is_some() => tally.count_hard_link(),
            Ok(()) => tally.count(item.attributes.kind),
            Err(error) => tally.fail(&target.shown(&item.target), &error),
        }
    });
}

fn compare_names<T: Source>(target: &T, first: &Path, second: &Path) -> Result<()> {
    let (first, second) = (target.attributes(first)?, target.attributes(second)?);
    ensure!(
        first.identity == second.identity,
        "is not the same file as its other name"
    );
    Ok(())
}

fn compare_item<S: Source, T: Source>(
    source: &S,
    target: &T,
    item: &Item,
    tally: &Tally,
    buffers: &mut (Vec<u8>, Vec<u8>),
) -> Result<()> {
    let found = target.attributes(&item.target)?;
    compare_attributes(&item.attributes, &found)?;
    ensure!(
        source.xattrs(&item.source)? == target.xattrs(&item.target)?,
        "extended attributes differ"
    );
    match item.attributes.kind {
        FileKind::Symlink => ensure!(
            source.link_target(&item.source)? == target.link_target(&item.target)?,
            "link targets differ"
        ),
        FileKind::Regular => compare_content(source, target, item, tally, buffers)?,
        _ => {}
    }
    Ok(())
}

/// All but access times, which reading changes, and what a filesystem chooses itself.
fn compare_attributes(wanted: &Attributes, found: &Attributes) -> Result<()> {
    ensure!(
        wanted.kind == found.kind,
        "is {:?}, not {:?}",
        found.kind,
        wanted.kind
    );
    ensure!(
        wanted.owner == found.owner,
        "owner is {:?}, not {:?}",
        found.owner,
        wanted.owner
    );
    ensure!(
        wanted.mtime == found.mtime,
        "changed at {:?}, not {:?}",
        found.mtime,
        wanted.mtime
    );
    if wanted.kind != FileKind::Symlink {
        let (wanted, found) = (wanted.permissions, found.permissions);
        ensure!(wanted == found, "permissions are {found:o}, not {wanted:o}");
    }
    match wanted.kind {
        FileKind::Regular | FileKind::Symlink if wanted.size != found.size => {
            bail!("has {} bytes, not {}", found.size, wanted.size)
        }
        FileKind::CharDevice | FileKind::BlockDevice if wanted.rdev != found.rdev => {
            bail!("is device {:#x}, not {:#x}", found.rdev, wanted.rdev)
        }
        _ => Ok(()),
    }
}

fn compare_content<S: Source, T: Source>(
    source: &S,
    target: &T,
    item: &Item,
    tally: &Tally,
    (left, right): &mut (Vec<u8>, Vec<u8>),
) -> Result<()> {
    let first = source.open(&item.source).context("cannot open the source")?;
    let second = target.open(&item.target).context("cannot open")?;
    let mut offset = 0;
    loop {
        let wanted = read_full(source, &first, left, offset).context("cannot read the source")?;
        let found = read_full(target, &second, right, offset)
            .with_context(|| format!("cannot read at byte {offset}"))?;
        if wanted != found
            && let Some(at) = wanted
                .iter()
                .zip(found)
                .position(|(wanted, found)| wanted != found)
        {
            bail!("differs at byte {}", offset + u64::try_from(at).unwrap_or(0));
        }
        ensure!(
            wanted.len() == found.len(),
            "ends at another byte, after {offset}"
        );
        let length = u64::try_from(wanted.len()).unwrap_or(0);
        tally.add_bytes(length);
        offset += length;
        if wanted.len() < CHUNK {
            return Ok(());
        }
    }
}

/// Fills `buffer` as far as the file goes.
fn read_full<'b, S: Source>(
    source: &S,
    file: &S::File,
    buffer: &'b mut [u8],
    offset: u64,
) -> Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = source.read_at(file, rest, offset + u64::try_from(filled).unwrap_or(0))?;
        if read == 0 {
            break;
        }
        filled += read;
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}
