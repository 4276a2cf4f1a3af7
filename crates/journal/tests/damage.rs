//! Damaged heads and records, and media that fail.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use harness::medium::Image;
use harness::pool::{self, Change, Model, play_offset};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_journal::{Journal, JournalError, inspect, overlay, read_checkpoint, recover};
use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::CHECKPOINTS;
use udax_media::record::{self, HEADER_SIZE, Operation, RecordHeader};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, FormatError, Place, Sequence, Superblock};
use udax_pmem::{Event, Recorder, Region};
use udax_sync::atomic::{AtomicBool, Ordering};

fn write(word: u64, values: Vec<u64>) -> Change {
    Change::Write { word, values }
}

/// A pool with one checkpoint and then two records; the models before and after them.
fn crashed(superblock: &Superblock) -> (Image, [Model; 3]) {
    let region = pool::formatted(superblock).region();
    let mut model = Model::new(superblock, &region);
    let journal = pool::open(&region, superblock);
    let mut run = |changes: &[Change]| {
        pool::commit(&journal, changes).unwrap();
        model.apply_all(changes);
        model.clone()
    };
    let first = run(&[write(0, vec![1; 40])]);
    journal.checkpoint().unwrap();
    let second = run(&[
        write(20, vec![2; 40]),
        Change::Allocate(BlockRange::new(BlockNo(1000), 3)),
    ]);
    let third = run(&[write(600, vec![3; 40]), Change::Inodes(1)]);
    (Image::of(&region), [first, second, third])
}

fn flip(image: &Image, at: u64, bits: u8) -> Arc<Region> {
    let region = image.region();
    let mut byte = [0];
    region.read(at, &mut byte).unwrap();
    region.store(at, &[byte[0] ^ bits]).unwrap();
    region
}

#[test]
fn one_damaged_copy_of_the_head_does_not_matter() {
    let superblock = pool::superblock(1, 16);
    let (image, models) = crashed(&superblock);
    for copy in CHECKPOINTS {
        for byte in 0..128 {
            let region = flip(&image, copy.offset().raw() + byte, 0x10);
            let journal = pool::open(&region, &superblock);
            assert!(models[2].matches(&region), "{copy} {byte}");
            assert_eq!(journal.counters(), models[2].counters());
            drop(journal);
            // The open has published a checkpoint in both copies: the other one may be lost now.
            let other = CHECKPOINTS[usize::from(copy == CHECKPOINTS[0])];
            region.zero(other.offset().raw(), BLOCK_BYTES).unwrap();
            assert!(recover(&region, &superblock).is_ok(), "{copy} {byte}");
        }
    }
}

#[test]
fn a_newest_slot_damaged_in_both_copies_leaves_the_one_before() {
    let superblock = pool::superblock(1, 16);
    let (image, models) = crashed(&superblock);
    let region = image.region();
    let newest = read_checkpoint(&region, &superblock).unwrap();
    for copy in CHECKPOINTS {
        region
            .store(newest.offset_in(copy).raw() + 20, &[0xff; 4])
            .unwrap();
    }
    let before = read_checkpoint(&region, &superblock).unwrap();
    assert_eq!(before.number, newest.number - 1);
    // Its records are still in the lane: nothing is lost.
    let journal = pool::open(&region, &superblock);
    assert!(models[2].matches(&region));
    assert_eq!(journal.counters(), models[2].counters());
}

#[test]
fn no_valid_slot_is_an_error_that_says_where() {
    let superblock = pool::superblock(1, 16);
    let (image, _) = crashed(&superblock);
    let region = image.region();
    for copy in CHECKPOINTS {
        region.zero(copy.offset().raw(), BLOCK_BYTES).unwrap();
    }
    let error = Journal::open(Arc::clone(&region), &superblock).unwrap_err();
    assert!(
        matches!(error, JournalError::Format(FormatError::Magic { place: Place::Byte(at), .. }) if at.raw() == BLOCK_BYTES),
        "{error}"
    );
    assert!(recover(&region, &superblock).is_err());
    assert!(overlay(&region, &superblock).is_err());
}

#[test]
fn any_flipped_byte_of_the_last_record_ends_the_chain_there() {
    let superblock = pool::superblock(1, 16);
    let (image, models) = crashed(&superblock);
    let lane = superblock.lane(0).start.offset().raw();
    for at in lane + 832..lane + 832 + 376 {
        let region = flip(&image, at, 0x40);
        // What is in place stays as a cache may have written it back: look at the replay only.
        let mut replayed = 0;
        inspect(&region, &superblock, &mut |_, _, _| replayed += 1).unwrap();
        assert_eq!(replayed, 1, "byte {}", at - lane);
    }
    let region = image.region();
    assert!(models[2].matches(&region));
}

#[test]
fn a_damaged_record_that_others_follow_is_refused_and_left_out_by_a_repair() {
    let superblock = pool::superblock(1, 16);
    let (image, _) = crashed(&superblock);
    let lane = superblock.lane(0).start.offset().raw();
    // Header and one write, and in the second an allocation: 6 and 7 lines. The first is before the checkpoint.
    for (start, length, left) in [(0, 376, 2), (384, 392, 1)] {
        for at in lane + start..lane + start + length {
            let region = flip(&image, at, 0x40);
            let refused = Journal::open(Arc::clone(&region), &superblock).unwrap_err();
            let place = Place::Byte(udax_media::ByteOffset(lane + start));
            assert!(
                matches!(&refused, JournalError::Format(FormatError::Field { place: at, .. }) if *at == place),
                "{refused}"
            );
            assert!(inspect(&region, &superblock, &mut |_, _, _| ()).is_err());
            let shown = overlay(&region, &superblock).unwrap().recovery;
            assert_eq!(
                (shown.records, shown.damaged.len()),
                (left, 1),
                "byte {}",
                at - lane
            );
            assert_eq!(recover(&region, &superblock).unwrap(), shown);
            // What the record had changed may be what others rely on: the repair has to go on.
            let half_mended = Journal::open(region, &superblock).unwrap_err();
            assert!(
                matches!(half_mended, JournalError::HalfMended { .. }),
                "{half_mended}"
            );
        }
    }
}

#[test]
fn random_damage_of_the_journal_is_an_error_or_a_shorter_history() {
    let superblock = pool::superblock(2, 4);
    let (image, _) = crashed(&superblock);
    let journal = superblock.journal_blocks();
    for seed in 0..1500 {
        let mut random = SmallRng::seed_from_u64(seed);
        let region = image.region();
        for _ in 0..random.random_range(1..6) {
            let at = match random.random_range(0..3) {
                0 => CHECKPOINTS[random.random_range(0..2)].offset().raw() + random.random_range(0..128),
                1 => superblock.lane(0).start.offset().raw() + random.random_range(0..1300),
                _ => random.random_range(journal.start.offset().raw()..journal.end().offset().raw()),
            };
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            let len = random.random_range(1..=8);
            region.store(at, &bytes[..len]).unwrap();
        }
        let shown = overlay(&region, &superblock).map(|overlay| overlay.recovery);
        let shown = shown.and_then(|shown| match shown.damaged.first() {
            None => Ok(shown.records),
            Some(_) => Err(JournalError::Stopped),
        });
        match (Journal::open(Arc::clone(&region), &superblock), shown) {
            (Ok((_, recovery)), Ok(records)) => {
                assert_eq!(recovery.records, records, "seed {seed}");
                assert!(records <= 3, "seed {seed}");
            }
            (Err(_), Err(_)) => {}
            (opened, shown) => panic!(
                "seed {seed}: {:?}, {shown:?}",
                opened.map(|(_, recovery)| recovery)
            ),
        }
    }
}

/// Puts a record with right checksum into lane 0 after what is there.
fn forge(
    region: &Region,
    superblock: &Superblock,
    header: RecordHeader,
    operations: &[Operation<'_>],
    at: u64,
) {
    let nonce = read_checkpoint(region, superblock).unwrap().nonce;
    let mut bytes = vec![0; HEADER_SIZE];
    for operation in operations {
        operation.encode_into(&mut bytes);
    }
    record::finish(superblock.seed().with(nonce), &mut bytes, header);
    region
        .store(superblock.lane(0).start.offset().raw() + at, &bytes)
        .unwrap();
}

#[test]
fn impossible_records_with_a_right_checksum_are_errors_and_change_nothing() {
    let superblock = pool::superblock(2, 16);
    let region = pool::formatted(&superblock).region();
    drop(pool::open(&region, &superblock));
    let formatted = Image::of(&region);
    let good = RecordHeader {
        sequence: Sequence(1),
        lane: 0,
        free_blocks_delta: 0,
        inodes_delta: 0,
    };
    let outside = [Operation::Free(BlockRange::new(BlockNo(4000), 97))];
    let far = [Operation::Write {
        at: udax_media::ByteOffset(pool::POOL_BLOCKS * BLOCK_BYTES - 8),
        bytes: &[0; 16],
    }];
    let huge = [Operation::Zero(BlockRange::new(BlockNo(0), u64::MAX))];
    let fine = [Operation::Zero(pool::PLAY)];
    let cases: [(RecordHeader, &[Operation<'_>]); 8] = [
        (good, &outside),
        (good, &far),
        (good, &huge),
        (RecordHeader { lane: 1, ..good }, &fine),
        (
            RecordHeader {
                sequence: Sequence(u64::MAX),
                ..good
            },
            &fine,
        ),
        (
            RecordHeader {
                free_blocks_delta: 4000,
                ..good
            },
            &fine,
        ),
        (
            RecordHeader {
                free_blocks_delta: i64::MIN,
                ..good
            },
            &fine,
        ),
        (
            RecordHeader {
                inodes_delta: -2,
                ..good
            },
            &fine,
        ),
    ];
    for (header, operations) in cases {
        let region = formatted.region();
        forge(&region, &superblock, header, operations, 0);
        let before = Image::of(&region);
        let error = Journal::open(Arc::clone(&region), &superblock).unwrap_err();
        assert!(
            matches!(error, JournalError::Format(FormatError::Field { .. })),
            "{header:?}: {error}"
        );
        assert!(overlay(&region, &superblock).is_err(), "{header:?}");
        assert_eq!(Image::of(&region), before, "{header:?}");
    }
    let region = formatted.region();
    forge(&region, &superblock, good, &fine, 0);
    assert_eq!(
        recover(&region, &superblock).unwrap().records,
        1,
        "the same record without a fault is replayed"
    );
}

#[test]
fn a_journal_larger_than_any_format_is_refused_before_it_is_read() {
    let mut superblock = pool::superblock(2, 16);
    let region = pool::formatted(&superblock).region();
    superblock.lane_blocks = u32::MAX - 1;
    superblock.lane_count = 64;
    assert!(matches!(
        Journal::open(Arc::clone(&region), &superblock),
        Err(JournalError::Format(_))
    ));
    assert!(recover(&region, &superblock).is_err());
    assert!(Journal::format(&region, &superblock, pool::full_counters()).is_err());
}

#[test]
fn a_checkpoint_of_the_last_number_is_refused() {
    let superblock = pool::superblock(1, 16);
    let region = pool::formatted(&superblock).region();
    let good = read_checkpoint(&region, &superblock).unwrap();
    for bad in [
        Checkpoint {
            number: u64::MAX,
            ..good
        },
        Checkpoint {
            number: 101,
            sequence: Sequence(u64::MAX),
            ..good
        },
    ] {
        let slot = bad.encode(superblock.seed());
        for copy in CHECKPOINTS {
            region.store(bad.offset_in(copy).raw(), &slot).unwrap();
            let other = copy.offset().raw() + (1 - bad.number % 2) * 64;
            region.zero(other, 64).unwrap();
        }
        assert!(
            Journal::open(Arc::clone(&region), &superblock).is_err(),
            "{bad:?}"
        );
    }
}

fn assert_stopped(journal: &Journal) {
    assert!(matches!(
        pool::commit(journal, &[Change::Inodes(1)]),
        Err(JournalError::Stopped)
    ));
    assert!(matches!(journal.begin().commit(), Err(JournalError::Stopped)));
    assert!(matches!(journal.checkpoint(), Err(JournalError::Stopped)));
}

#[test]
fn a_failure_in_place_stops_the_journal_and_the_record_stays_durable() {
    let mut superblock = pool::superblock(1, 16);
    let image = pool::formatted(&superblock);
    // The pool claims one block more than the region has: a store there fails like a lost page.
    superblock.segments[0].blocks.count += 1;
    let region = image.region();
    let journal = pool::open(&region, &superblock);
    pool::commit(&journal, &[write(0, vec![4])]).unwrap();
    let mut transaction = journal.begin();
    transaction.write_u64(play_offset(1), 5);
    transaction.write_u64(BlockNo(pool::POOL_BLOCKS).offset(), 6);
    assert!(matches!(transaction.commit(), Err(JournalError::Region(_))));
    assert_stopped(&journal);
    assert!(matches!(journal.close(), Err(JournalError::Stopped)));
    let mut records = 0;
    inspect(&region, &superblock, &mut |_, _, _| records += 1).unwrap();
    assert_eq!(records, 2);
    assert!(matches!(
        recover(&region, &superblock),
        Err(JournalError::Region(_))
    ));
}

/// Panics at the next store past the cache once it is armed: a commit that ends before its record is stored.
#[derive(Debug, Default)]
struct Trap(AtomicBool);

impl Recorder for Trap {
    fn record(&self, event: Event<'_>) {
        if matches!(event, Event::NonTemporal { .. }) {
            assert!(!self.0.load(Ordering::Relaxed), "trap");
        }
    }
}

#[test]
fn a_panic_between_number_and_application_stops_the_journal() {
    let superblock = pool::superblock(2, 16);
    let trap = Arc::new(Trap::default());
    let region = pool::formatted(&superblock).region_with(trap.clone());
    let journal = pool::open(&region, &superblock);
    pool::commit(&journal, &[write(0, vec![4])]).unwrap();
    trap.0.store(true, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| pool::commit(&journal, &[write(0, vec![5])])));
    assert!(result.is_err());
    trap.0.store(false, Ordering::Relaxed);
    assert_stopped(&journal);
    drop(journal);
    let journal = pool::open(&region, &superblock);
    let value = region.read_u64(play_offset(0).raw()).unwrap();
    assert!(value == 4 || value == 5, "{value}");
    pool::commit(&journal, &[write(0, vec![6])]).unwrap();
}

#[test]
fn a_record_overwritten_behind_our_back_stops_the_checkpoint() {
    let superblock = pool::superblock(1, 16);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    pool::commit(&journal, &[write(0, vec![4; 20])]).unwrap();
    region
        .store(superblock.lane(0).start.offset().raw() + 100, &[0xee; 8])
        .unwrap();
    let error = journal.checkpoint().unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::Format(FormatError::Field {
                place: Place::Byte(_),
                ..
            })
        ),
        "{error}"
    );
    assert_stopped(&journal);
}

#[test]
fn a_record_with_a_lower_sequence_than_the_one_before_ends_the_chain() {
    let superblock = pool::superblock(2, 16);
    let formatted = {
        let region = pool::formatted(&superblock).region();
        drop(pool::open(&region, &superblock));
        Image::of(&region)
    };
    let zero = [Operation::Zero(pool::PLAY)];
    for (second, expected) in [(6, 2), (5, 1), (3, 1)] {
        let region = formatted.region();
        for (at, sequence) in [(0, 5), (64, second)] {
            let header = RecordHeader {
                sequence: Sequence(sequence),
                lane: 0,
                free_blocks_delta: 0,
                inodes_delta: 0,
            };
            forge(&region, &superblock, header, &zero, at);
        }
        assert_eq!(
            recover(&region, &superblock).unwrap().records,
            expected,
            "5 then {second}"
        );
    }
}
