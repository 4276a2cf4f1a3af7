//! Power failures while a damaged pool is mended: mending what is left gives what mending would have given. Mounted
//! instead, it is refused with a place, or gives right bytes or errors, and can be mended after that.

use std::sync::Arc;

use anyhow::Context;
use udax::MountOptions;
use udax_check::{CheckOptions, Silent, check};
use udax_crash::{Cut, Domain, Medium};
use udax_journal::JournalError;
use udax_pmem::{OwnedEvent, Region, RegionOptions, TraceRecorder, Traced};

use crate::case::{Bench, Expectation, use_pool};
use crate::damage::Damage;
use crate::image::Image;
use crate::place::Role;
use crate::tree::{State, Tree, compare};

/// What [`use_pool`] changes or makes in the root directory and elsewhere.
const USED: &[&[u8]] = &[
    b"used",
    b"islands",
    b"origin",
    b"attributes",
    b"last",
    b"copy",
    b"inline",
    b"hard",
];

impl Bench<'_> {
    /// Mends what `damage` does, lets power fail just before each fence of that on a machine of `domain`, and judges at
    /// most `images` images of each moment; how many those were.
    ///
    /// # Errors
    /// What is wrong with one, and which it is.
    pub fn judge_interrupted(
        &self,
        damage: Damage,
        domain: Domain,
        (images, seed): (usize, u64),
    ) -> anyhow::Result<u64> {
        self.damage(damage)?;
        let (base, events) = self.recorded_repair()?;
        let mut medium = Medium::new(domain, base);
        let mut judged = 0;
        for (number, event) in (0_u64..).zip(&events) {
            if matches!(event.event, OwnedEvent::Fence) {
                for cut in medium.cuts(images, seed ^ number) {
                    let image = medium.image(&cut);
                    let mut bytes = vec![0; usize::try_from(image.len())?];
                    image.read(0, &mut bytes);
                    let left = Image::new(bytes);
                    self.scratch.load(&left, self.sample.device.as_deref())?;
                    self.judge_mended_again(damage).with_context(|| {
                        format!("power failed before event {number} of the repair, {cut}")
                    })?;
                    self.scratch.load(&left, self.sample.device.as_deref())?;
                    self.judge_mounted(damage).with_context(|| {
                        format!("power failed before event {number} of the repair, {cut}, and it was mounted")
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

    /// Judges what a repair left that was interrupted, opened read-only, then used, then mended.
    fn judge_mounted(&self, damage: Damage) -> anyhow::Result<()> {
        let expected = self.expect(damage);
        let read_only = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        match self.scratch.open(read_only) {
            Ok(fs) => {
                self.judge_left(&Tree::read(&fs), &expected)
                    .context("read-only")?;
                fs.close()?;
            }
            // Records are not replayed without a change.
            Err(udax::Error::Journal(JournalError::Unclean)) => {}
            Err(error) => is_placed(error).context("read-only")?,
        }
        let fs = match self.scratch.open(MountOptions::default()) {
            Ok(fs) => fs,
            Err(error) => return is_placed(error),
        };
        self.judge_left(&Tree::read(&fs), &expected)?;
        // Errors are right answers; other bytes than before are not.
        let _ = use_pool(&fs);
        let after = Tree::read(&fs).without(USED);
        let _ = fs.close();
        let before = self.sample.tree.clone().without(USED);
        if !self.hides_loss(damage, &expected) {
            let compared = |state| compare(&before, &after, &expected.cost, state);
            compared(State::Damaged)
                .or_else(|_| compared(State::Sound))
                .map_err(anyhow::Error::msg)
                .context("used")?;
        }
        self.mended(0..=1).context("used")?;
        Ok(())
    }

    /// Before its first step the pool is damaged, after the last it is mended; between them it is not opened.
    fn judge_left(&self, found: &Tree, expected: &Expectation) -> anyhow::Result<()> {
        let Err(as_damaged) = self.judge_opened(found, expected) else {
            return Ok(());
        };
        let judged = self.judge_tree(found, expected, State::Sound);
        judged
            .map(|_| ())
            .with_context(|| format!("neither damaged ({as_damaged}) nor mended"))
    }

    /// Whether only a check can tell what was lost, and a use before one makes it worse. An inode chunk of zeros is one
    /// whose inodes were never used, and gets new ones. A bitmap that was right once, or that records have sealed,
    /// gives out blocks that have owners.
    fn hides_loss(&self, damage: Damage, expected: &Expectation) -> bool {
        let is_sealed = expected.may_go_unnoticed;
        damage
            .changes(self.sample)
            .iter()
            .any(|(block, _)| match self.places.roles.get(block) {
                Some(Role::Chunk(_)) => matches!(damage, Damage::Fill(_, 0)),
                Some(Role::Bitmap) => is_sealed,
                _ => false,
            })
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

/// The error says where what is wrong is.
fn is_placed(error: udax::Error) -> anyhow::Result<()> {
    let is_placed = matches!(
        error,
        udax::Error::Corrupt(_)
            | udax::Error::Inconsistent { .. }
            | udax::Error::Region(_)
            | udax::Error::Journal(JournalError::HalfMended { .. })
    );
    anyhow::ensure!(is_placed, "refused without a place: {error}");
    Ok(())
}
