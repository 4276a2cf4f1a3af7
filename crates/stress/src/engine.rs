//! Simulated DMA engines: threads with a queue of transfers, which store to pinned pages at their own time.
//!
//! A transfer is a pin and some bursts of stores with delays between them. Its file may be changed, replaced and
//! unlinked meanwhile: the pages stay its own until the pin goes. Before each burst the engine looks at the pages:
//! while they are pinned nobody else's words may be there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Access, DaxError, Error, Label, Mode, Pin, Request};
use udax_sync::atomic::{Ordering, fence};
use udax_sync::thread;

use crate::contest::{Actor, Contest, Look};
use crate::history::{Event, What};
use crate::life::{Glimpse, Life, OpenLife};
use crate::report::Kind;
use crate::stamp::{BLOCK, BLOCK_LEN, Rule, Writer};
use crate::tally::{Operation, Tally};

/// Transfers that an engine has under way at most.
const QUEUE: usize = 6;
/// How long a pin waits while the engine has other pins: those are perhaps what it waits for.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// Files without a name that an engine remembers.
const REMEMBERED: usize = 3;

/// A pin, and what is stored through it.
struct Transfer {
    life: Arc<Life>,
    pin: Pin,
    /// First block of the file.
    first: u64,
    /// What was known of each block when it was pinned, which stays so.
    glimpses: Vec<Option<Glimpse>>,
    /// Where each block is in the pool.
    places: Vec<u64>,
    bursts: u32,
    due: Instant,
}

/// A thread that acts as a DMA engine.
pub(crate) struct Engine {
    contest: Arc<Contest>,
    actor: Arc<Actor>,
    random: SmallRng,
    queue: Vec<Transfer>,
    remembered: Vec<Arc<OpenLife>>,
    turn: u64,
    buffer: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(contest: Arc<Contest>, actor: Arc<Actor>) -> Self {
        let seed = contest.options.seed.wrapping_add(actor.number << 32);
        Self {
            contest,
            actor,
            random: SmallRng::seed_from_u64(seed),
            queue: Vec::new(),
            remembered: Vec::new(),
            turn: 0,
            buffer: vec![0; BLOCK],
        }
    }

    /// Goes on until the contest is over, and then finishes what is under way.
    pub(crate) fn run(mut self) {
        while !self.contest.is_over() {
            if self.queue.len() < QUEUE && self.random.random_ratio(2, 3) {
                self.start();
            }
            self.work();
            let next = self.queue.iter().map(|transfer| transfer.due).min();
            let idle = next.map_or(Duration::ZERO, |due| {
                due.saturating_duration_since(Instant::now())
            });
            if self.queue.len() == QUEUE && !idle.is_zero() {
                thread::sleep(idle.min(Duration::from_millis(5)));
            } else {
                thread::yield_now();
            }
        }
        while let Some(transfer) = self.queue.pop() {
            self.finish(transfer);
        }
    }

    /// A file: a slot's, or one that the engine remembers from before it lost its name.
    fn choose(&mut self) -> Option<Arc<OpenLife>> {
        if !self.remembered.is_empty() && self.random.random_ratio(1, 6) {
            let place = self.random.random_range(0..self.remembered.len());
            return Some(self.remembered.swap_remove(place));
        }
        let place = self.random.random_range(0..self.contest.slots.len());
        let life = self.contest.slots.get(place)?.current()?;
        if self.remembered.len() < REMEMBERED && self.random.random_ratio(1, 20) {
            self.remembered.push(Arc::clone(&life));
        }
        Some(life)
    }

    /// Begins a transfer.
    fn start(&mut self) {
        let Some(life) = self.choose() else { return };
        let blocks = life.file.stat().map_or(0, |stat| stat.size.div_ceil(BLOCK_LEN));
        if blocks == 0 {
            return;
        }
        // Mostly some blocks; now and then all of a large file, with its large entries.
        let first = if self.random.random_ratio(1, 8) {
            0
        } else {
            self.random.random_range(0..blocks)
        };
        let most = if first == 0 {
            blocks
        } else {
            (blocks - first).min(12)
        };
        let count = self.random.random_range(1..=most);
        let access = if self.random.random_ratio(7, 8) {
            Access::Write
        } else {
            Access::Read
        };
        let Some(pin) = self.pin(&life, (first, count), access) else {
            return;
        };
        // Pairs with that of `Life::begin_change`.
        fence(Ordering::SeqCst);
        let glimpses = (first..first + count).map(|block| life.glimpse(block)).collect();
        let places = pin
            .pieces()
            .flat_map(|piece| {
                (piece.at / BLOCK_LEN..).take(usize::try_from(piece.len / BLOCK_LEN).unwrap_or(0))
            })
            .collect();
        if life.is_removed.load(Ordering::Relaxed) {
            Tally::add(&self.contest.tally.unlinked_transfers, 1);
        }
        Tally::add(&self.contest.tally.transfers, 1);
        let transfer = Transfer {
            // Not the handle: the pin keeps the file.
            life: Arc::clone(&life.life),
            pin,
            first,
            glimpses,
            places,
            bursts: self.random.random_range(1..=4),
            due: Instant::now() + self.delay(),
        };
        self.contest
            .note(&self.actor, &transfer.life, What::Pinned, (first, count));
        self.enter(&transfer);
        self.look(&transfer, "a new pin of");
        self.queue.push(transfer);
    }

    fn pin(&mut self, life: &OpenLife, (first, count): (u64, u64), access: Access) -> Option<Pin> {
        let label = Label {
            name: "engine",
            number: self.actor.number,
        };
        let mut request = Request::new(access).labelled(label);
        if self.random.random_ratio(1, 8) {
            request = request.long();
        }
        // Who holds pins must not wait for ever: two engines could wait for each other through two truncations.
        let mode = match self.random.random_range(0..4) {
            0 => Mode::NoWait,
            _ if self.queue.is_empty() => Mode::wait(),
            _ => Mode::deadline(Instant::now() + SHORT_WAIT),
        };
        let file = life.file.waiting(mode);
        let result = self.contest.timed(&self.actor, Operation::Pin, || {
            file.pin(first * BLOCK_LEN, count * BLOCK_LEN, request)
        });
        match result {
            Ok(pin) => Some(pin),
            Err(Error::Dax(DaxError::BeyondEnd { .. } | DaxError::WouldBlock { .. } | DaxError::Wait(_))) => {
                self.contest.tally.refuse(Operation::Pin);
                None
            }
            // A defect, but the contest goes on: what it does to the bytes says more.
            Err(Error::Dax(DaxError::Moved { .. })) => {
                Tally::add(&self.contest.tally.moved_pins, 1);
                None
            }
            Err(error) => self.contest.settle(Operation::Pin, life, Err(error)),
        }
    }

    /// Short, mostly; sometimes as long as a disk takes.
    fn delay(&mut self) -> Duration {
        let micros = match self.random.random_range(0..16) {
            0 => self.random.random_range(2_000..15_000),
            1..6 => self.random.random_range(200..2_000),
            _ => self.random.random_range(0..200),
        };
        Duration::from_micros(micros)
    }

    /// Tells the other witness of a pin for writing.
    fn enter(&self, transfer: &Transfer) {
        if transfer.pin.access() == Access::Read {
            return;
        }
        for (place, block) in transfer.places.iter().zip(transfer.first..) {
            self.note_place(transfer, What::Pinned, (*place, block));
            if let Some(other) = self.contest.blocks.enter(*place, transfer.life.id) {
                let what = format!(
                    "block {place} of the pool is pinned for writing as block {block} of {}, and by file number {other}",
                    transfer.life.path
                );
                let history = self.contest.history(&transfer.life, Some(block), Some(*place));
                self.contest.find(Kind::TwoHolders, what, history);
            }
        }
    }

    fn note_place(&self, transfer: &Transfer, what: What, (place, block): (u64, u64)) {
        if let Some(glimpse) = transfer.life.glimpse(block) {
            self.contest.blocks.note(Event {
                micros: self.contest.micros(),
                what,
                actor: self.actor.number,
                owner: glimpse.owner(),
                first: place,
                count: 1,
            });
        }
    }

    /// Does what is due.
    fn work(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.queue.len() {
            if self.queue[at].due > now {
                at += 1;
                continue;
            }
            let mut transfer = self.queue.swap_remove(at);
            self.burst(&transfer);
            transfer.bursts -= 1;
            if transfer.bursts == 0 {
                self.finish(transfer);
            } else {
                transfer.due = now + self.delay();
                self.queue.push(transfer);
            }
        }
    }

    /// Looks at every page of a transfer: they are its own as long as it lives.
    fn look(&mut self, transfer: &Transfer, how: &str) {
        let mut bytes = std::mem::take(&mut self.buffer);
        let known = transfer.glimpses.iter().zip(&transfer.places);
        for ((glimpse, place), at) in known.zip(0..) {
            let Some(rule) = glimpse.and_then(Glimpse::rule) else {
                Tally::add(&self.contest.tally.unjudged_blocks, 1);
                continue;
            };
            if let Err(error) = transfer.pin.read(at * BLOCK_LEN, &mut bytes) {
                self.contest
                    .settle::<()>(Operation::Pin, &transfer.life, Err(error.into()));
                break;
            }
            let look = Look {
                how,
                pool_block: Some(*place),
                file: None,
            };
            let block = transfer.first + at;
            self.contest
                .judge(&transfer.life, block, &bytes, pinned(rule), look);
        }
        self.buffer = bytes;
    }

    /// Stores to some blocks of a transfer, or to parts of them.
    fn burst(&mut self, transfer: &Transfer) {
        self.look(transfer, "a pin of");
        if transfer.pin.access() == Access::Read {
            return;
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        for (glimpse, at) in transfer.glimpses.iter().zip(0..) {
            let is_chosen = self.random.random_ratio(3, 4);
            let Some(glimpse) = glimpse.filter(|glimpse| is_chosen && glimpse.rule().is_some()) else {
                continue;
            };
            self.turn += 1;
            let writer = Writer {
                actor: self.actor.number,
                turn: self.turn,
            };
            // Whole blocks, and some lines of a block as they come from a network.
            let line = self.random.random_range(0..BLOCK / 64) * 64;
            let range = if self.random.random_ratio(3, 4) {
                0..BLOCK
            } else {
                line..line + 64
            };
            let part = bytes.get_mut(range.clone()).unwrap_or_default();
            self.contest
                .stamps
                .fill(part, range.start, glimpse.owner(), writer);
            let offset = at * BLOCK_LEN + u64::try_from(range.start).unwrap_or(0);
            if let Err(error) = transfer.pin.write(offset, part) {
                self.contest
                    .settle::<()>(Operation::Pin, &transfer.life, Err(error.into()));
            }
            Tally::add(&self.contest.tally.stores, 1);
            Tally::add(&self.contest.tally.bytes, u64::try_from(range.len()).unwrap_or(0));
        }
        self.buffer = bytes;
        let count = u64::try_from(transfer.places.len()).unwrap_or(0);
        self.contest
            .note(&self.actor, &transfer.life, What::Stored, (transfer.first, count));
    }

    /// Ends a transfer.
    fn finish(&mut self, transfer: Transfer) {
        self.look(&transfer, "the end of a pin of");
        let count = u64::try_from(transfer.places.len()).unwrap_or(0);
        if transfer.pin.access() == Access::Write {
            for (place, block) in transfer.places.iter().zip(transfer.first..) {
                self.note_place(&transfer, What::Unpinned, (*place, block));
                self.contest.blocks.leave(*place);
            }
            if self.random.random_ratio(1, 4) {
                // What is stored is durable only then; a failure would be one of the medium.
                let _ = transfer.pin.persist(0, transfer.pin.len());
            }
        }
        self.contest.note(
            &self.actor,
            &transfer.life,
            What::Unpinned,
            (transfer.first, count),
        );
    }
}

/// The rule of a pinned block: a cut inside a block may make zeros of its end while it is pinned.
fn pinned(rule: Rule) -> Rule {
    match rule {
        Rule::Owned { owner, .. } => Rule::Owned {
            owner,
            may_be_zero: true,
        },
        any => any,
    }
}
