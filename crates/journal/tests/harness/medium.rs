//! Recorded regions, and what a power failure may leave of them: [`udax_crash`], for steps that must not fail.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use udax_crash::{Cut, Domain, Pick};
use udax_pmem::{Recorder, Region, TraceRecorder, Traced};

pub(crate) const LINE: u64 = udax_pmem::LINE;

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

    /// As [`Image::region`], and what will be stored in it.
    pub(crate) fn recorded(&self) -> (Arc<Region>, Arc<TraceRecorder>) {
        let (region, trace) = self.0.recorded().unwrap();
        (Arc::new(region), trace)
    }

    /// As [`Image::region`]; `recorder` sees the image being stored, too.
    pub(crate) fn region_with(&self, recorder: Arc<dyn Recorder>) -> Arc<Region> {
        Arc::new(self.0.region_with(Some(recorder)).unwrap())
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
