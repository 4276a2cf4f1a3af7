//! Power cuts: between any two stores, in commit, checkpoint and recovery.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;

use harness::medium::{Image, Medium};
use harness::pool::{self, Change, Model, PLAY};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_journal::{Journal, Recovery, recover};
use udax_media::segment::Segment;
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, Superblock, bitmap, geometry, inode};
use udax_pmem::{OwnedEvent, Region, Traced};

/// A run of transactions, and after how many events each had returned.
struct Run {
    superblock: Superblock,
    start: Image,
    steps: Vec<Traced>,
    /// The state before the first transaction, after it, ...
    models: Vec<Model>,
    returned: Vec<usize>,
}

fn inode_write(slot: u64, value: u64) -> Change {
    let mut values = vec![value; 6];
    values[0] = u64::from(inode::MAGIC);
    Change::Write {
        word: slot * 32,
        values,
    }
}

fn script() -> Vec<Vec<Change>> {
    let blocks = |first, count| BlockRange::new(BlockNo(first), count);
    vec![
        vec![
            Change::Metadata(blocks(PLAY.start.raw(), 2)),
            inode_write(3, 5),
            Change::Inodes(1),
        ],
        vec![
            Change::Allocate(blocks(1010, 70)),
            Change::Write {
                word: 600,
                values: (0..50).collect(),
            },
        ],
        vec![inode_write(3, 6), inode_write(9, 1), Change::Inodes(1)],
        vec![
            Change::Free(blocks(1020, 8)),
            Change::Write {
                word: 500,
                values: vec![1; 30],
            },
        ],
        vec![Change::Inodes(-1), inode_write(3, 7)],
        vec![
            Change::Write {
                word: 1000,
                values: vec![9; 60],
            },
            Change::Write {
                word: 1010,
                values: vec![8; 10],
            },
        ],
    ]
}

/// Runs the script with a checkpoint after the transactions in `checkpoints`.
fn run(lane_blocks: u32, script: &[Vec<Change>], checkpoints: &[usize]) -> Run {
    let superblock = pool::superblock(2, lane_blocks);
    let start = pool::formatted(&superblock);
    let (region, trace) = start.recorded();
    let mut model = Model::new(&superblock, &region);
    let journal = pool::open(&region, &superblock);
    let mut models = vec![model.clone()];
    let mut returned = Vec::new();
    for (index, changes) in script.iter().enumerate() {
        pool::commit(&journal, changes).unwrap();
        returned.push(trace.len());
        model.apply_all(changes);
        models.push(model.clone());
        if checkpoints.contains(&index) {
            journal.checkpoint().unwrap();
        }
    }
    assert_eq!(journal.counters(), model.counters());
    assert!(model.matches(&region));
    Run {
        superblock,
        start,
        steps: trace.since(0),
        models,
        returned,
    }
}

impl Run {
    /// The transactions that had returned after `events` events.
    fn returned_by(&self, events: usize) -> usize {
        self.returned.iter().filter(|at| **at <= events).count()
    }

    /// Which state the region holds: at least `least` transactions, at most one more.
    fn state_of(&self, region: &Region, least: usize) -> Option<usize> {
        (least..=self.models.len().min(least + 2) - 1).find(|count| self.models[*count].matches(region))
    }

    fn check(&self, image: &Image, events: usize, what: &str) -> usize {
        let region = image.region();
        let (journal, _) = Journal::open(Arc::clone(&region), &self.superblock)
            .unwrap_or_else(|error| panic!("{what} after event {events}: {error}"));
        let state = self
            .state_of(&region, self.returned_by(events))
            .unwrap_or_else(|| panic!("{what} after event {events}: no legal state"));
        assert_eq!(
            journal.counters(),
            self.models[state].counters(),
            "{what} after event {events}"
        );
        pool::assert_sealed(&self.superblock, &self.models[state], &region);
        state
    }
}

#[test]
fn committed_transactions_survive_without_any_store_in_place() {
    let run = run(16, &script(), &[]);
    let mut medium = Medium::new(run.start.clone());
    medium.replay(&run.steps);
    let image = medium.least();
    let before = image.region();
    assert!(run.models[0].matches(&before), "nothing in place is durable yet");
    assert_eq!(run.check(&image, run.steps.len(), "least"), script().len());
}

#[test]
fn every_prefix_of_events_recovers_to_a_legal_state() {
    for (lane_blocks, checkpoints) in [(16, &[][..]), (16, &[1, 3][..]), (2, &[2][..])] {
        let long: Vec<_> = script().into_iter().cycle().take(18).collect();
        let script = if lane_blocks == 2 { long } else { script() };
        let run = run(lane_blocks, &script, checkpoints);
        let mut medium = Medium::new(run.start.clone());
        for (events, step) in run.steps.iter().enumerate() {
            medium.step(step);
            let events = events + 1;
            run.check(&medium.least(), events, "least");
            run.check(&medium.most(), events, "most");
            for seed in 0..3 {
                run.check(&medium.sample(seed), events, &format!("seed {seed}"));
            }
        }
    }
}

#[test]
fn a_record_with_any_line_missing_does_not_exist() {
    let run = run(16, &script(), &[]);
    let mut medium = Medium::new(run.start.clone());
    let mut tried = 0;
    for (events, step) in run.steps.iter().enumerate() {
        let is_record = matches!(&step.event, OwnedEvent::NonTemporal { bytes, .. } if bytes.len() >= 128);
        medium.step(step);
        if !is_record {
            continue;
        }
        let OwnedEvent::NonTemporal { at, bytes } = &step.event else {
            unreachable!()
        };
        let first = at / 64;
        let lines: Vec<u64> = (first..first + u64::try_from(bytes.len()).unwrap() / 64).collect();
        let count = run.returned_by(events + 1);
        let mut random = SmallRng::seed_from_u64(7);
        for subset in 0..200_u64.min((1 << lines.len()) - 1) {
            let chosen: Vec<u64> = if lines.len() <= 7 {
                lines
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| subset >> bit & 1 == 1)
                    .map(|(_, line)| *line)
                    .collect()
            } else {
                let missing = random.random_range(0..lines.len());
                lines
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at != missing && random.random())
                    .map(|(_, line)| *line)
                    .collect()
            };
            assert_eq!(
                run.check(&medium.with_lines(&chosen), events + 1, "torn"),
                count,
                "lines {chosen:?}"
            );
            tried += 1;
        }
        let whole = medium.with_lines(&lines);
        assert_eq!(run.check(&whole, events + 1, "whole"), count + 1);
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn recovery_crashed_at_any_event_recovers_again() {
    let run = run(16, &script(), &[2]);
    let mut medium = Medium::new(run.start.clone());
    medium.replay(&run.steps);
    let crashed = medium.least();
    let (region, trace) = crashed.recorded();
    let first = recover(&region, &run.superblock).unwrap();
    assert_eq!(first.records, 3);
    assert!(!first.was_clean);
    let steps = trace.since(0);
    let mut again = Medium::new(crashed);
    for step in &steps {
        again.step(step);
        let all = run.steps.len();
        run.check(&again.least(), all, "least");
        run.check(&again.most(), all, "most");
        for seed in 0..4 {
            run.check(&again.sample(seed), all, &format!("seed {seed}"));
        }
    }
    let once = Image::of(&region);
    let second = recover(&region, &run.superblock).unwrap();
    assert_eq!(second.records, 0);
    let twice = Image::of(&region);
    let play = |image: &Image| -> Vec<[u8; 4096]> {
        let blocks = PLAY.start.raw()..PLAY.end().raw();
        blocks.map(|block| image.read(block * BLOCK_BYTES)).collect()
    };
    assert_eq!(play(&once), play(&twice));
}

/// The superblock that counts: the valid one with the higher generation.
fn newest_superblock(region: &Region) -> Superblock {
    let copies = geometry::SUPERBLOCKS.iter().enumerate();
    copies
        .filter_map(|(copy, block)| {
            Superblock::decode(&pool::read_block(region, *block), copy, region.len()).ok()
        })
        .max_by_key(|superblock| superblock.generation)
        .unwrap()
}

/// What an image after a power cut is, once its journal has been opened.
struct Opened {
    free: u64,
    superblock: Superblock,
    recovery: Recovery,
}

/// Opens images of power cuts at each event from `from` on.
fn open_at_each_cut(start: Image, steps: &[Traced], from: usize, mut judge: impl FnMut(usize, Opened)) {
    let mut medium = Medium::new(start);
    medium.replay(&steps[..from]);
    for (events, step) in steps.iter().enumerate().skip(from) {
        medium.step(step);
        let mut images = vec![medium.least(), medium.most()];
        images.extend((0..6).map(|seed| medium.sample(seed)));
        for image in images {
            let region = image.region();
            let (journal, recovery) = Journal::open(Arc::clone(&region), &newest_superblock(&region))
                .unwrap_or_else(|error| panic!("after event {events}: {error}"));
            let opened = Opened {
                free: journal.counters().free_blocks,
                superblock: newest_superblock(&region),
                recovery,
            };
            judge(events, opened);
        }
    }
}

#[test]
fn a_growth_cut_at_any_event_counts_what_the_superblock_says() {
    const ADDED_BLOCKS: u64 = 1000;
    let old = pool::superblock(2, 16);
    let mut start = pool::formatted(&old);
    start.grow((pool::POOL_BLOCKS + ADDED_BLOCKS) * BLOCK_BYTES);
    let mut new = old.clone();
    new.generation += 1;
    let blocks = BlockRange::new(BlockNo(pool::POOL_BLOCKS), ADDED_BLOCKS);
    new.segments.push(Segment {
        blocks,
        bitmap_start: blocks.start,
        sum_start: None,
    });
    let added = ADDED_BLOCKS - 1;
    let (region, trace) = start.recorded();
    let journal = pool::open(&region, &old);
    pool::commit(&journal, &script()[0]).unwrap();
    let before = journal.counters();
    let bits = bitmap::format(new.seed(), blocks.start, blocks);
    region
        .store_nontemporal(blocks.start.offset().raw(), bits.as_slice())
        .unwrap();
    region.fence().unwrap();
    let from = trace.len();
    journal.set_superblock(&new, added).unwrap();
    assert_eq!(journal.counters().free_blocks, before.free_blocks + added);
    pool::commit(
        &journal,
        &[Change::Allocate(BlockRange::new(
            BlockNo(pool::POOL_BLOCKS + 5),
            3,
        ))],
    )
    .unwrap();

    let mut seen = [0; 3];
    open_at_each_cut(start, &trace.since(0), from, |events, opened| {
        let Opened {
            free,
            superblock,
            recovery,
        } = opened;
        let state = [
            before.free_blocks,
            before.free_blocks + added,
            before.free_blocks + added - 3,
        ]
        .iter()
        .position(|legal| *legal == free)
        .unwrap_or_else(|| panic!("after event {events}: {free} free blocks"));
        assert_eq!(
            superblock.segments.len(),
            if state == 0 { 1 } else { 2 },
            "after event {events}"
        );
        assert!(recovery.superblock.is_none_or(|grown| grown == superblock));
        seen[state] += 1;
    });
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_superblock_that_is_changed_without_growth_is_after_a_cut_the_old_or_the_new_one() {
    let old = pool::superblock(2, 16);
    let start = pool::formatted(&old);
    let new = Superblock {
        generation: old.generation + 1,
        label: "elsewhere".to_owned(),
        ..old.clone()
    };
    let (region, trace) = start.recorded();
    let journal = pool::open(&region, &old);
    pool::commit(&journal, &script()[0]).unwrap();
    let from = trace.len();
    journal.set_superblock(&new, 0).unwrap();
    let free = journal.counters().free_blocks;
    let mut seen = [0; 2];
    open_at_each_cut(start, &trace.since(0), from, |events, opened| {
        assert_eq!(opened.free, free, "after event {events}");
        let superblock = opened.superblock;
        let is_new = superblock == new;
        assert!(
            is_new || superblock == old,
            "after event {events}: {superblock:?}"
        );
        seen[usize::from(is_new)] += 1;
    });
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
