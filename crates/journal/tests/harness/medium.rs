//! Recorded regions, and what a power failure may leave of them: [`udax_crash`], for steps that must not fail.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use udax_crash::{Cut, Domain, Pick};
use udax_pmem::{Event, Recorder, Region, Traced};
use udax_sync::{Mutex, Rank};

pub(crate) const LINE: u64 = udax_pmem::LINE;

/// Keeps every event of a region.
#[derive(Debug)]
pub(crate) struct Trace {
    events: Mutex<Vec<Traced>>,
}

impl Trace {
    pub(crate) fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// The events since there were `from` of them.
    pub(crate) fn since(&self, from: usize) -> Vec<Traced> {
        self.events.lock()[from..].to_vec()
    }
}

impl Recorder for Trace {
    fn record(&self, event: Event<'_>) {
        let thread = std::thread::current().id();
        let event = event.into();
        self.events.lock().push(Traced { thread, event });
    }
}

/// The bytes of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(udax_crash::Image);

impl Image {
    pub(crate) fn of(region: &Region) -> Self {
        Self(udax_crash::Image::of(region).unwrap())
    }

    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read(at, &mut bytes);
        bytes
    }

    pub(crate) fn set_line(&mut self, line: u64, bytes: [u8; 64]) {
        self.0.write(line * LINE, &bytes);
    }

    pub(crate) fn grow(&mut self, len: u64) {
        self.0.grow(len);
    }

    pub(crate) fn region(&self) -> Arc<Region> {
        Arc::new(self.0.region().unwrap())
    }

    /// As [`Image::region`], with what will be stored in it, and how many events of that are the image itself.
    pub(crate) fn recorded(&self) -> (Arc<Region>, Arc<Trace>, usize) {
        let trace = Arc::new(Trace {
            events: Mutex::new(Rank::Leaf, Vec::new()),
        });
        let region = self.region_with(trace.clone());
        let start = trace.len();
        (region, trace, start)
    }

    /// As [`Image::region`]; `recorder` sees the image being stored, too.
    pub(crate) fn region_with(&self, recorder: Arc<dyn Recorder>) -> Arc<Region> {
        let region = Region::anonymous(self.0.len(), Some(recorder)).unwrap();
        let mut at = 0;
        while at < self.0.len() {
            let bytes: [u8; 4096] = self.read(at);
            if bytes != [0; 4096] {
                region.store(at, &bytes).unwrap();
            }
            at += 4096;
        }
        Arc::new(region)
    }
}

/// The medium behind the caches.
#[derive(Clone, Debug)]
pub(crate) struct Medium(udax_crash::Medium);

impl Medium {
    pub(crate) fn new(durable: Image) -> Self {
        Self(udax_crash::Medium::new(Domain::Flush, durable.0))
    }

    pub(crate) fn step(&mut self, event: &Traced) {
        self.0.step(event);
    }

    pub(crate) fn replay(&mut self, events: &[Traced]) {
        events.iter().for_each(|event| self.step(event));
    }

    /// Lines that are stored and not durable yet.
    pub(crate) fn open_lines(&self) -> Vec<u64> {
        self.0.open_units()
    }

    /// Nothing but what is durable.
    pub(crate) fn least(&self) -> Image {
        Image(self.0.image(&Cut::now(Pick::Least)))
    }

    /// All that was stored.
    pub(crate) fn most(&self) -> Image {
        Image(self.0.image(&Cut::now(Pick::Most)))
    }

    /// Of each line some version.
    pub(crate) fn sample(&self, seed: u64) -> Image {
        Image(self.0.image(&Cut::now(Pick::Random(seed))))
    }

    /// What is durable, with the newest version of only these lines.
    pub(crate) fn with_lines(&self, lines: &[u64]) -> Image {
        let (mut image, newest) = (self.least(), self.most());
        for line in lines {
            image.0.write(line * LINE, &newest.read::<64>(line * LINE));
        }
        image
    }
}
