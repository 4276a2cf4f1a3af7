//! An inode table that lacks a chunk, as an older version of it does, and chunks whose block looks like something else.

use std::collections::BTreeMap;

use udax_check::Report;
use udax_media::geometry::ROOTS;
use udax_media::node::{self, SLOT_SIZE, SLOTS_START, TreeRoot};
use udax_media::{BLOCK_SIZE, BlockNo, Superblock, seal};
use udax_pmem::Region;

use crate::image::{Content, Image, read_contents};
use crate::run_alone as run;

fn read(region: &Region, block: BlockNo) -> [u8; BLOCK_SIZE] {
    let mut bytes = [0; BLOCK_SIZE];
    region.read(block.offset().raw(), &mut bytes).unwrap();
    bytes
}

/// A pool of two inode chunks, the leaf of its inode table, and where in it the slot of `chunk` is.
fn two_chunks(chunk: u64) -> (Image, Region, BlockNo, usize) {
    let mut image = Image::new(4096);
    for number in 0..20 {
        image.file(1, &format!("file {number}"), &[(0, 1)]);
    }
    let region = image.write();
    let root = read(&region, ROOTS)[64..72].try_into().unwrap();
    let leaf = TreeRoot::from_word(u64::from_le_bytes(root)).block().unwrap();
    let bytes = read(&region, leaf);
    let mut slots = (SLOTS_START..).step_by(SLOT_SIZE).take(2);
    let slot = slots
        .find(|at| bytes[*at..at + 8] == chunk.to_le_bytes())
        .unwrap();
    (image, region, leaf, slot)
}

fn remove_slot(region: &Region, superblock: &Superblock, leaf: BlockNo, slot: usize) {
    let mut bytes = read(region, leaf);
    bytes[slot + 14..slot + 16].fill(0);
    seal::seal(superblock.seed(), &mut bytes);
    region.store(leaf.offset().raw(), &bytes).unwrap();
}

/// The block of the chunk whose slot is at `slot` of `leaf`.
fn block_of_chunk(region: &Region, leaf: BlockNo, slot: usize) -> BlockNo {
    let bytes = read(region, leaf);
    let at = usize::from(u16::from_le_bytes([bytes[slot + 8], bytes[slot + 9]]));
    BlockNo(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

fn tells_loss(report: &Report, what: &str) -> bool {
    report
        .problems
        .iter()
        .any(|problem| problem.lost.as_deref() == Some(what))
}

fn mends_without_loss(region: &Region, superblock: &Superblock, contents: &BTreeMap<u64, Content>) {
    let report = run(region, true);
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert!(
        report.problems.iter().all(|problem| problem.lost.is_none()),
        "{report:#?}"
    );
    assert_eq!(run(region, false).problems, []);
    assert_eq!(read_contents(region, superblock), *contents);
}

#[test]
fn chunk_that_names_lead_to_is_put_back_into_the_table() {
    let (image, region, leaf, slot) = two_chunks(1);
    let contents = read_contents(&region, &image.superblock);
    remove_slot(&region, &image.superblock, leaf, slot);
    let found = run(&region, false);
    let what = "inode chunk 1 is not in the inode table, but names lead to its inodes";
    assert!(
        found.problems.iter().any(|problem| problem.what == what),
        "{found:#?}"
    );
    mends_without_loss(&region, &image.superblock, &contents);
}

#[test]
fn chunk_that_is_not_there_costs_its_names() {
    let (image, region, leaf, slot) = two_chunks(1);
    let chunk = block_of_chunk(&region, leaf, slot);
    remove_slot(&region, &image.superblock, leaf, slot);
    region.store(chunk.offset().raw(), &[0; BLOCK_SIZE]).unwrap();
    let report = run(&region, true);
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    let is_told = |what: &str| report.problems.iter().any(|problem| problem.what.contains(what));
    assert!(
        is_told("which is not in use: chunk 1 is not in the inode table"),
        "{report:#?}"
    );
    assert!(
        tells_loss(&report, "inodes 16 to 31, if they were in use"),
        "{report:#?}"
    );
    assert_eq!(run(&region, false).problems, []);
}

#[test]
fn inode_beside_what_looks_like_a_node_is_sealed() {
    let (image, region, leaf, slot) = two_chunks(0);
    let chunk = block_of_chunk(&region, leaf, slot);
    let contents = read_contents(&region, &image.superblock);
    region
        .store(chunk.offset().raw(), &node::MAGIC.to_le_bytes())
        .unwrap();
    region.store(chunk.offset().raw() + 256, &[0; 256]).unwrap();
    let report = run(&region, true);
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert_eq!(run(&region, false).problems, []);
    let left = read_contents(&region, &image.superblock);
    assert!(
        contents
            .iter()
            .all(|(ino, content)| *ino == 1 || left.get(ino) == Some(content))
    );
}

#[test]
fn a_chunk_whose_block_holds_something_else_is_lost_as_a_whole() {
    let (image, region, leaf, slot) = two_chunks(1);
    let chunk = block_of_chunk(&region, leaf, slot);
    // Most slots of a node with few entries look like those of inodes that never were.
    region.store(chunk.offset().raw(), &read(&region, leaf)).unwrap();
    let report = run(&region, true);
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert!(
        tells_loss(&report, "inodes 16 to 31, unless the chunk lies elsewhere"),
        "{report:#?}"
    );
    assert_eq!(run(&region, false).problems, []);
    let left = read_contents(&region, &image.superblock);
    assert!(left.keys().all(|ino| *ino < 16), "{left:#?}");
}

#[test]
fn chunks_that_changed_places_are_found_again() {
    let (image, region, leaf, slot) = two_chunks(0);
    let other = (SLOTS_START..)
        .step_by(SLOT_SIZE)
        .take(2)
        .find(|at| *at != slot)
        .unwrap();
    let [zero, one] = [slot, other].map(|slot| block_of_chunk(&region, leaf, slot));
    let contents = read_contents(&region, &image.superblock);
    let bytes = [zero, one].map(|block| read(&region, block));
    region.store(zero.offset().raw(), &bytes[1]).unwrap();
    region.store(one.offset().raw(), &bytes[0]).unwrap();
    assert_eq!(run(&region, true).exit_code(), 1);
    assert_eq!(run(&region, false).problems, []);
    assert_eq!(read_contents(&region, &image.superblock), contents);
}

#[test]
fn a_chunk_of_zeros_that_names_lead_to_is_told_as_a_whole() {
    for (number, lost) in [
        (0, "inodes 0 to 15, if they were in use"),
        (1, "inodes 16 to 31, if they were in use"),
    ] {
        let (_, region, leaf, slot) = two_chunks(number);
        let chunk = block_of_chunk(&region, leaf, slot);
        region.store(chunk.offset().raw(), &[0; BLOCK_SIZE]).unwrap();
        let report = run(&region, true);
        assert_eq!(report.exit_code(), 1, "{report:#?}");
        assert!(tells_loss(&report, lost), "{report:#?}");
        assert_eq!(run(&region, false).problems, []);
    }
}

#[test]
fn a_chunk_that_the_table_has_in_an_empty_block_is_found_again() {
    let (image, region, leaf, slot) = two_chunks(1);
    let contents = read_contents(&region, &image.superblock);
    let mut bytes = read(&region, leaf);
    let at = usize::from(u16::from_le_bytes([bytes[slot + 8], bytes[slot + 9]]));
    let empty = image.superblock.total_blocks() - 1;
    bytes[at..at + 8].copy_from_slice(&empty.to_le_bytes());
    seal::seal(image.superblock.seed(), &mut bytes);
    region.store(leaf.offset().raw(), &bytes).unwrap();
    mends_without_loss(&region, &image.superblock, &contents);
}
