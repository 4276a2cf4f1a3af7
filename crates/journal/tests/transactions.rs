//! Transactions through the public interface: what they show, refuse and count.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;

use harness::medium::{Image, Medium};
use harness::pool::{self, Change, Model, PLAY, play_offset};
use proptest::prelude::*;
use udax_journal::{Journal, JournalError, inspect, overlay, recover};
use udax_media::record::{HEADER_SIZE, MAX_RECORD_BYTES, Operation};
use udax_media::{BlockNo, BlockRange, ByteOffset};
use udax_pmem::Region;

#[test]
fn pending_shows_the_block_in_place_with_zeros_and_writes_in_order() {
    let superblock = pool::superblock(1, 16);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    let first = PLAY.start;
    let second = BlockNo(first.raw() + 1);
    pool::commit(
        &journal,
        &[Change::Write {
            word: 0,
            values: vec![1; 1024],
        }],
    )
    .unwrap();
    let mut transaction = journal.begin();
    assert_eq!(transaction.pending(first).unwrap(), None);
    transaction.write_u64(play_offset(2), 9);
    // Across the border of the two blocks.
    transaction.write(play_offset(510), &[7; 32]);
    let shown = transaction.pending(first).unwrap().unwrap();
    assert_eq!(shown[..8], 1_u64.to_le_bytes());
    assert_eq!(shown[16..24], 9_u64.to_le_bytes());
    assert_eq!(shown[4080..], [7; 16]);
    let shown = transaction.pending(second).unwrap().unwrap();
    assert_eq!(shown[..16], [7; 16]);
    assert_eq!(shown[16..24], 1_u64.to_le_bytes());
    transaction.allocate_metadata(BlockRange::new(first, 1));
    transaction.write_u64(play_offset(3), 4);
    let shown = transaction.pending(first).unwrap().unwrap();
    let mut expected = [0; 4096];
    expected[24] = 4;
    assert_eq!(*shown, expected);
    assert_eq!(transaction.pending(BlockNo(first.raw() + 2)).unwrap(), None);
    assert_eq!(
        *pool::read_block(&region, first),
        [1, 0, 0, 0, 0, 0, 0, 0].repeat(512)[..]
    );
    transaction.commit().unwrap();
    assert_eq!(*pool::read_block(&region, first), expected);
}

#[test]
fn a_transaction_that_does_not_fit_is_refused_whole_and_the_journal_goes_on() {
    let superblock = pool::superblock(1, 4);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    assert_eq!(journal.record_limit(), 4096);
    let before = Image::of(&region);
    let mut transaction = journal.begin();
    assert_eq!(transaction.remaining(), 4096 - HEADER_SIZE);
    transaction.write(play_offset(0), &vec![1; 4096 - HEADER_SIZE - 8]);
    assert_eq!(transaction.remaining(), 0);
    transaction.count_inodes(1);
    transaction.write_u64(play_offset(0), 1);
    let error = transaction.commit().unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::TooLarge {
                bytes: 4112,
                limit: 4096
            }
        ),
        "{error}"
    );
    assert_eq!(Image::of(&region), before);
    assert_eq!(journal.counters(), pool::full_counters());
    let mut outside = journal.begin();
    outside.write_u64(ByteOffset(pool::POOL_BLOCKS * 4096), 1);
    assert!(matches!(outside.commit(), Err(JournalError::OutsidePool { .. })));
    let mut outside = journal.begin();
    outside.free(BlockRange::new(BlockNo(4090), 7));
    assert!(matches!(outside.commit(), Err(JournalError::OutsidePool { .. })));
    assert_eq!(Image::of(&region), before);
    pool::commit(&journal, &[Change::Inodes(1)]).unwrap();
    assert_eq!(journal.counters().inodes, 2);
}

#[test]
fn writes_longer_than_an_operation_and_records_of_the_largest_size_work() {
    let superblock = pool::superblock(2, 128);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    assert_eq!(journal.record_limit(), MAX_RECORD_BYTES);
    let mut transaction = journal.begin();
    // Two operations' headers.
    let bytes = vec![0x5a; MAX_RECORD_BYTES - HEADER_SIZE - 16];
    transaction.write(BlockNo(800).offset(), &bytes);
    assert_eq!(transaction.record_len(), MAX_RECORD_BYTES);
    transaction.commit().unwrap();
    let mut records = Vec::new();
    inspect(&region, &superblock, &mut |sequence, lane, operations| {
        records.push((sequence.raw(), lane, operations.len()));
        assert!(
            operations
                .iter()
                .all(|operation| matches!(operation, Operation::Write { .. }))
        );
    })
    .unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].2, 2);
    let mut found = vec![0; bytes.len()];
    region.read(800 * 4096, &mut found).unwrap();
    assert_eq!(found, bytes);
}

#[test]
#[should_panic(expected = "not whole words")]
fn a_write_that_is_not_aligned_panics() {
    let superblock = pool::superblock(1, 16);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    journal
        .begin()
        .write(ByteOffset(PLAY.start.offset().raw() + 4), &[0; 8]);
}

#[test]
fn a_clean_close_leaves_nothing_to_replay_and_keeps_the_counters() {
    let superblock = pool::superblock(2, 16);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    let last = pool::commit(
        &journal,
        &[
            Change::Allocate(BlockRange::new(BlockNo(1000), 9)),
            Change::Inodes(2),
        ],
    )
    .unwrap();
    let counters = journal.counters();
    journal.close().unwrap();
    let recovery = recover(&region, &superblock).unwrap();
    assert!(recovery.was_clean);
    assert_eq!(recovery.records, 0);
    let (journal, recovery) = Journal::open(Arc::clone(&region), &superblock).unwrap();
    assert!(recovery.was_clean);
    assert_eq!(journal.counters(), counters);
    assert_eq!(journal.checkpointed().sequence(), last.sequence());
    let next = pool::commit(&journal, &[Change::Inodes(1)]).unwrap();
    assert!(next > last);
    drop(journal);
    assert!(!recover(&region, &superblock).unwrap().was_clean);
}

fn script() -> impl Strategy<Value = Vec<(Vec<Change>, bool)>> {
    let transaction = (
        prop::collection::vec(pool::changes(), 1..6),
        prop::bool::weighted(0.1),
    );
    prop::collection::vec(transaction, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_transactions_are_what_a_byte_model_says(script in script(), lane_blocks in 1..4_u32, seed: u64) {
        let superblock = pool::superblock(2, lane_blocks * 2);
        let (region, trace) = pool::formatted(&superblock).recorded();
        let start = Image::of(&region);
        let mut model = Model::new(&superblock, &region);
        let journal = pool::open(&region, &superblock);
        for (changes, checkpoint) in &script {
            match pool::commit(&journal, changes) {
                Ok(_) => model.apply_all(changes),
                Err(JournalError::TooLarge { .. }) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            if *checkpoint {
                journal.checkpoint().unwrap();
            }
        }
        prop_assert!(model.matches(&region));
        prop_assert_eq!(journal.counters(), model.counters());
        let mut medium = Medium::new(start);
        medium.replay(&trace.since(0));
        let crashed = medium.sample(seed).region();
        let shown = overlay(&crashed, &superblock).unwrap();
        let counted = shown.counters;
        prop_assert_eq!(counted, model.counters());
        let records = check_overlay(&crashed, &superblock, &shown.blocks)?;
        prop_assert_eq!(shown.recovery.records, records);
        prop_assert!(model.matches(&crashed));
        pool::assert_sealed(&superblock, &model, &crashed);
        let again = pool::open(&crashed, &superblock);
        prop_assert_eq!(again.counters(), model.counters());
    }
}

/// Recovers, and compares with what the overlay said the blocks would be. Gives the records replayed.
fn check_overlay(
    region: &Arc<Region>,
    superblock: &udax_media::Superblock,
    blocks: &std::collections::BTreeMap<BlockNo, Box<[u8; 4096]>>,
) -> Result<u64, TestCaseError> {
    let before = Image::of(region);
    let recovery = recover(region, superblock).unwrap();
    for (block, bytes) in blocks {
        prop_assert_eq!(&pool::read_block(region, *block), bytes, "block {}", block);
    }
    let after = Image::of(region);
    for block in 0..pool::POOL_BLOCKS {
        let at = block * 4096;
        let same = before.read::<4096>(at) == after.read::<4096>(at);
        let is_head = [1, 510].contains(&block);
        prop_assert!(
            same || is_head || blocks.contains_key(&BlockNo(block)),
            "block {}",
            block
        );
    }
    Ok(recovery.records)
}
