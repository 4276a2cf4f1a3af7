//! Power failures while a damaged pool is mended: mending what is left gives what mending would have given.

use std::sync::Arc;

use anyhow::Context;
use udax_check::{CheckOptions, Silent, check};
use udax_crash::{Cut, Domain, Medium};
use udax_pmem::{OwnedEvent, Region, RegionOptions, TraceRecorder, Traced};

use crate::case::Bench;
use crate::damage::Damage;
use crate::image::Image;

impl Bench<'_> {
    /// Mends what `damage` does, lets power fail just before each fence of that, and judges at most `images` images of
    /// each moment; how many those were.
    ///
    /// # Errors
    /// What is wrong with one, and which it is.
    pub fn judge_interrupted(&self, damage: Damage, images: usize, seed: u64) -> anyhow::Result<u64> {
        self.damage(damage)?;
        let (base, events) = self.recorded_repair()?;
        let mut medium = Medium::new(Domain::Flush, base);
        let mut judged = 0;
        for (number, event) in (0_u64..).zip(&events) {
            if matches!(event.event, OwnedEvent::Fence) {
                for cut in medium.cuts(images, seed ^ number) {
                    let image = medium.image(&cut);
                    let mut bytes = vec![0; usize::try_from(image.len())?];
                    image.read(0, &mut bytes);
                    self.scratch.load(&Image::new(bytes))?;
                    self.judge_mended_again(damage).with_context(|| {
                        format!("power failed before event {number} of the repair, {cut}")
                    })?;
                    judged += 1;
                }
            }
            medium.step(event);
        }
        // The whole repair: the base of all this.
        let least = medium.image(&Cut::now(udax_crash::Pick::Least));
        let most = medium.image(&Cut::now(udax_crash::Pick::Most));
        anyhow::ensure!(
            least.fingerprint() == most.fingerprint(),
            "a repair that has returned is not durable"
        );
        Ok(judged)
    }

    fn recorded_repair(&self) -> anyhow::Result<(udax_crash::Image, Vec<Traced>)> {
        let trace = Arc::new(TraceRecorder::new());
        let options = RegionOptions {
            recorder: Some(trace.clone()),
            ..RegionOptions::default()
        };
        let region = Region::open(self.scratch.path(), options)?;
        let base = udax_crash::Image::of(&region)?;
        let options = CheckOptions {
            repair: true,
            threads: 1,
            ..CheckOptions::default()
        };
        check(&region, &options, &Silent).context("mending")?;
        Ok((base, trace.take()))
    }
}
