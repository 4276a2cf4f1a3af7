//! One damage, judged.

use std::ops::RangeInclusive;

use anyhow::Context;
use udax::{Dax, Filesystem, MountOptions, NewInode, OpenFlags, Owner, RenameMode, XattrMode};
use udax_check::{CheckOptions, Problem, Report, Silent, check};
use udax_media::{BLOCK_BYTES, Place};
use udax_pmem::{Region, RegionOptions};

use crate::damage::Damage;
use crate::image::Scratch;
use crate::naming::{differences, is_named};
use crate::place::{Places, Role};
use crate::sample::{Ending, Sample};
use crate::tree::{Allowance, State, Tree, compare};

/// What became of a damage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// Nothing is different.
    Harmless,
    /// The check found it; mended without loss.
    Mended,
    /// The check found it; something that it touched is lost, and the report says so.
    MendedWithLoss,
    /// Not found, and something that it touched is different: only where no checksum can tell.
    Unnoticed,
    /// The pool cannot be believed at all, and the check says so.
    Refused,
}

impl Outcome {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Mended => "mended",
            Self::MendedWithLoss => "mended, with loss",
            Self::Unnoticed => "unnoticed",
            Self::Refused => "refused",
        }
    }
}

/// The most problems of a report that a failure shows.
const SHOWN: usize = 12;
const CREATE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::CREATE);
const NEW: NewInode = NewInode {
    permissions: 0o640,
    owner: Owner { uid: 1, gid: 1 },
};

/// A sample, what is known of it, and a place to damage it.
#[derive(Debug)]
pub struct Bench<'s> {
    /// The pool.
    pub sample: &'s Sample,
    /// What its blocks are for.
    pub places: &'s Places,
    /// Where it is damaged.
    pub scratch: &'s Scratch,
}

/// What follows from where the damage is.
#[derive(Debug)]
pub(crate) struct Expectation {
    pub(crate) cost: Allowance,
    /// What of that may be other than before although nothing was found: no checksum can tell.
    unnoticed: Allowance,
    /// What records may cost, where some are damaged.
    of_records: Allowance,
    /// The check may find nothing though something is different.
    pub(crate) may_go_unnoticed: bool,
    /// Records are damaged: any earlier state may be what is left.
    hits_records: bool,
    blocks: Vec<u64>,
}

impl Bench<'_> {
    /// Judges `damage`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, damage: Damage) -> anyhow::Result<Outcome> {
        self.damage(damage)?;
        let expected = self.expect(damage);
        let report = match self.check(false) {
            Ok(report) => report,
            Err(error) => {
                let is_refused = matches!(
                    error.downcast_ref::<udax_check::CheckError>(),
                    Some(udax_check::CheckError::NoSuperblock(_))
                );
                anyhow::ensure!(is_refused && hits_all_superblocks(&expected), "check: {error:#}");
                return Ok(Outcome::Refused);
            }
        };
        if report.problems.is_empty() {
            return self.judge_unfound(&expected);
        }
        if !damage.is_older() && !expected.may_go_unnoticed {
            self.is_located(&report, &expected)?;
        }
        self.judge_damaged(&expected).context("damaged")?;
        self.judge_mended(&expected)
    }

    /// Makes the scratch file hold the sample, damaged.
    pub(crate) fn damage(&self, damage: Damage) -> anyhow::Result<()> {
        self.scratch
            .load(&self.sample.image, self.sample.device.as_deref())?;
        for (block, bytes) in damage.changes(self.sample) {
            self.scratch.store(block, &bytes)?;
        }
        Ok(())
    }

    /// Judges what a repair left that was interrupted: mended again, it has lost only what the damage touched. What
    /// was lost the first repair may have told.
    pub(crate) fn judge_mended_again(&self, damage: Damage) -> anyhow::Result<()> {
        let (report, fs) = self.mended(0..=1)?;
        let expected = self.expect(damage);
        self.judge_tree(&Tree::read(&fs), &expected, State::Sound)
            .with_context(|| format!("mended: {}", shown(&report)))?;
        self.use_and_check(fs, &expected).context("mended")
    }

    /// The pool after a repair that ends with one of these exit codes: nothing is left to mend, and it opens.
    pub(crate) fn mended(&self, codes: RangeInclusive<u8>) -> anyhow::Result<(Report, Filesystem)> {
        let report = self.check(true).context("mending")?;
        anyhow::ensure!(
            codes.contains(&report.exit_code()),
            "not all is mended: {}",
            shown(&report)
        );
        let again = self.check(false).context("check of the mended pool")?;
        anyhow::ensure!(
            again.problems.is_empty(),
            "{} after {}",
            shown(&again),
            shown(&report)
        );
        let fs = self.open(false).context("opening the mended pool")?;
        Ok((report, fs))
    }

    fn open(&self, private: bool) -> udax::Result<Filesystem> {
        let options = MountOptions {
            private,
            no_atime: true,
            ..MountOptions::default()
        };
        self.scratch.open(options)
    }

    /// What follows from where `damage` is.
    pub(crate) fn expect(&self, damage: Damage) -> Expectation {
        let mut cost = Allowance::default();
        let mut unnoticed = Allowance::default();
        let mut of_records = Allowance::default();
        let mut is_sealed = false;
        let mut may_go_unnoticed = damage.is_older();
        let mut blocks = Vec::new();
        let mut hits_records = false;
        for (block, bytes) in damage.changes(self.sample) {
            let at = damage.touched();
            let now = self.places.bytes(self.sample, block);
            cost.merge(self.places.cost(block, now, at.clone()));
            if damage.is_older() {
                // A sum block that was right once is sealed, and its sums are those of other data.
                cost.may_be_refused |= self.places.roles.get(&block) == Some(&Role::Sums);
                cost.merge(self.places.cost(block, &bytes, at.clone()));
                unnoticed.merge(cost.clone());
            }
            if self.places.is_sealed_by_replay(self.sample, block, at) {
                may_go_unnoticed = true;
                is_sealed = true;
                let sealed = self.places.cost_of_sealed(block);
                unnoticed.merge(sealed.clone());
                cost.merge(sealed);
            }
            let is_lane = self.places.roles.get(&block) == Some(&Role::Lane);
            if is_lane && self.sample.ending != Ending::Clean {
                hits_records = true;
                // A damaged record is told by where it begins.
                blocks.extend(
                    self.places
                        .records_of(block)
                        .map(|record| record.start / BLOCK_BYTES),
                );
                of_records = self.places.cost_of_records(self.sample);
                cost.merge(of_records.clone());
                if damage.is_older() || self.places.is_end_of_records(block, &damage.touched()) {
                    may_go_unnoticed = true;
                    unnoticed.merge(of_records.clone());
                }
            }
            blocks.push(block);
        }
        cost.may_be_older |= may_go_unnoticed;
        if is_sealed {
            // Records have changed what lies there now, whatever it was, and sealed it.
            for (block, _) in damage.changes(self.sample) {
                let now = self.places.bytes(self.sample, block);
                unnoticed.merge(self.places.cost(block, now, damage.touched()));
            }
        }
        Expectation {
            cost,
            unnoticed,
            of_records,
            may_go_unnoticed,
            hits_records,
            blocks,
        }
    }

    fn check(&self, repair: bool) -> anyhow::Result<Report> {
        let options = RegionOptions {
            read_only: !repair,
            ..RegionOptions::default()
        };
        let region = Region::open(self.scratch.path(), options)?;
        Ok(check(
            &region,
            &CheckOptions {
                repair,
                threads: 1,
                ..CheckOptions::default()
            },
            &Silent,
        )?)
    }

    /// The check found nothing: then nothing is different, or no checksum can tell.
    fn judge_unfound(&self, expected: &Expectation) -> anyhow::Result<Outcome> {
        let fs = self
            .open(false)
            .context("nothing was found, but the pool cannot be opened")?;
        let found = Tree::read(&fs);
        let nothing = Allowance::default();
        let same = compare(&self.sample.tree, &found, &nothing, State::Sound);
        let outcome = match same {
            Ok(true) => Outcome::Harmless,
            _ if expected.may_go_unnoticed => {
                self.judge_tree(&found, expected, State::Sound)
                    .context("unnoticed")?;
                Outcome::Unnoticed
            }
            Ok(false) => anyhow::bail!("not found, but something is different"),
            Err(difference) => anyhow::bail!("not found: {difference}"),
        };
        self.use_and_check(fs, expected)?;
        Ok(outcome)
    }

    /// Some problem names the block, or an inode that the damage may cost.
    fn is_located(&self, report: &Report, expected: &Expectation) -> anyhow::Result<()> {
        let inodes = expected.cost.inodes.iter();
        let inodes = inodes.chain(expected.cost.names.keys());
        let inodes: Vec<u64> = inodes
            .chain(expected.cost.data.keys())
            .chain(expected.cost.xattrs.keys())
            .copied()
            .collect();
        let names_it = |problem: &Problem| {
            let block = match problem.place {
                Place::Block(block) => Some(block.raw()),
                Place::Byte(byte) => Some(byte.raw() / BLOCK_BYTES),
                Place::Inode(_) => None,
            };
            let mut is_told = expected.blocks.iter().map(|block| format!(", block {block}"));
            is_told.any(|text| problem.what.ends_with(&text))
                || block.is_some_and(|block| expected.blocks.contains(&block))
                || problem.inode.is_some_and(|ino| inodes.contains(&ino.raw()))
        };
        anyhow::ensure!(
            report.problems.iter().any(names_it),
            "found elsewhere: {}",
            shown(report)
        );
        Ok(())
    }

    /// Opened as it is, without changing the file, it gives right bytes or errors, and can be used without a panic.
    fn judge_damaged(&self, expected: &Expectation) -> anyhow::Result<()> {
        let Ok(fs) = self.open(true) else {
            return Ok(());
        };
        self.judge_opened(&Tree::read(&fs), expected)?;
        // Errors are right answers; a panic is not.
        let _ = use_pool(&fs);
        let _ = fs.close();
        Ok(())
    }

    /// What an opened pool shows that is damaged, or half mended: right bytes or errors.
    pub(crate) fn judge_opened(&self, found: &Tree, expected: &Expectation) -> anyhow::Result<()> {
        if expected.may_go_unnoticed || expected.hits_records {
            self.judge_tree(found, expected, State::Damaged)?;
        } else {
            compare(&self.sample.tree, found, &Allowance::default(), State::Damaged)
                .map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    fn judge_mended(&self, expected: &Expectation) -> anyhow::Result<Outcome> {
        let (report, fs) = self.mended(1..=1)?;
        let found = Tree::read(&fs);
        let judged = self.judge_tree(&found, expected, State::Sound);
        let is_same = judged.with_context(|| format!("mended: {}", shown(&report)))?;
        self.is_named(&report, &found, expected)?;
        self.use_and_check(fs, expected).context("mended")?;
        Ok(if is_same {
            Outcome::Mended
        } else {
            Outcome::MendedWithLoss
        })
    }

    /// Each thing that is other than before is named by a problem, or its loss could not be found.
    fn is_named(&self, report: &Report, found: &Tree, expected: &Expectation) -> anyhow::Result<()> {
        let tells_of_records = report.problems.iter().any(tells_of_records);
        for difference in differences(&self.sample.tree, found) {
            anyhow::ensure!(
                is_named(report, &difference)
                    || expected.unnoticed.covers(&difference)
                    || tells_of_records && expected.of_records.covers(&difference),
                "{difference} is lost or changed, and no problem names it: {}",
                shown(report)
            );
        }
        Ok(())
    }

    /// Whether nothing is different; an error when more is than the damage may cost.
    pub(crate) fn judge_tree(
        &self,
        found: &Tree,
        expected: &Expectation,
        state: State,
    ) -> anyhow::Result<bool> {
        if expected.hits_records {
            let nothing = Allowance::default();
            for earlier in &self.sample.states {
                if compare(earlier, found, &nothing, state).is_ok() {
                    return Ok(*earlier == self.sample.tree);
                }
            }
        }
        compare(&self.sample.tree, found, &expected.cost, state).map_err(anyhow::Error::msg)
    }

    /// It can be used, closed, and is sound after that.
    fn use_and_check(&self, fs: Filesystem, expected: &Expectation) -> anyhow::Result<()> {
        match use_pool(&fs) {
            // A name leads elsewhere, by an entry that was changed and that records have sealed.
            Err(udax::Error::IsDirectory) if !expected.unnoticed.names.is_empty() => {}
            used => used.context("using it")?,
        }
        fs.close().context("closing it")?;
        let report = self.check(false)?;
        anyhow::ensure!(report.problems.is_empty(), "after use: {}", shown(&report));
        Ok(())
    }
}

/// The problems, for people: the first few.
fn shown(report: &Report) -> String {
    let one = |problem: &Problem| {
        let Problem {
            place,
            what,
            repair,
            lost,
            ..
        } = problem;
        let repair = repair.as_deref().unwrap_or("not mended");
        let lost = lost.as_deref().map(|lost| format!(", lost: {lost}"));
        format!("\n        {place}: {what} ({repair}{})", lost.unwrap_or_default())
    };
    let rest = report.problems.len().saturating_sub(SHOWN);
    let first: String = report.problems.iter().take(SHOWN).map(one).collect();
    if rest > 0 {
        format!("{first}\n        and {rest} more")
    } else {
        first
    }
}

/// Whether the problem says that what one or all records had changed is lost.
fn tells_of_records(problem: &Problem) -> bool {
    let lost = problem.lost.as_deref().unwrap_or_default();
    lost == "what this record had changed" || lost == "what had been changed since the last checkpoint"
}

fn hits_all_superblocks(expected: &Expectation) -> bool {
    let mut superblocks = udax_media::geometry::SUPERBLOCKS.iter();
    superblocks.all(|block| expected.blocks.contains(&block.raw()))
}

/// Makes, changes and removes something of every kind. What need not be there may be missing.
///
/// # Errors
/// What the filesystem says: a sound pool says nothing.
pub fn use_pool(fs: &Filesystem) -> udax::Result<()> {
    fs.create_dir("/used", NEW)?;
    for number in 0..3_u8 {
        let file = fs.open_file(format!("/used/{number}"), CREATE, NEW)?;
        file.append(&[number; 9000])?;
        file.set_xattr(b"user.used", &[number; 3000], XattrMode::Either)?;
    }
    let file = fs.open_file("/islands", CREATE, NEW)?;
    file.write_at(&[1; 5000], 8192 * 50)?;
    file.truncate(8192 * 40)?;
    fs.open_file("/origin", CREATE, NEW)?.append(&[2; 100])?;
    fs.link("/origin", "/used/link")?;
    fs.rename("/used/1", "/used/2", RenameMode::Replace)?;
    fs.symlink(b"somewhere", "/used/symbolic", NEW)?;
    fs.set_dax("/used", Dax::Off)?;
    let cached = fs.open_file("/used/cached", CREATE, NEW)?;
    cached.append(&[3; 9000])?;
    cached.sync()?;
    for path in ["/attributes", "/d/last", "/copy", "/inline"] {
        match fs.unlink(path) {
            Ok(()) | Err(udax::Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    fs.unlink("/used/0")
}
