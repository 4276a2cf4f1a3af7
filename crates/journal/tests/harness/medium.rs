//! What is durable: replays a recorded trace line by line and makes the images that a power cut may leave.
//!
//! Lines are independent; the stores of one line reach the medium in order, in units of at most 8 bytes; what was
//! flushed or stored past the cache before a fence of the same thread is durable after it.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use udax_pmem::{Event, Recorder, Region};
use udax_sync::{Mutex, Rank};

pub(crate) const LINE: u64 = 64;
type Line = [u8; 64];

/// An [`Event`] that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Store { at: u64, bytes: Vec<u8> },
    NonTemporal { at: u64, bytes: Vec<u8> },
    Flush { at: u64, len: u64 },
    Fence,
}

/// Keeps every event of a region, with its thread.
#[derive(Debug)]
pub(crate) struct Trace {
    steps: Mutex<Vec<(usize, Step)>>,
}

impl Trace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            steps: Mutex::new(Rank::Leaf, Vec::new()),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.lock().len()
    }

    pub(crate) fn steps(&self) -> Vec<(usize, Step)> {
        self.steps.lock().clone()
    }

    /// The events since `from`.
    pub(crate) fn since(&self, from: usize) -> Vec<Step> {
        self.steps.lock()[from..]
            .iter()
            .map(|(_, step)| step.clone())
            .collect()
    }
}

impl Recorder for Trace {
    fn record(&self, event: Event<'_>) {
        let step = match event {
            Event::Store { at, bytes } => Step::Store {
                at,
                bytes: bytes.to_vec(),
            },
            Event::NonTemporal { at, bytes } => Step::NonTemporal {
                at,
                bytes: bytes.to_vec(),
            },
            Event::Flush { at, len } => Step::Flush { at, len },
            Event::Fence => Step::Fence,
        };
        self.steps.lock().push((udax_sync::thread_number(), step));
    }
}

/// The lines of a region that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) len: u64,
    pub(crate) lines: BTreeMap<u64, Line>,
}

impl Image {
    pub(crate) fn of(region: &Region) -> Self {
        let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
        region.read(0, &mut bytes).unwrap();
        let lines = bytes
            .as_chunks::<64>()
            .0
            .iter()
            .zip(0_u64..)
            .filter(|(line, _)| **line != [0; 64])
            .map(|(line, number)| (number, *line))
            .collect();
        Self {
            len: region.len(),
            lines,
        }
    }

    pub(crate) fn region(&self, recorder: Option<Arc<dyn Recorder>>) -> Arc<Region> {
        let region = Region::anonymous(self.len, recorder).unwrap();
        for (number, line) in &self.lines {
            region.store(number * LINE, line).unwrap();
        }
        Arc::new(region)
    }

    /// As [`Image::region`], recorded from after the image is in place.
    pub(crate) fn recorded(&self) -> (Arc<Region>, Arc<Trace>, usize) {
        let trace = Trace::new();
        let region = self.region(Some(trace.clone()));
        let start = trace.len();
        (region, trace, start)
    }

    pub(crate) fn set_line(&mut self, number: u64, line: Line) {
        self.lines.insert(number, line);
    }
}

/// A line's contents since it was last durable, oldest (durable) first.
#[derive(Clone, Debug)]
struct History {
    versions: Vec<Line>,
    /// Versions that a thread's next fence makes durable.
    flushed: Vec<(usize, usize)>,
}

/// The medium behind the cache.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    durable: Image,
    open: BTreeMap<u64, History>,
}

/// Which of the images that a power cut may leave.
pub(crate) enum Cut<'r, R> {
    /// Nothing but what is durable.
    Least,
    /// All that was stored.
    Most,
    /// Of each line some version.
    Random(&'r mut R),
}

impl Medium {
    pub(crate) fn new(durable: Image) -> Self {
        Self {
            durable,
            open: BTreeMap::new(),
        }
    }

    fn history(&mut self, line: u64) -> &mut History {
        let base = self.durable.lines.get(&line).copied().unwrap_or([0; 64]);
        self.open.entry(line).or_insert_with(|| History {
            versions: vec![base],
            flushed: Vec::new(),
        })
    }

    fn store(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let word = usize::try_from(8 - at % 8).unwrap().min(bytes.len());
            let (now, rest) = bytes.split_at(word);
            let history = self.history(at / LINE);
            let mut line = *history.versions.last().unwrap();
            let from = usize::try_from(at % LINE).unwrap();
            line[from..from + word].copy_from_slice(now);
            history.versions.push(line);
            at += u64::try_from(word).unwrap();
            bytes = rest;
        }
    }

    fn flush(&mut self, thread: usize, at: u64, len: u64) {
        for line in at / LINE..(at + len).div_ceil(LINE) {
            if let Some(history) = self.open.get_mut(&line) {
                let version = history.versions.len() - 1;
                history.flushed.push((thread, version));
            }
        }
    }

    fn fence(&mut self, thread: usize) {
        let durable = &mut self.durable;
        self.open.retain(|line, history| {
            let reached = history
                .flushed
                .iter()
                .filter(|(by, _)| *by == thread)
                .map(|(_, version)| *version)
                .max();
            let Some(reached) = reached else { return true };
            durable.set_line(*line, history.versions[reached]);
            history.versions.drain(..reached);
            history
                .flushed
                .retain(|(by, version)| *by != thread && *version > reached);
            for (_, version) in &mut history.flushed {
                *version -= reached;
            }
            history.versions.len() > 1
        });
    }

    pub(crate) fn step(&mut self, thread: usize, step: &Step) {
        match step {
            Step::Store { at, bytes } => self.store(*at, bytes),
            Step::NonTemporal { at, bytes } => {
                self.store(*at, bytes);
                self.flush(thread, *at, u64::try_from(bytes.len()).unwrap());
            }
            Step::Flush { at, len } => self.flush(thread, *at, *len),
            Step::Fence => self.fence(thread),
        }
    }

    pub(crate) fn replay(&mut self, steps: &[(usize, Step)]) {
        for (thread, step) in steps {
            self.step(*thread, step);
        }
    }

    /// Lines that are stored and not durable yet.
    pub(crate) fn open_lines(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    /// The durable image with the newest version of only these lines.
    pub(crate) fn with_lines(&self, lines: &[u64]) -> Image {
        let mut image = self.durable.clone();
        for line in lines {
            image.set_line(*line, *self.open[line].versions.last().unwrap());
        }
        image
    }

    pub(crate) fn image<R: Rng>(&self, cut: Cut<'_, R>) -> Image {
        let mut image = self.durable.clone();
        match cut {
            Cut::Least => {}
            Cut::Most => {
                for (line, history) in &self.open {
                    image.set_line(*line, *history.versions.last().unwrap());
                }
            }
            Cut::Random(random) => {
                for (line, history) in &self.open {
                    let version = random.random_range(0..history.versions.len());
                    image.set_line(*line, history.versions[version]);
                }
            }
        }
        image
    }
}
