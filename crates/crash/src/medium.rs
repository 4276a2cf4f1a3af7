//! The medium behind the caches: what is durable, and what may be.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::ThreadId;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_pmem::{OwnedEvent, Traced};

use crate::{Cut, DEVICE, DeviceEvent, Domain, Happened, Image, Pick};

const WORD: usize = 8;

/// What a data device writes as a whole.
const SECTOR: usize = 512;
const SECTOR_BYTES: u64 = 512;

/// Units from here on are sectors of the data device, those before are of the memory.
const SECTORS: u64 = 1 << 56;

/// What is stored, or written to the data device, in one piece.
#[derive(Clone, Debug)]
struct Word {
    /// Its place among all words that the trace stores.
    order: u64,
    /// In its unit.
    at: u16,
    bytes: Bytes,
    /// Stored past the cache.
    is_nontemporal: bool,
}

#[derive(Clone, Debug)]
enum Bytes {
    /// The first so many bytes: an aligned word, or a part of one.
    Word([u8; WORD], u8),
    /// A whole sector.
    Sector(Arc<[u8; SECTOR]>),
}

impl Word {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Word(bytes, len) => &bytes[..usize::from(*len)],
            Bytes::Sector(bytes) => bytes.as_slice(),
        }
    }
}

/// A unit to which words were stored that may be lost. Version `n` has the first `n` of them.
#[derive(Clone, Debug)]
struct Open {
    place: Place,
    /// As on the medium.
    durable: Vec<u8>,
    /// With all words.
    newest: Vec<u8>,
    words: Vec<Word>,
    /// Versions that a thread's next fence makes durable.
    flushed: Vec<(ThreadId, usize)>,
}

/// What a unit is a part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Memory,
    Device,
}

impl Place {
    fn of(unit: u64) -> Self {
        match unit < SECTORS {
            true => Self::Memory,
            false => Self::Device,
        }
    }
}

impl Open {
    fn version(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for word in &self.words[..count] {
            let at = usize::from(word.at);
            let stored = word.bytes();
            bytes[at..at + stored.len()].copy_from_slice(stored);
        }
        bytes
    }

    /// The fewest and the most words that the medium may have, of those before `until`.
    fn versions(&self, domain: Domain, until: u64) -> (usize, usize) {
        let most = self.words.partition_point(|word| word.order < until);
        let least = match domain {
            Domain::Eadr if self.place == Place::Memory => {
                let cached = self.words[..most].iter().rposition(|word| !word.is_nontemporal);
                cached.map_or(0, |last| last + 1)
            }
            Domain::Eadr | Domain::Flush | Domain::Msync => 0,
        };
        (least, most)
    }
}

/// Replays a trace.
#[derive(Clone, Debug)]
pub struct Medium {
    domain: Domain,
    durable: Image,
    open: BTreeMap<u64, Open>,
    /// Words stored so far.
    stored: u64,
    /// Words stored before the last fence.
    fenced: u64,
    /// Words stored before each store after it, and before each write to the device since its last flush.
    stores: Vec<u64>,
    writes: Vec<u64>,
}

impl Medium {
    /// A medium that has `durable`.
    pub fn new(domain: Domain, durable: Image) -> Self {
        Self {
            domain,
            durable,
            open: BTreeMap::new(),
            stored: 0,
            fenced: 0,
            stores: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Words of at most 8 bytes that were stored so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The file or device grows to `len` bytes, durably, as `udax_pmem::Region::grow` says.
    pub fn grow(&mut self, len: u64) {
        self.durable.grow(len);
    }

    /// Where a unit begins in an image, and how long it is.
    fn range(&self, unit: u64) -> (u64, u64) {
        match Place::of(unit) {
            Place::Memory => (unit * self.domain.unit(), self.domain.unit()),
            Place::Device => (DEVICE + (unit - SECTORS) * SECTOR_BYTES, SECTOR_BYTES),
        }
    }

    /// `event` happens, to the memory or to the data device.
    pub fn happen(&mut self, event: &Happened) {
        match event {
            Happened::Memory(traced) => self.step(traced),
            Happened::Device(DeviceEvent::Write { at, bytes }) => self.write_sectors(*at, bytes),
            Happened::Device(DeviceEvent::Flush) => self.flush_device(),
        }
    }

    /// Whole sectors; what is behind the last whole one is not written.
    fn write_sectors(&mut self, at: u64, bytes: &[u8]) {
        self.writes.push(self.stored);
        for (number, sector) in (at / SECTOR_BYTES..).zip(bytes.as_chunks::<SECTOR>().0) {
            let word = Word {
                order: self.stored,
                at: 0,
                bytes: Bytes::Sector(Arc::new(*sector)),
                is_nontemporal: true,
            };
            self.store_word(SECTORS + number, word);
            self.stored += 1;
        }
    }

    /// All that was written to the device is durable.
    fn flush_device(&mut self) {
        let sectors = self.open.split_off(&SECTORS);
        for (number, open) in sectors {
            let (at, _) = self.range(number);
            self.durable.write(at, &open.newest);
        }
        self.writes.clear();
    }

    /// `traced` happens.
    pub fn step(&mut self, traced: &Traced) {
        match &traced.event {
            OwnedEvent::Store { at, bytes } => self.store(*at, bytes, false),
            OwnedEvent::NonTemporal { at, bytes } => {
                self.store(*at, bytes, true);
                self.flush(traced.thread, *at, len_of(bytes));
            }
            OwnedEvent::Flush { at, len } => self.flush(traced.thread, *at, *len),
            OwnedEvent::Fence => self.fence(traced.thread),
        }
    }

    fn store(&mut self, mut at: u64, mut bytes: &[u8], is_nontemporal: bool) {
        let unit_bytes = self.domain.unit();
        self.stores.push(self.stored);
        while !bytes.is_empty() {
            let len = (WORD - usize::try_from(at % 8).unwrap_or(0)).min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            let mut padded = [0; WORD];
            padded[..len].copy_from_slice(now);
            let word = Word {
                order: self.stored,
                at: u16::try_from(at % unit_bytes).unwrap_or(0),
                bytes: Bytes::Word(padded, u8::try_from(len).unwrap_or(0)),
                is_nontemporal,
            };
            self.store_word(at / unit_bytes, word);
            self.stored += 1;
            at += u64::try_from(len).unwrap_or(0);
            bytes = rest;
        }
    }

    /// A word that changes nothing leaves nothing open: whether it is lost or not, the image is the same.
    fn store_word(&mut self, number: u64, word: Word) {
        // Not so where a cached store makes durable what was stored past the cache before.
        let may_matter = self.domain == Domain::Eadr && !word.is_nontemporal;
        let stored = word.bytes();
        let (from, to) = (usize::from(word.at), usize::from(word.at) + stored.len());
        if let Some(open) = self.open.get_mut(&number) {
            if may_matter || open.newest[from..to] != *stored {
                open.newest[from..to].copy_from_slice(stored);
                open.words.push(word);
            }
            return;
        }
        let (at, len) = self.range(number);
        let mut durable = vec![0; usize::try_from(len).unwrap_or(0)];
        self.durable.read(at, &mut durable);
        if durable[from..to] != *stored {
            let mut newest = durable.clone();
            newest[from..to].copy_from_slice(stored);
            let open = Open {
                place: Place::of(number),
                durable,
                newest,
                words: vec![word],
                flushed: Vec::new(),
            };
            self.open.insert(number, open);
        }
    }

    fn flush(&mut self, thread: ThreadId, at: u64, len: u64) {
        let unit = self.domain.unit();
        for number in at / unit..(at + len).div_ceil(unit) {
            if let Some(open) = self.open.get_mut(&number) {
                let version = open.words.len();
                open.flushed.retain(|(by, _)| *by != thread);
                open.flushed.push((thread, version));
            }
        }
    }

    fn fence(&mut self, thread: ThreadId) {
        let (domain, stored) = (self.domain, self.stored);
        let durable = &mut self.durable;
        self.open.retain(|number, open| {
            if open.place == Place::Device {
                return true;
            }
            let flushed = open.flushed.iter().find(|(by, _)| *by == thread);
            let cached = open.versions(domain, stored).0;
            let reached = flushed.map_or(0, |(_, version)| *version).max(cached);
            if reached == 0 {
                return true;
            }
            open.durable = open.version(reached);
            durable.write(number * domain.unit(), &open.durable);
            open.words.drain(..reached);
            open.flushed
                .retain(|(by, version)| *by != thread && *version > reached);
            for (_, version) in &mut open.flushed {
                *version -= reached;
            }
            !open.words.is_empty()
        });
        self.fenced = self.stored;
        self.stores.clear();
    }

    /// Units that were stored to and may be lost, ascending.
    pub fn open_units(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    /// How many images a power failure may leave now, not counting that some may be the same; `None`: more than 2^64.
    pub fn image_count(&self) -> Option<u64> {
        self.open.values().try_fold(1_u64, |count, open| {
            let (least, most) = open.versions(self.domain, u64::MAX);
            count.checked_mul(u64::try_from(most - least + 1).ok()?)
        })
    }

    /// The image that `cut` names.
    pub fn image(&self, cut: &Cut) -> Image {
        let until = cut.until.unwrap_or(u64::MAX);
        let mut image = self.durable.clone();
        let mut random = match cut.pick {
            Pick::Random(seed) => Some(Sample::new(seed)),
            _ => None,
        };
        let mut index = match cut.pick {
            Pick::Nth(index) => index,
            _ => 0,
        };
        for (number, open) in &self.open {
            let (least, most) = open.versions(self.domain, until);
            let version = match cut.pick {
                Pick::Least => least,
                Pick::Most => most,
                Pick::Memory => [least, most][usize::from(open.place == Place::Memory)],
                Pick::Device => [least, most][usize::from(open.place == Place::Device)],
                Pick::Without(unit) => [most, least][usize::from(unit == *number)],
                Pick::Only(unit) => [least, most][usize::from(unit == *number)],
                Pick::Since(order) => [least, most][usize::from(open.words[0].order >= order)],
                Pick::Random(_) => random.as_mut().map_or(most, |random| random.version(least, most)),
                Pick::Nth(_) => {
                    let count = u64::try_from(most - least + 1).unwrap_or(1);
                    let digit = usize::try_from(index % count).unwrap_or(0);
                    index /= count;
                    least + digit
                }
            };
            if version > 0 {
                image.write(self.range(*number).0, &open.version(version));
            }
        }
        image
    }

    /// The images to look at now: all, when they are at most `limit`; else the extremes, and samples by `seed`.
    ///
    /// The extremes concern what was stored since the last fence: that later stores have reached the medium, and
    /// earlier ones have not; of each unit, that only it is lost or only it has reached the medium; and that the
    /// failure came between two words. Of what was written to the data device since its last flush the same; and that
    /// all of it is lost and nothing of the memory, or the reverse.
    pub fn cuts(&self, limit: usize, seed: u64) -> Vec<Cut> {
        if self.domain != Domain::Eadr
            && let Some(count) = self.image_count()
            && count <= u64::try_from(limit).unwrap_or(u64::MAX)
        {
            return (0..count).map(|index| Cut::now(Pick::Nth(index))).collect();
        }
        let mut random = SmallRng::seed_from_u64(seed);
        // As many of the extremes as of random ones, when there is not room for all of both.
        let room = (limit / 2).saturating_sub(2);
        let mut overtaken = self.overtaken();
        let mut extremes = self.extremes(Place::Memory);
        let mut on_device = self.extremes(Place::Device);
        thin(&mut overtaken, room.div_ceil(2), &mut random);
        let room = room - overtaken.len();
        thin(&mut on_device, room / 2, &mut random);
        thin(&mut extremes, room - on_device.len(), &mut random);
        let mut cuts = vec![Cut::now(Pick::Least), Cut::now(Pick::Most)];
        if self.open.range(SECTORS..).next().is_some() {
            cuts.extend([Cut::now(Pick::Memory), Cut::now(Pick::Device)]);
        }
        cuts.append(&mut overtaken);
        cuts.append(&mut on_device);
        cuts.append(&mut extremes);
        while cuts.len() < limit {
            let until = match self.domain {
                Domain::Eadr => Some(random.random_range(self.fenced..=self.stored)),
                Domain::Flush | Domain::Msync => None,
            };
            let pick = Pick::Random(random.random_range(0..1 << 32));
            cuts.push(Cut { until, pick });
        }
        cuts.truncate(limit);
        cuts
    }

    /// What a fence that is missing lets happen: of the stores since the last one, later have overtaken earlier ones.
    fn overtaken(&self) -> Vec<Cut> {
        let all: BTreeSet<u64> = self.stores.iter().chain(&self.writes).copied().collect();
        let later = all.into_iter().skip(1);
        later.map(|order| Cut::now(Pick::Since(order))).collect()
    }

    fn extremes(&self, place: Place) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut orders = BTreeSet::new();
        for (number, open) in self.open.iter().filter(|(_, open)| open.place == place) {
            // No fence is for the device: all that is open there was written since its last flush.
            let is_fresh = |word: &Word| place == Place::Device || word.order >= self.fenced;
            if !open.words.last().is_some_and(is_fresh) {
                continue;
            }
            cuts.push(Cut::now(Pick::Without(*number)));
            cuts.push(Cut::now(Pick::Only(*number)));
            orders.extend(
                open.words
                    .iter()
                    .filter(|word| is_fresh(word))
                    .map(|word| word.order),
            );
        }
        cuts.extend(orders.into_iter().map(|order| Cut {
            until: Some(order),
            pick: Pick::Most,
        }));
        cuts
    }
}

/// Leaves `room` of them, at most, chosen by `random`.
fn thin(cuts: &mut Vec<Cut>, room: usize, random: &mut SmallRng) {
    while cuts.len() > room {
        let last = random.random_range(0..cuts.len());
        cuts.swap_remove(last);
    }
}

/// Random versions. How many units are at an extreme is random too: among dozens of units independent choices would
/// never leave just one of them behind.
struct Sample {
    random: SmallRng,
    newest_in_16: u32,
    middle_in_16: u32,
}

impl Sample {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        Self {
            newest_in_16: random.random_range(0..=16),
            middle_in_16: random.random_range(0..=8),
            random,
        }
    }

    fn version(&mut self, least: usize, most: usize) -> usize {
        if self.random.random_range(0..16) < self.middle_in_16 {
            return self.random.random_range(least..=most);
        }
        match self.random.random_range(0..16) < self.newest_in_16 {
            true => most,
            false => least,
        }
    }
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
