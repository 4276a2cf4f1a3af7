//! Power loss: machines are killed while a writer works, and what they leave is compared with what was promised.
//!
//! The writer reports each finished operation by a write to a file of this machine, which is there when the write
//! returns. Before it is killed, a machine can be *frozen* some times: all of its threads stop, its memory and the
//! reports are copied, and it goes on. Such a copy is what a kill at this moment would have left, and costs no boot.
//!
//! A pool on a device is copied out of the image. Those on filesystems are copied by the next machine, which mounts
//! the image and its copies, so that each filesystem recovers; then the next writer goes on with it. All pools are
//! recovered and judged here.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_test_model::killed::Judge;

use crate::Kit;
use crate::machine::{Image, Machine, copy_from};
use crate::mode::{Alignment, Mode};
use crate::suite::{image_directory, quoted};
use crate::verdict::{Lost, NotJudged};

/// The most reports that are waited for before a kill: the emulation makes some hundred a second.
const MAX_REPORTS: u64 = 600;
/// The longest time between the last of these and the kill.
const MAX_MICROS: u64 = 20_000;
/// Bytes of the pool on a filesystem.
const POOL_BYTES: &str = "128M";
/// Seconds of the machine's own without an operation of the writer, of which each takes milliseconds.
const HANGING_BEATS: u64 = 120;
/// How long a writer may take for its reports.
const WRITER_LIMIT: Duration = Duration::from_secs(240);

/// How many machines are killed, and what choices are made from.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Machines to kill in each mode
    #[arg(long, default_value_t = 3)]
    kills: u64,
    /// How often each of them is frozen and copied before: a writer ends after operations for so many
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=30))]
    freezes: u64,
    /// What choices are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A moment at which a machine was frozen or killed.
struct Moment {
    /// What the writer had promised by then.
    reports: Vec<i32>,
    /// What was copied, unless the machine was killed.
    copy: Option<Image>,
}

/// What has become of one writer.
struct Promise {
    seed: u64,
    /// The last is the kill.
    moments: Vec<Moment>,
}

struct Series<'k> {
    kit: &'k Kit,
    plan: Plan,
    mode: Mode,
    directory: &'k Path,
    image: Image,
    judge: Judge,
    random: SmallRng,
    /// The next writer finds a new pool.
    is_new: bool,
}

/// Kills machines as planned.
///
/// # Errors
/// What was promised is not there, something else is, or the pool is damaged.
pub(crate) fn run(kit: &Kit, mode: Mode, plan: Plan) -> anyhow::Result<()> {
    let directory = image_directory(kit)?;
    let begin = Instant::now();
    let mut series = Series {
        kit,
        plan,
        mode,
        directory: directory.path(),
        image: Image::new(directory.path(), mode, Alignment::Huge)?,
        judge: Judge::default(),
        random: SmallRng::seed_from_u64(plan.seed),
        is_new: true,
    };
    let mut last = None;
    for number in 0..plan.kills {
        let promise = series.kill_one(number, last.take())?;
        last = Some(promise);
        if mode == Mode::Devdax {
            series.settle_device(last.take())?;
        }
    }
    if let Some(promise) = last {
        series.settle_last(promise)?;
    }
    println!(
        "{}: {} machines killed and each frozen {} times in {} s, all that was promised is there: {:?}",
        mode.name(),
        plan.kills,
        plan.freezes,
        begin.elapsed().as_secs(),
        series.judge.tally()
    );
    Ok(())
}

impl Series<'_> {
    /// Boots, judges what is left of `last`, lets a writer work, and kills the machine.
    fn kill_one(&mut self, number: u64, last: Option<Promise>) -> anyhow::Result<Promise> {
        let seed = self.plan.seed.wrapping_mul(1_000_000).wrapping_add(number);
        let job = "until [ -e /run/share/go ]; do sleep 0.05; done\n. /run/share/go\n";
        let begin = Instant::now();
        let mut machine = self.start(last.as_ref(), job)?;
        let booted = begin.elapsed();
        machine.wait_for_file("copied")?;
        let copied = begin.elapsed();
        if let Some(last) = last {
            self.settle_copied(&machine, last)?;
        }
        let judged = begin.elapsed();
        let script = self.writing(seed)?;
        fs::write(machine.share("new"), script)?;
        fs::rename(machine.share("new"), machine.share("go"))?;
        let moments = self.work_until_killed(&mut machine)?;
        self.is_new = false;
        let counts: Vec<usize> = moments.iter().map(|moment| moment.reports.len()).collect();
        println!(
            "{}: kill {} of {}: operations promised when it was frozen and killed: {counts:?}; boot {:.1} s, \
             pools copied {:.1} s, judged {:.1} s, work {:.1} s",
            self.mode.name(),
            number + 1,
            self.plan.kills,
            booted.as_secs_f32(),
            (copied - booted).as_secs_f32(),
            (judged - copied).as_secs_f32(),
            (begin.elapsed() - judged).as_secs_f32()
        );
        Ok(Promise { seed, moments })
    }

    /// The writer works; the machine is frozen and copied some times, and killed.
    fn work_until_killed(&mut self, machine: &mut Machine) -> anyhow::Result<Vec<Moment>> {
        machine.wait_for_file("reports")?;
        let mut moments = Vec::new();
        for freeze in 0..self.plan.freezes {
            self.wait_for_reports(machine)?;
            machine.freeze()?;
            let copy = self.image.copy(&self.directory.join(format!("copy.{freeze}")))?;
            let reports = read_reports(&machine.share("reports"))?;
            machine.thaw()?;
            moments.push(Moment {
                reports,
                copy: Some(copy),
            });
        }
        self.wait_for_reports(machine)?;
        machine.kill()?;
        let reports = read_reports(&machine.share("reports"))?;
        moments.push(Moment { reports, copy: None });
        Ok(moments)
    }

    /// Boots what `last` has left and its copies. The pools on filesystems go to the share first: `job` changes them.
    fn start(&mut self, last: Option<&Promise>, job: &str) -> anyhow::Result<Machine> {
        let moments = last.map_or(&[][..], |last| &last.moments);
        let copies: Vec<Image> = moments.iter().filter_map(|moment| moment.copy.clone()).collect();
        let script = copying(moments.len()) + job;
        Machine::start(&self.kit.board, &mut self.image, &copies, &script)
    }

    /// What makes the writer work.
    fn writing(&self, seed: u64) -> anyhow::Result<String> {
        let pool = self.mode.pool();
        let place = |path: &Path| anyhow::Ok(quoted(&path.canonicalize()?.to_string_lossy()));
        let mut script = String::new();
        if self.is_new {
            let size = if self.mode == Mode::Devdax {
                String::new()
            } else {
                format!("--size {POOL_BYTES}")
            };
            script += &format!("{} mkfs --force {size} {pool}\n", place(&self.kit.udax)?);
        }
        let writer = place(&self.kit.writer)?;
        script += "while :; do echo; sleep 1; done >/run/share/beats &\n";
        Ok(script + &format!("exec {writer} --writer {pool} --seed {seed} >/run/share/reports\n"))
    }

    /// Judges pools on a device.
    fn settle_device(&mut self, last: Option<Promise>) -> anyhow::Result<()> {
        let Some(Promise { seed, moments }) = last else {
            return Ok(());
        };
        let pool = self.directory.join("pool");
        for Moment { reports, copy } in moments {
            copy.as_ref().unwrap_or(&self.image).copy_device(&pool)?;
            self.settle(&pool, seed, &reports, copy)?;
        }
        Ok(())
    }

    /// Judges pools that a machine has copied out of filesystems.
    fn settle_copied(&mut self, machine: &Machine, last: Promise) -> anyhow::Result<()> {
        for (number, Moment { reports, copy }) in last.moments.into_iter().enumerate() {
            let pool = self.directory.join("pool");
            let copied = machine.share(&format!("pool.{number}"));
            fs::copy(&copied, &pool)?;
            fs::remove_file(copied)?;
            self.settle(&pool, last.seed, &reports, copy)?;
        }
        Ok(())
    }

    /// Boots once more for what the last machine has left on a filesystem.
    fn settle_last(&mut self, last: Promise) -> anyhow::Result<()> {
        let mut machine = self.start(Some(&last), "")?;
        machine.wait_for_file("copied")?;
        self.settle_copied(&machine, last)
    }

    /// Judges a pool by what was promised when it was frozen, with `copy`, or killed.
    fn settle(&mut self, pool: &Path, seed: u64, reports: &[i32], copy: Option<Image>) -> anyhow::Result<()> {
        // As it was left: judging recovers it.
        let left = self.directory.join("left");
        copy_from(pool, 0, &left)?;
        let judged = if copy.is_some() {
            self.judge.judge_copy(pool, seed, reports).map(|()| true)
        } else {
            self.judge.judge(pool, seed, reports)
        };
        let has_room = judged.map_err(|error| {
            let kept = kept(self.mode, seed, reports.len());
            // For who looks into it; that something is wrong is told in any case.
            let _ = fs::copy(&left, &kept);
            Lost(format!(
                "{}: writer {seed}; the pool as it was left is {}: {error:#}",
                self.mode.name(),
                kept.display()
            ))
        })?;
        if !has_room {
            self.judge.renew();
            self.is_new = true;
        }
        copy.map_or(Ok(()), Image::remove)
    }

    /// Waits until the writer has made some more operations, and then some time.
    fn wait_for_reports(&mut self, machine: &mut Machine) -> anyhow::Result<()> {
        let begin = Instant::now();
        let (reports, beats) = (machine.share("reports"), machine.share("beats"));
        let reports = || anyhow::Ok(fs::metadata(&reports)?.len() / 4);
        let beats = || fs::metadata(&beats).map_or(0, |beats| beats.len());
        let (mut last, mut last_beat) = (reports()?, beats());
        let wanted = last + self.random.random_range(0..MAX_REPORTS);
        while last < wanted {
            ensure!(
                begin.elapsed() < WRITER_LIMIT,
                NotJudged(format!(
                    "the writer has not made {wanted} operations within {WRITER_LIMIT:?}"
                ))
            );
            let now = reports()?;
            if now > last {
                (last, last_beat) = (now, beats());
            }
            // The machine goes on, so it is not that which is slow.
            ensure!(
                beats() - last_beat < HANGING_BEATS,
                Lost(format!("the writer hangs after {last} operations"))
            );
            machine.ensure_runs()?;
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_micros(self.random.random_range(0..MAX_MICROS)));
        Ok(())
    }
}

/// Copies the pools of as many moments to the share. The last one's, on the image itself, is mounted first.
fn copying(moments: usize) -> String {
    let mut script = "set -e\n".to_owned();
    for number in 0..moments {
        let place = if number + 1 == moments {
            String::new()
        } else {
            (number + 1).to_string()
        };
        script += &format!("cp --sparse=always /run/pmem{place}/pool /run/share/pool.{number}\n");
    }
    script + ": >/run/share/copied\n"
}

/// Where a pool that was judged wrong is kept.
fn kept(mode: Mode, seed: u64, reports: usize) -> PathBuf {
    std::env::temp_dir().join(format!("udax-vm-{}-{seed}-{reports}.pool", mode.name()))
}

fn read_reports(path: &Path) -> anyhow::Result<Vec<i32>> {
    let bytes = fs::read(path)?;
    let (reports, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "half a report");
    Ok(reports.iter().map(|report| i32::from_le_bytes(*report)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_copied_in_the_order_of_their_moments() {
        let script = copying(3);
        let places: Vec<&str> = script
            .lines()
            .filter_map(|line| line.strip_prefix("cp --sparse=always "))
            .collect();
        assert_eq!(
            places,
            [
                "/run/pmem1/pool /run/share/pool.0",
                "/run/pmem2/pool /run/share/pool.1",
                "/run/pmem/pool /run/share/pool.2"
            ]
        );
        assert!(script.ends_with(": >/run/share/copied\n"));
        assert!(!copying(0).contains("cp "));
    }

    #[test]
    fn half_a_report_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [0, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        assert_eq!(read_reports(file.path()).unwrap(), [0, 2]);
        fs::write(file.path(), [0, 0, 0, 0, 2]).unwrap();
        assert!(read_reports(file.path()).is_err());
    }
}
