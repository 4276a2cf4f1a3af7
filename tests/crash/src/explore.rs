//! Goes through the images of a recording.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use udax_crash::{Cut, DEVICE, Domain, Happened, Image, Medium};

use crate::judge::{Depth, Recovery, judge};
use crate::likeness;
use crate::promise::{Moment, Promise};
use crate::record::{Act, Recording};

/// Of so many images one is not only compared but used.
const USED: u64 = 8;

/// How many images are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// At most so many for each moment of the workload.
    pub images: usize,
    /// At most so many for each moment of a recovery.
    pub again: usize,
    /// The recovery of one in so many images is gone through.
    pub every: u64,
    /// At most so many moments of a workload, spread over all of it.
    pub moments: usize,
}

impl Effort {
    /// As much of each moment, and of all of them.
    pub const fn of_all_moments(images: usize, again: usize, every: u64) -> Self {
        Self {
            images,
            again,
            every,
            moments: usize::MAX,
        }
    }
}

/// A power failure, and perhaps another one during the recovery from it.
///
/// Printed as one word: `events:cut` or `events:cut/events:cut`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// After how many events of the workload, and what was left.
    pub first: (usize, Cut),
    /// After how many events of the recovery, and what was left.
    pub second: Option<(usize, Cut)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first.0, self.first.1)?;
        match &self.second {
            Some((events, cut)) => write!(f, "/{events}:{cut}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let one = |part: &str| -> anyhow::Result<(usize, Cut)> {
            let (events, cut) = part.split_once(':').context("a place is EVENTS:CUT")?;
            Ok((events.parse().context("events")?, cut.parse()?))
        };
        let (first, second) = match word.split_once('/') {
            Some((first, second)) => (one(first)?, Some(one(second)?)),
            None => (one(word)?, None),
        };
        Ok(Self { first, second })
    }
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Moments at which power may have failed.
    pub moments: u64,
    /// Images judged.
    pub images: u64,
    /// Images of recoveries among them.
    pub recoveries: u64,
    /// Images that had been judged for the same promise before.
    pub repeated: u64,
}

impl Tally {
    /// Adds another one's counts.
    pub fn add(&mut self, other: &Self) {
        self.moments += other.moments;
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.repeated += other.repeated;
    }
}

/// What is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The power failure.
    pub place: Place,
    /// What is wrong.
    pub what: String,
}

/// What tells images apart.
#[derive(Debug, Default)]
pub struct Fingerprints {
    /// Of images after the first power failure.
    pub first: Vec<u128>,
    /// Of those after one in a recovery, but for the nonce of each.
    pub recoveries: Vec<u128>,
}

/// Goes through one recording.
#[derive(Debug)]
pub struct Explorer<'r> {
    recording: &'r Recording,
    domain: Domain,
    effort: Effort,
    seed: u64,
    judged: HashSet<(u128, Moment)>,
    /// Those of judged images, for who counts distinct ones and takes them away.
    pub fingerprints: Fingerprints,
    /// Counts so far.
    pub tally: Tally,
}

impl<'r> Explorer<'r> {
    /// Nothing is looked at yet.
    pub fn new(recording: &'r Recording, domain: Domain, effort: Effort, seed: u64) -> Self {
        Self {
            recording,
            domain,
            effort,
            seed,
            judged: HashSet::new(),
            fingerprints: Fingerprints::default(),
            tally: Tally::default(),
        }
    }

    /// Goes through all moments; `told` is called after each image, and ends the exploration by `false`.
    ///
    /// # Errors
    /// The first image that is not right.
    pub fn explore(&mut self, told: &mut dyn FnMut(&mut Self) -> bool) -> Result<(), Box<Violation>> {
        let recording = self.recording;
        let first = recording.opened();
        let mut medium = Medium::new(self.domain, recording.base.clone());
        let stride = self.stride();
        let mut moments = usize::try_from(self.seed % number(stride)).unwrap_or(0);
        for events in 0..=recording.events.len() {
            let is_moment = events >= first && recording.is_moment(events);
            moments += usize::from(is_moment);
            if is_moment && moments.is_multiple_of(stride) {
                self.tally.moments += 1;
                let moment = recording.moment(events);
                let promises = recording.promises(&moment);
                for cut in medium.cuts(self.effort.images, self.seed ^ number(events)) {
                    self.look(&medium, (events, cut), &moment, &promises)?;
                    if !told(self) {
                        return Ok(());
                    }
                }
            }
            recording.step(&mut medium, events);
        }
        Ok(())
    }

    /// Of so many moments one is looked at. An odd number: a record has two moments, and both kinds are to be seen.
    fn stride(&self) -> usize {
        let recording = self.recording;
        let all = recording.opened()..=recording.events.len();
        let moments = all.filter(|events| recording.is_moment(*events)).count();
        let least = moments.div_ceil(self.effort.moments.max(1));
        recording.stride.max(least) | 1
    }

    fn look(
        &mut self,
        medium: &Medium,
        first: (usize, Cut),
        moment: &Moment,
        promises: &[Promise],
    ) -> Result<(), Box<Violation>> {
        let image = medium.image(&first.1);
        let place = Place { first, second: None };
        let Some(recovery) = self.judge_new(&image, moment, promises, place)? else {
            return Ok(());
        };
        if self.tally.images.is_multiple_of(self.effort.every) {
            self.fail_again(&image, &recovery, first, moment, promises)?;
        }
        Ok(())
    }

    /// Judges an image unless it was judged for the same promises before.
    fn judge_new(
        &mut self,
        image: &Image,
        moment: &Moment,
        promises: &[Promise],
        place: Place,
    ) -> Result<Option<Recovery>, Box<Violation>> {
        if !self.judged.insert((image.fingerprint(), moment.clone())) {
            self.tally.repeated += 1;
            return Ok(None);
        }
        match place.second {
            None => self.fingerprints.first.push(image.fingerprint()),
            Some(_) => self.fingerprints.recoveries.push(likeness::fingerprint(image)),
        }
        self.tally.images += 1;
        let depth = match self.tally.images % USED {
            0 => Depth::Use,
            _ => Depth::Compare,
        };
        match judge(image, promises, depth) {
            Ok(recovery) => Ok(Some(recovery)),
            Err(what) => Err(Box::new(Violation { place, what })),
        }
    }

    /// Power fails during the recovery of `image`, or while the pool is closed after it.
    fn fail_again(
        &mut self,
        image: &Image,
        recovery: &[Happened],
        first: (usize, Cut),
        moment: &Moment,
        promises: &[Promise],
    ) -> Result<(), Box<Violation>> {
        let mut medium = Medium::new(self.domain, image.clone());
        for (events, event) in recovery.iter().enumerate() {
            if event.is_barrier() {
                let seed = self.seed ^ number(first.0 << 20) ^ number(events);
                for cut in medium.cuts(self.effort.again, seed) {
                    let place = Place {
                        first,
                        second: Some((events, cut)),
                    };
                    let again = medium.image(&cut);
                    if self.judge_new(&again, moment, promises, place)?.is_some() {
                        self.tally.recoveries += 1;
                    }
                }
            }
            medium.happen(event);
        }
        Ok(())
    }
}

impl Recording {
    /// Whether images after `events` events are to be looked at: before a fence, or a flush of the data device, there
    /// are most of them, and when an operation has returned its promise counts.
    fn is_moment(&self, events: usize) -> bool {
        let is_return = || {
            let mut steps = self.lanes.iter().flat_map(|lane| &lane.steps);
            steps.any(|step| step.returned == events)
        };
        self.events.get(events).is_none_or(Happened::is_barrier) || is_return()
    }

    /// What happens after `events` events: a file grows before anything is stored in what is added.
    fn step(&self, medium: &mut Medium, events: usize) {
        for step in self.lanes.iter().flat_map(|lane| &lane.steps) {
            if let Act::Grow(bytes) = step.act
                && step.began == events
            {
                medium.grow(bytes);
            }
        }
        if let Some(event) = self.events.get(events) {
            medium.happen(event);
        }
    }

    /// What a power failure leaves after so many events.
    ///
    /// # Errors
    /// There are fewer.
    fn image_at(&self, domain: Domain, (events, cut): (usize, Cut)) -> anyhow::Result<Image> {
        ensure!(
            events <= self.events.len(),
            "there are {} events only",
            self.events.len()
        );
        let mut medium = Medium::new(domain, self.base.clone());
        for event in 0..events {
            self.step(&mut medium, event);
        }
        Ok(medium.image(&cut))
    }

    /// Writes that to a file of the directory for temporary ones, and the data device's bytes to one beside it
    /// (`.device`).
    ///
    /// # Errors
    /// As [`Recording::judge_at`]; what the filesystem says.
    pub fn keep_image(&self, domain: Domain, place: (usize, Cut)) -> anyhow::Result<PathBuf> {
        let image = self.image_at(domain, place)?;
        let name = format!("udax-crash-{:032x}.pool", image.fingerprint());
        let path = std::env::temp_dir().join(name);
        write_part(&image, 0, image.len(), &path)?;
        if image.device_len() > 0 {
            write_part(&image, DEVICE, image.device_len(), &path.with_extension("device"))?;
        }
        Ok(path)
    }

    /// The image at `place`, judged.
    ///
    /// # Errors
    /// What is wrong with it; that there is no such place.
    pub fn judge_at(&self, domain: Domain, place: &Place) -> anyhow::Result<()> {
        let image = self.image_at(domain, place.first)?;
        let moment = self.moment(place.first.0);
        let promises = self.promises(&moment);
        let depth = match place.second {
            Some(_) => Depth::Compare,
            None => Depth::Use,
        };
        let recovery = judge(&image, &promises, depth).map_err(anyhow::Error::msg)?;
        let Some((events, cut)) = place.second else {
            return Ok(());
        };
        ensure!(
            events <= recovery.len(),
            "recovery has {} events only",
            recovery.len()
        );
        let mut medium = Medium::new(domain, image);
        for event in &recovery[..events] {
            medium.happen(event);
        }
        judge(&medium.image(&cut), &promises, Depth::Use).map_err(anyhow::Error::msg)?;
        Ok(())
    }
}

/// So many bytes of an image from `at` on as a file, zeros as holes.
fn write_part(image: &Image, at: u64, len: u64, path: &Path) -> anyhow::Result<()> {
    let file = File::create(path)?;
    file.set_len(len)?;
    let mut bytes = vec![0; 1 << 16];
    for from in (0..len).step_by(bytes.len()) {
        let count = bytes.len().min(usize::try_from(len - from)?);
        let part = &mut bytes[..count];
        image.read(at + from, part);
        if part.iter().any(|byte| *byte != 0) {
            file.write_all_at(part, from)?;
        }
    }
    Ok(())
}

fn number(events: usize) -> u64 {
    u64::try_from(events).unwrap_or(u64::MAX)
}
