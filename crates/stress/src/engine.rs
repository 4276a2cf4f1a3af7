//! DMA engines: threads with a queue of transfers, which store to pinned pages at their own time, by themselves or
//! through a [`DmaRing`].
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

use crate::contest::{Contest, Look};
use crate::dma_ring::{DmaRing, MAX_FLIGHT_BLOCKS, MAX_RUNS, Patience, Run};
use crate::history::{Event, What};
use crate::life::{Glimpse, Life, OpenLife};
use crate::referee::Actor;
use crate::report::Kind;
use crate::stamp::{BLOCK, BLOCK_LEN, Owner, Rule, Writer};
use crate::tally::{Operation, Tally};

/// Transfers that an engine has under way at most.
const QUEUE: usize = 6;
/// How long a pin waits while the engine has other pins: those are perhaps what it waits for.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// Files without a name that an engine remembers.
const REMEMBERED: usize = 3;

/// A pin, and what is stored through it.
pub(crate) struct Transfer {
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

impl Transfer {
    fn blocks(&self) -> u64 {
        u64::try_from(self.places.len()).unwrap_or(0)
    }
}

impl AsMut<Pin> for Transfer {
    fn as_mut(&mut self) -> &mut Pin {
        &mut self.pin
    }
}

/// What stores for an engine.
pub(crate) enum Port {
    /// Its own thread.
    Thread,
    /// The machine.
    Ring(Box<DmaRing<Transfer>>),
}

/// A thread that acts as a DMA engine.
pub(crate) struct Engine {
    port: Port,
    contest: Arc<Contest>,
    actor: Arc<Actor>,
    random: SmallRng,
    queue: Vec<Transfer>,
    remembered: Vec<Arc<OpenLife>>,
    turn: u64,
    buffer: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(contest: Arc<Contest>, actor: Arc<Actor>, port: Port) -> Self {
        let seed = contest.options.seed.wrapping_add(actor.number << 32);
        Self {
            port,
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
            if self.queue.len() + self.flying() < QUEUE && self.random.random_ratio(2, 3) {
                self.start();
            }
            self.work();
            self.land(Patience::None);
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
        while self.flying() > 0 {
            self.land(Patience::One);
        }
        while let Some(transfer) = self.queue.pop() {
            self.finish(transfer);
        }
    }

    fn flying(&self) -> usize {
        match &self.port {
            Port::Thread => 0,
            Port::Ring(ring) => ring.flying(),
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
        if self.remembered.len() < REMEMBERED && self.random.random_ratio(1, 8) {
            self.remembered.push(Arc::clone(&life));
        }
        Some(life)
    }

    /// Begins a transfer.
    fn start(&mut self) {
        let Some(life) = self.choose() else { return };
        let blocks = self.contest.size_of(&life).div_ceil(BLOCK_LEN);
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
            _ if self.queue.is_empty() && self.flying() == 0 => Mode::wait(),
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
                    "block {place} of the pool is pinned for writing as block {block} of {}, and by file {other}",
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
            let transfer = self.queue.swap_remove(at);
            self.look(&transfer, "a pin of");
            if transfer.pin.access() == Access::Read {
                self.go_on(transfer);
            } else if let Port::Ring(_) = self.port {
                self.take_off(transfer);
            } else {
                self.burst(&transfer);
                self.go_on(transfer);
            }
        }
    }

    /// After a burst: waits for the next, or ends.
    fn go_on(&mut self, mut transfer: Transfer) {
        transfer.bursts -= 1;
        if transfer.bursts == 0 {
            self.finish(transfer);
        } else {
            transfer.due = Instant::now() + self.delay();
            self.queue.push(transfer);
        }
    }

    /// Lets the machine store to the first blocks of a transfer that may be stored to.
    fn take_off(&mut self, transfer: Transfer) {
        let (runs, owners) = runs(&transfer);
        self.turn += 1;
        let (writer, stamps) = (self.writer(), self.contest.stamps);
        let Port::Ring(ring) = &mut self.port else { return };
        if runs.is_empty() {
            self.go_on(transfer);
            return;
        }
        let (life, range) = (Arc::clone(&transfer.life), (transfer.first, transfer.blocks()));
        let started = ring.take_off(transfer, &runs, |bytes| {
            for (bytes, owner) in bytes.chunks_exact_mut(BLOCK).zip(&owners) {
                stamps.fill(bytes, 0, *owner, writer);
            }
        });
        match started {
            Ok(()) => self.contest.note(&self.actor, &life, What::Stored, range),
            Err((transfer, result)) => self.landed(transfer, result, 0),
        }
        Tally::add(
            &self.contest.tally.stores,
            u64::try_from(owners.len()).unwrap_or(0),
        );
        Tally::add(
            &self.contest.tally.bytes,
            u64::try_from(owners.len() * BLOCK).unwrap_or(0),
        );
    }

    fn land(&mut self, patience: Patience) {
        let Port::Ring(ring) = &mut self.port else { return };
        if ring.flying() == 0 {
            return;
        }
        let landed = ring.land(patience);
        if ring.has_buffers() {
            let count = u64::try_from(landed.len()).unwrap_or(0);
            Tally::add(&self.contest.tally.registered_reads, count);
        }
        for (transfer, result) in landed {
            self.landed(transfer, result, 1);
        }
    }

    /// The machine has stored, or not.
    fn landed(&mut self, transfer: Transfer, result: std::io::Result<()>, flights: u64) {
        Tally::add(&self.contest.tally.dma_reads, flights);
        if let Err(error) = result {
            let what = format!("a direct read into pages of {}: {error}", transfer.life.path);
            self.contest.find(Kind::Failed, what, Vec::new());
        }
        self.go_on(transfer);
    }

    fn writer(&self) -> Writer {
        Writer {
            actor: self.actor.number,
            turn: self.turn,
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
        let mut bytes = std::mem::take(&mut self.buffer);
        for (glimpse, at) in transfer.glimpses.iter().zip(0..) {
            let is_chosen = self.random.random_ratio(3, 4);
            let Some(glimpse) = glimpse.filter(|glimpse| is_chosen && glimpse.rule().is_some()) else {
                continue;
            };
            self.turn += 1;
            let writer = self.writer();
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
        let range = (transfer.first, transfer.blocks());
        self.contest
            .note(&self.actor, &transfer.life, What::Stored, range);
    }

    /// Ends a transfer.
    fn finish(&mut self, transfer: Transfer) {
        self.look(&transfer, "the end of a pin of");
        let range = (transfer.first, transfer.blocks());
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
        self.contest
            .note(&self.actor, &transfer.life, What::Unpinned, range);
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

/// The first blocks of a transfer whose owner is known, in runs that lie in a row in memory, and their owners.
fn runs(transfer: &Transfer) -> (Vec<Run>, Vec<Owner>) {
    let mut runs: Vec<Run> = Vec::new();
    let mut owners = Vec::new();
    let mut last = None;
    let known = transfer.glimpses.iter().zip(&transfer.places).zip(0..);
    for ((glimpse, place), at) in known {
        let Some(glimpse) = glimpse.filter(|glimpse| glimpse.rule().is_some()) else {
            last = None;
            continue;
        };
        if owners.len() == MAX_FLIGHT_BLOCKS {
            break;
        }
        let is_full = runs.len() == MAX_RUNS;
        match runs.last_mut() {
            Some(run) if last.is_some_and(|last| last + 1 == *place) => run.blocks += 1,
            _ if is_full => break,
            _ => runs.push(Run {
                at: at * BLOCK_LEN,
                blocks: 1,
                source: owners.len(),
            }),
        }
        owners.push(glimpse.owner());
        last = Some(*place);
    }
    (runs, owners)
}
