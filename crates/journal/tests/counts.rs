//! What each step costs: stores past the cache, flushed lines and fences, exactly.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use harness::medium::Image;
use harness::pool::{self, play_offset};
use std::sync::Arc;
use udax_journal::{DataWriter, Journal};
use udax_media::record::HEADER_SIZE;
use udax_media::{BlockNo, BlockRange};
use udax_pmem::{OwnedEvent, TraceRecorder};

/// What a piece of a trace costs.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    nontemporal_lines: u64,
    flushed_lines: u64,
    fences: u64,
}

fn lines(at: u64, len: u64) -> u64 {
    (at + len).div_ceil(64) - at / 64
}

fn cost(trace: &TraceRecorder, from: usize) -> Cost {
    let mut cost = Cost {
        nontemporal_lines: 0,
        flushed_lines: 0,
        fences: 0,
    };
    for step in trace.since(from) {
        match step.event {
            OwnedEvent::Store { .. } => {}
            OwnedEvent::NonTemporal { at, bytes } => {
                cost.nontemporal_lines += lines(at, u64::try_from(bytes.len()).unwrap());
            }
            OwnedEvent::Flush { at, len } => cost.flushed_lines += lines(at, len),
            OwnedEvent::Fence => cost.fences += 1,
        }
    }
    cost
}

fn opened() -> (Journal, Arc<TraceRecorder>) {
    let superblock = pool::superblock(2, 16);
    let (region, trace) = pool::formatted(&superblock).recorded();
    (pool::open(&region, &superblock), trace)
}

#[test]
fn a_commit_is_the_lines_of_its_record_and_one_fence() {
    let (journal, trace) = opened();
    for words in [1, 2, 3, 9, 10, 11, 38, 200] {
        let mut transaction = journal.begin();
        transaction.write(play_offset(0), &vec![5; words * 8]);
        assert_eq!(transaction.record_len(), HEADER_SIZE + 8 + words * 8);
        let expected = transaction.record_len().div_ceil(64);
        let from = trace.len();
        transaction.commit().unwrap();
        let nontemporal_lines = u64::try_from(expected).unwrap();
        assert_eq!(
            cost(&trace, from),
            Cost {
                nontemporal_lines,
                flushed_lines: 0,
                fences: 1
            },
            "{words} words"
        );
    }
}

#[test]
fn the_record_is_fenced_before_the_first_store_in_place() {
    let (journal, trace) = opened();
    let mut transaction = journal.begin();
    transaction.write_u64(play_offset(3), 1);
    transaction.allocate_metadata(BlockRange::new(BlockNo(602), 1));
    transaction.free(BlockRange::new(BlockNo(1005), 1));
    let from = trace.len();
    transaction.commit().unwrap();
    let steps = trace.since(from);
    let fence = steps
        .iter()
        .position(|step| matches!(step.event, OwnedEvent::Fence))
        .unwrap();
    assert!(
        steps[..fence]
            .iter()
            .all(|step| matches!(step.event, OwnedEvent::NonTemporal { .. })),
        "{steps:?}"
    );
    assert!(
        steps[fence + 1..]
            .iter()
            .all(|step| matches!(step.event, OwnedEvent::Store { .. })),
        "{steps:?}"
    );
    assert!(steps.len() - fence > 3, "{steps:?}");
}

#[test]
fn a_checkpoint_flushes_each_touched_line_once_with_two_fences() {
    let (journal, trace) = opened();
    for value in 0..10 {
        let mut transaction = journal.begin();
        // Lines 0, 2 and 3 of one block and line 0 of the next; a line of bits and the bitmap's seal.
        transaction.write_u64(play_offset(0), value);
        transaction.write(play_offset(16), &[1; 128]);
        transaction.write_u64(play_offset(512), value);
        transaction.allocate_unwritten(BlockRange::new(BlockNo(1000), 4));
        transaction.commit().unwrap();
    }
    let from = trace.len();
    journal.checkpoint().unwrap();
    assert_eq!(
        cost(&trace, from),
        Cost {
            nontemporal_lines: 2,
            flushed_lines: 6,
            fences: 2
        }
    );
    let from = trace.len();
    journal.checkpoint().unwrap();
    assert_eq!(
        cost(&trace, from),
        Cost {
            nontemporal_lines: 0,
            flushed_lines: 0,
            fences: 0
        },
        "nothing new"
    );
}

#[test]
fn an_empty_or_dropped_transaction_stores_nothing() {
    let (journal, trace) = opened();
    let from = trace.len();
    let sequence = journal.begin().commit().unwrap().sequence();
    let mut dropped = journal.begin();
    dropped.write_u64(play_offset(0), 7);
    drop(dropped);
    assert_eq!(trace.since(from).len(), 0);
    let mut next = journal.begin();
    assert!(next.is_empty(), "nothing of the dropped one is left");
    next.write_u64(play_offset(1), 8);
    assert!(next.commit().unwrap().sequence() > sequence);
    assert_eq!(journal.region().read_u64(play_offset(0).raw()).unwrap(), 0);
}

#[test]
fn a_clean_open_reads_no_lane_and_stores_one_checkpoint() {
    let superblock = pool::superblock(2, 16);
    let mut image = pool::formatted(&superblock);
    // A journal full of what looks like records: an open that scanned would read it.
    for line in superblock.journal_blocks().start.raw() * 64..superblock.journal_blocks().end().raw() * 64 {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(b"uREC");
        image.set_line(line, bytes);
    }
    let (region, trace) = image.recorded();
    let (journal, recovery) = Journal::open(region, &superblock).unwrap();
    assert!(recovery.was_clean);
    assert_eq!(
        cost(&trace, 0),
        Cost {
            nontemporal_lines: 2,
            flushed_lines: 0,
            fences: 1
        }
    );
    let from = trace.len();
    journal.close().unwrap();
    assert_eq!(
        cost(&trace, from),
        Cost {
            nontemporal_lines: 2,
            flushed_lines: 0,
            fences: 1
        },
        "nothing to complete"
    );
}

#[test]
fn file_data_is_one_fence_and_durable_before_its_record() {
    let (journal, trace) = opened();
    let blocks = BlockRange::new(BlockNo(700), 1);
    let from = trace.len();
    let mut writer = DataWriter::new(journal.region());
    writer.write(blocks.start.offset(), &[3; 4096]).unwrap();
    let durable = writer.finish([blocks]).fence(journal.region()).unwrap();
    assert_eq!(
        cost(&trace, from),
        Cost {
            nontemporal_lines: 64,
            flushed_lines: 0,
            fences: 1
        }
    );
    let mut transaction = journal.begin();
    transaction.allocate(&durable);
    transaction.commit().unwrap();
    assert_eq!(cost(&trace, from).fences, 2);
    assert_eq!(Image::of(journal.region()).read(700 * 4096), [3; 64]);
}
