//! Blocks that the medium loses after records have changed them: which ones stop the journal, and which are left out.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::{Arc, OnceLock, Weak};

use harness::medium::Image;
use harness::pool::{self, Change, PLAY, commit};
use udax_journal::{Journal, JournalError, overlay};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset};
use udax_pmem::{Event, Recorder, Region, RegionError};

const FIRST: BlockRange = BlockRange {
    start: PLAY.start,
    count: 1,
};

fn second() -> BlockRange {
    BlockRange::new(FIRST.end(), 1)
}

fn write(word: u64, value: u64) -> Change {
    Change::Write {
        word,
        values: vec![value],
    }
}

fn poison(region: &Region, blocks: BlockRange) {
    region
        .poison(blocks.start.offset().raw(), blocks.count * BLOCK_BYTES)
        .unwrap();
}

/// An open journal in which both blocks are metadata since the last checkpoint, and hold something.
fn with_metadata() -> (Arc<Region>, Journal) {
    let superblock = pool::superblock(2, 16);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    let both = [Change::Metadata(FIRST), Change::Metadata(second())];
    commit(&journal, &both).unwrap();
    commit(&journal, &[write(3, 33), write(512 + 3, 44)]).unwrap();
    (region, journal)
}

#[track_caller]
fn assert_stopped_at(result: Result<udax_journal::Checkpointed, JournalError>, block: BlockNo) {
    match result {
        Err(JournalError::Region(RegionError::Media { at })) => assert_eq!(ByteOffset(at).block(), block),
        other => panic!("not stopped: {other:?}"),
    }
}

#[test]
fn a_freed_block_that_is_lost_stops_nothing() {
    let (region, journal) = with_metadata();
    commit(&journal, &[Change::Free(FIRST)]).unwrap();
    poison(&region, FIRST);
    let before = journal.last_sequence();
    journal.checkpoint().unwrap();
    assert_eq!(journal.checkpointed().sequence(), before);
    commit(&journal, &[write(512 + 4, 55)]).unwrap();
    journal.close().unwrap();
    // All other changes are complete in place, which is read once the block can be.
    let at = FIRST.start.offset().raw();
    region.store_nontemporal(at, &[0; 4096]).unwrap();
    let image = Image::of(&region);
    let superblock = pool::superblock(2, 16);
    let region = image.region();
    let (_, recovery) = Journal::open(Arc::clone(&region), &superblock).unwrap();
    assert!(recovery.was_clean);
    for (word, value) in [(512 + 3, 44), (512 + 4, 55)] {
        assert_eq!(region.read_u64(pool::play_offset(word).raw()).unwrap(), value);
    }
}

#[test]
fn a_lost_block_with_an_owner_stops_the_journal_so_that_the_next_open_makes_it_whole() {
    let (region, journal) = with_metadata();
    commit(&journal, &[Change::Free(FIRST)]).unwrap();
    poison(&region, BlockRange::new(PLAY.start, 2));
    assert_stopped_at(journal.checkpoint(), second().start);
    assert!(matches!(
        commit(&journal, &[Change::Inodes(1)]),
        Err(JournalError::Stopped)
    ));
    drop(journal);
    // The records say what the block holds from its first byte on.
    let (_, recovery) = Journal::open(Arc::clone(&region), &pool::superblock(2, 16)).unwrap();
    assert_eq!((recovery.records, recovery.lost_blocks), (3, 0));
    assert_eq!(region.read_u64(pool::play_offset(512 + 3).raw()).unwrap(), 44);
}

#[test]
fn a_lost_block_that_is_given_up_stops_nothing_until_it_is_changed_again() {
    let (region, journal) = with_metadata();
    poison(&region, FIRST);
    // Its owner has none of it any more, but it stays allocated.
    let mut transaction = journal.begin();
    transaction.give_up(FIRST);
    transaction.write_u64(pool::play_offset(512), 1);
    transaction.commit().unwrap();
    journal.checkpoint().unwrap();
    commit(&journal, &[write(512, 2)]).unwrap();
    journal.checkpoint().unwrap();
    // Made good, somebody's again, and lost once more.
    region
        .store_nontemporal(FIRST.start.offset().raw(), &[0; 4096])
        .unwrap();
    commit(&journal, &[write(3, 66)]).unwrap();
    poison(&region, FIRST);
    assert_stopped_at(journal.checkpoint(), FIRST.start);
}

#[test]
fn what_a_dropped_transaction_gave_up_still_has_its_owner() {
    let (region, journal) = with_metadata();
    poison(&region, FIRST);
    let mut transaction = journal.begin();
    transaction.give_up(FIRST);
    drop(transaction);
    // By the same thread, whose buffer is used again.
    commit(&journal, &[write(512, 1)]).unwrap();
    assert_stopped_at(journal.checkpoint(), FIRST.start);
}

#[test]
fn a_lost_block_whose_bitmap_is_lost_stops_the_journal() {
    let (region, journal) = with_metadata();
    commit(&journal, &[Change::Free(FIRST)]).unwrap();
    let superblock = pool::superblock(2, 16);
    let bitmap = udax_media::Geometry::new(&superblock).group(0).unwrap().bitmap;
    journal.checkpoint().unwrap();
    commit(&journal, &[write(3, 66)]).unwrap();
    poison(&region, FIRST);
    poison(&region, BlockRange::new(bitmap, 1));
    assert_stopped_at(journal.checkpoint(), bitmap);
}

/// Loses a block as soon as something is stored there.
#[derive(Debug, Default)]
struct Loss(OnceLock<(Weak<Region>, BlockRange)>);

impl Recorder for Loss {
    fn record(&self, event: Event<'_>) {
        if let (Event::Store { at, .. }, Some((region, blocks))) = (event, self.0.get())
            && blocks.contains(ByteOffset(at).block())
            && let Some(region) = region.upgrade()
        {
            poison(&region, *blocks);
        }
    }
}

#[test]
fn a_block_that_is_lost_after_its_records_were_replayed_is_left_out_too() {
    let superblock = pool::superblock(2, 16);
    let (region, journal) = with_metadata();
    journal.checkpoint().unwrap();
    commit(&journal, &[write(3, 34), write(512 + 3, 45)]).unwrap();
    let image = Image::of(&region);
    drop(journal);
    let loss = Arc::new(Loss::default());
    let recorder: Arc<dyn Recorder> = loss.clone();
    let region = image.region_with(recorder);
    loss.0.set((Arc::downgrade(&region), FIRST)).unwrap();
    let (journal, recovery) = Journal::open(Arc::clone(&region), &superblock).unwrap();
    assert_eq!((recovery.records, recovery.lost_blocks), (1, 1));
    assert_eq!(region.read_u64(pool::play_offset(512 + 3).raw()).unwrap(), 45);
    commit(&journal, &[write(512 + 4, 46)]).unwrap();
    journal.close().unwrap();
    // A look at the pool as it was shows the same.
    let region = image.region();
    poison(&region, FIRST);
    let shown = overlay(&region, &superblock).unwrap();
    assert!(!shown.blocks.contains_key(&FIRST.start) && shown.blocks.contains_key(&second().start));
}
