//! The medium behind the caches: what is durable, and what may be.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::thread::ThreadId;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_pmem::{OwnedEvent, Traced};

use crate::{Cut, Domain, Image, Pick};

const WORD: usize = 8;

/// An aligned word, or a part of one, that is stored.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// Its place among all words that the trace stores.
    order: u64,
    /// In its unit.
    at: u16,
    len: u8,
    bytes: [u8; WORD],
    /// Stored past the cache.
    is_nontemporal: bool,
}

/// A unit to which words were stored that may be lost. Version `n` has the first `n` of them.
#[derive(Clone, Debug)]
struct Open {
    /// As on the medium.
    durable: Vec<u8>,
    /// With all words.
    newest: Vec<u8>,
    words: Vec<Word>,
    /// Versions that a thread's next fence makes durable.
    flushed: Vec<(ThreadId, usize)>,
}

impl Open {
    fn version(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for word in &self.words[..count] {
            let at = usize::from(word.at);
            let len = usize::from(word.len);
            bytes[at..at + len].copy_from_slice(&word.bytes[..len]);
        }
        bytes
    }

    /// The fewest and the most words that the medium may have, of those before `until`.
    fn versions(&self, domain: Domain, until: u64) -> (usize, usize) {
        let most = self.words.partition_point(|word| word.order < until);
        let least = match domain {
            Domain::Eadr => {
                let cached = self.words[..most].iter().rposition(|word| !word.is_nontemporal);
                cached.map_or(0, |last| last + 1)
            }
            Domain::Flush | Domain::Msync => 0,
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
    /// Words stored before each store after it.
    stores: Vec<u64>,
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
            let mut word = Word {
                order: self.stored,
                at: u16::try_from(at % unit_bytes).unwrap_or(0),
                len: u8::try_from(len).unwrap_or(0),
                bytes: [0; WORD],
                is_nontemporal,
            };
            word.bytes[..len].copy_from_slice(now);
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
        let (from, to) = (usize::from(word.at), usize::from(word.at) + usize::from(word.len));
        let stored = &word.bytes[..usize::from(word.len)];
        if let Some(open) = self.open.get_mut(&number) {
            if may_matter || open.newest[from..to] != *stored {
                open.newest[from..to].copy_from_slice(stored);
                open.words.push(word);
            }
            return;
        }
        let mut durable = vec![0; usize::try_from(self.domain.unit()).unwrap_or(0)];
        self.durable.read(number * self.domain.unit(), &mut durable);
        if durable[from..to] != *stored {
            let mut newest = durable.clone();
            newest[from..to].copy_from_slice(stored);
            let open = Open {
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
                image.write(number * self.domain.unit(), &open.version(version));
            }
        }
        image
    }

    /// The images to look at now: all, when they are at most `limit`; else the extremes, and samples by `seed`.
    ///
    /// The extremes concern what was stored since the last fence: that later stores have reached the medium, and
    /// earlier ones have not; of each unit, that only it is lost or only it has reached the medium; and that the
    /// failure came between two words.
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
        let mut extremes = self.extremes();
        thin(&mut overtaken, room.div_ceil(2), &mut random);
        thin(&mut extremes, room - overtaken.len(), &mut random);
        let mut cuts = vec![Cut::now(Pick::Least), Cut::now(Pick::Most)];
        cuts.append(&mut overtaken);
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
        let later = self.stores.iter().skip(1);
        later.map(|order| Cut::now(Pick::Since(*order))).collect()
    }

    fn extremes(&self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut orders = BTreeSet::new();
        for (number, open) in &self.open {
            let is_fresh = |word: &Word| word.order >= self.fenced;
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
