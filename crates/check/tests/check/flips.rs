//! One byte of a metadata block changed: found, or provably without meaning; and after the repair everything else is
//! as it was.
//!
//! A sample by default; `UDAX_CHECK_ALL_FLIPS=1` takes every byte, `UDAX_CHECK_SEED` another sample.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_media::BlockNo;
use udax_media::geometry::CHECKPOINTS;
use udax_pmem::Region;

use crate::image::{Owner, read_contents, rich};
use crate::run_alone as run;

fn seed() -> u64 {
    let given = std::env::var("UDAX_CHECK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rng().random())
}

/// The inodes that a change of byte `at` of `block` may damage; `None` for none.
fn victim(owner: Owner, at: u64) -> Option<u64> {
    match owner {
        Owner::Pool => None,
        Owner::Chunk(chunk) => Some(chunk * 16 + at / 256),
        Owner::Inode(ino) => Some(ino),
    }
}

#[test]
fn flipped_bytes_are_found_and_repaired_without_loss_elsewhere() {
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut image = rich(4096);
    let region = image.write();
    let len = usize::try_from(region.len()).unwrap();
    let mut pristine = vec![0; len];
    region.read(0, &mut pristine).unwrap();
    let contents = read_contents(&region, &image.superblock);
    let all = std::env::var_os("UDAX_CHECK_ALL_FLIPS").is_some();
    let mut metadata = image.metadata.clone();
    metadata.sort_by_key(|(block, _)| block.raw());
    metadata.dedup();
    for (block, owner) in metadata {
        let tries: Vec<u64> = if all {
            (0..4096).collect()
        } else {
            // Headers are where fields are; the rest is one checksum.
            [4096, 4096, 128].map(|end| random.random_range(0..end)).to_vec()
        };
        for at in tries {
            let mask = random.random_range(1..=255_u8);
            let place = format!("seed {seed}: byte {at} of block {block} ({owner:?}) ^ {mask:#x}");
            let offset = block.offset().raw() + at;
            let index = usize::try_from(offset).unwrap();
            region.store(offset, &[pristine[index] ^ mask]).unwrap();
            let found = run(&region, false);
            if found.problems.is_empty() && found.notes.is_empty() {
                assert!(
                    is_meaningless(block, owner, at, &region, &image.superblock, &contents),
                    "{place}"
                );
            } else {
                let report = run(&region, true);
                let expected = u8::from(!found.problems.is_empty());
                assert_eq!(report.exit_code(), expected, "{place}: {report:#?}");
                let again = run(&region, false);
                assert_eq!(again.problems, [], "{place}: after {report:#?}");
                assert_eq!(again.notes, [], "{place}: after {report:#?}");
                let left = read_contents(&region, &image.superblock);
                for (ino, content) in &contents {
                    if victim(owner, at) != Some(*ino) {
                        assert_eq!(left.get(ino), Some(content), "{place}: inode {ino}, {report:#?}");
                    }
                }
            }
            region.store(0, &pristine).unwrap();
        }
    }
}

/// What no structure covers: the rest of the checkpoint blocks, and what follows a value in its last block.
fn is_meaningless(
    block: BlockNo,
    owner: Owner,
    at: u64,
    region: &Region,
    superblock: &udax_media::Superblock,
    contents: &std::collections::BTreeMap<u64, crate::image::Content>,
) -> bool {
    let is_checkpoint_rest = CHECKPOINTS.contains(&block) && at >= 128;
    is_checkpoint_rest || (matches!(owner, Owner::Inode(_)) && same_but_padding(region, superblock, contents))
}

fn same_but_padding(
    region: &Region,
    superblock: &udax_media::Superblock,
    contents: &std::collections::BTreeMap<u64, crate::image::Content>,
) -> bool {
    let now = read_contents(region, superblock);
    now.len() == contents.len()
        && now.iter().zip(contents).all(|((_, now), (_, before))| {
            // The raw block of a long link target is compared by the target itself.
            let blocks_agree = now.blocks == before.blocks || !now.target.is_empty();
            blocks_agree && now.target == before.target && now.xattrs == before.xattrs
        })
}

#[test]
fn several_damaged_places_at_once_are_repaired() {
    let seed = seed();
    for round in 0..60 {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let mut image = rich(4096);
        let region = image.write();
        for _ in 0..random.random_range(2..12) {
            let (block, _) = image.metadata[random.random_range(0..image.metadata.len())];
            // One superblock and one checkpoint stay.
            if block.raw() <= 1 {
                continue;
            }
            let start = random.random_range(0..4096_u64);
            let length = random.random_range(1..=4096 - start);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            if random.random() {
                random.fill(bytes.as_mut_slice());
            }
            region.store(block.offset().raw() + start, &bytes).unwrap();
        }
        run(&region, false);
        let report = run(&region, true);
        assert_eq!(
            report.exit_code() & !1,
            0,
            "seed {seed}, round {round}: {report:#?}"
        );
        let again = run(&region, false);
        assert_eq!(
            again.problems,
            [],
            "seed {seed}, round {round}: after {report:#?}"
        );
    }
}

#[test]
fn random_pools_are_refused_or_reported_without_a_panic() {
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    for round in 0..20 {
        let region = rich(4096).write();
        let from = random.random_range(0..8) * 512;
        for block in (from..4096).filter(|block| !matches!(block, 0 | 1)) {
            if random.random_range(0..3) == 0 {
                let mut bytes = [0; 4096];
                random.fill(&mut bytes);
                region.store(block * 4096, &bytes).unwrap();
            }
        }
        run(&region, false);
        run(&region, true);
        let again = run(&region, false);
        assert_eq!(again.problems, [], "seed {seed}, round {round}");
    }
}
