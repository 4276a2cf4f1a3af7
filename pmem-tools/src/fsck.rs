//! `udax fsck`: checks a pool and mends it, with the exit statuses of fsck(8).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use udax::Filesystem;
use udax_check::{CheckOptions, Problem, Report};
use udax_media::{BLOCK_BYTES, InodeNo};
use udax_pmem::{Region, RegionOptions};

use crate::failure;
use crate::name::JsonName;
use crate::output::{Output, OutputArgs};
use crate::plural::{counted, records};
use crate::pool::{self, WriteArgs};
use crate::progress::Progress;
use crate::size::Size;

/// Exit status: errors were found and all of them mended.
pub(crate) const CORRECTED: u8 = 1;
/// Exit status: errors are left.
pub(crate) const UNCORRECTED: u8 = 4;
/// Exit status: the check could not be done.
pub(crate) const OPERATIONAL: u8 = 8;
/// Exit status: wrong command line.
pub(crate) const USAGE: u8 = 16;

/// Check a pool, and with -y mend it
///
/// What is damaged can hide what lies behind it: -y may find more than -n told.
///
/// Exit status: 0 no errors, 1 errors mended, 4 errors left, 8 the check failed, 16 wrong command line.
#[derive(Parser, Debug)]
#[command(name = "fsck.udax", version, max_term_width = 100)]
pub(crate) struct Fsck {
    /// Change nothing, only report (the default)
    #[arg(short = 'n', long = "no-changes", conflicts_with = "repair")]
    only_report: bool,
    /// Mend what can be mended, and replay the journal
    #[arg(short = 'y', long, visible_short_aliases = ['a', 'p'])]
    repair: bool,
    /// Read every block of the pool, and tell which the medium has lost and which files they belong to. With -y those
    /// that nobody uses are listed, so that nobody will, and listed ones that can be read are taken off the list. Takes
    /// as long as reading all of the pool
    #[arg(short = 'c', long)]
    badblocks: bool,
    /// Compare the data of files with its checksums, where it has some, and tell where it is wrong. Nothing is changed
    /// about that, with -y neither: a read of it fails until it is written anew, or 'udax attr -checksum' takes the
    /// checksums away. Takes as long as reading that data
    #[arg(long)]
    data: bool,
    /// Worker threads. Default: one a processor
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Accepted for fsck(8): the pool is always checked in full
    #[arg(short = 'f', hide = true)]
    _full: bool,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    format: OutputArgs,
    /// The file or device
    pool: PathBuf,
}

#[derive(Serialize)]
struct JsonProblem<'r> {
    place: String,
    inode: Option<u64>,
    path: Option<JsonName>,
    what: &'r str,
    has_remedy: bool,
    repair: Option<&'r str>,
    lost: Option<&'r str>,
}

#[derive(Serialize)]
struct JsonReport<'r> {
    pool: String,
    status: u8,
    was_clean: bool,
    replayed: u64,
    inodes: u64,
    directories: u64,
    orphans: u64,
    bad_bytes: u64,
    used_bytes: u64,
    total_bytes: u64,
    /// What was seen of the data device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    problems: Vec<JsonProblem<'r>>,
    notes: Vec<JsonProblem<'r>>,
}

impl Fsck {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let options = RegionOptions {
            read_only: !self.repair,
            msync: self.write.msync,
            ..RegionOptions::default()
        };
        let region = pool::open_region(&self.pool, &options)?;
        let progress = if self.format.is_json() {
            Progress::hidden()
        } else {
            Progress::of_units(0)
        };
        let options = CheckOptions {
            repair: self.repair,
            threads: self.threads,
            bad_blocks: self.badblocks,
            data: self.data,
        };
        let report = udax_check::check(&region, &options, &progress);
        progress.finish();
        let report = report.map_err(|error| failure::of_pool(&self.pool, failure::CHECK, error))?;
        let status = status(&report);
        let device = device(&region);
        if self.format.is_json() {
            output.json(&self.json(&report, status, device))?;
        } else {
            if let Some(device) = device {
                writeln!(output, "{}: {device}", crate::name::shown(&self.pool))?;
            }
            self.print(&report, status, output)?;
        }
        Ok(ExitCode::from(status))
    }

    fn json<'r>(&self, report: &'r Report, status: u8, device: Option<String>) -> JsonReport<'r> {
        JsonReport {
            pool: crate::name::shown(&self.pool),
            status,
            was_clean: report.was_clean,
            replayed: report.replayed,
            inodes: report.inodes,
            directories: report.directories,
            orphans: report.orphans,
            bad_bytes: report.bad_blocks * BLOCK_BYTES,
            used_bytes: report.used_blocks * BLOCK_BYTES,
            total_bytes: report.total_blocks * BLOCK_BYTES,
            device,
            problems: report.problems.iter().map(JsonProblem::new).collect(),
            notes: report.notes.iter().map(JsonProblem::new).collect(),
        }
    }

    fn print(&self, report: &Report, status: u8, output: &mut Output) -> std::io::Result<()> {
        let pool = crate::name::shown(&self.pool);
        for note in &report.notes {
            let done = if note.repair.is_some() {
                "completed"
            } else {
                "the next mount completes it"
            };
            writeln!(output, "{pool}: note: {}: {}; {done}", note.place, note.what)?;
        }
        for problem in &report.problems {
            write!(output, "{pool}: {}: {}", problem.place, problem.what)?;
            if let Some(repair) = &problem.repair {
                write!(output, "; mended: {repair}")?;
            }
            if let Some(lost) = &problem.lost {
                write!(output, "; lost: {lost}")?;
            }
            writeln!(output)?;
        }
        for (ino, path) in paths(report) {
            let path = path.map_or("has no path that is known".to_owned(), |path| {
                format!("is {}", crate::name::escaped(path))
            });
            writeln!(output, "{pool}: inode {ino} {path}")?;
        }
        if !report.was_clean {
            let replay = if self.repair { "replayed" } else { "to replay" };
            writeln!(
                output,
                "{pool}: not closed cleanly, {} {replay}",
                records(report.replayed)
            )?;
        }
        if report.orphans > 0 {
            writeln!(
                output,
                "{pool}: {} without a name or cut short: the next command that writes frees what they held",
                counted(report.orphans, "file", "files")
            )?;
        }
        if report.bad_blocks > 0 {
            writeln!(
                output,
                "{pool}: {} listed as bad, and not used",
                counted(report.bad_blocks, "block is", "blocks are")
            )?;
        }
        let errors = counted(report.problems.len(), "error", "errors");
        let left = || report.problems.iter().filter(|problem| problem.repair.is_none());
        let verdict = match status {
            0 => "clean".to_owned(),
            CORRECTED => format!("{errors}, all mended"),
            _ if !left().any(|problem| problem.has_remedy) => format!(
                "{errors}, {} of them in the data of files, which no repair mends; {}",
                left().count(),
                failure::DATA_ADVICE
            ),
            _ if self.repair => format!("{errors}, not all of them mended"),
            _ => format!("{errors}, and damage may hide more; mend them with 'udax fsck -y'"),
        };
        writeln!(
            output,
            "{pool}: {verdict}: {}, {}, {} of {} in use",
            counted(report.inodes, "inode", "inodes"),
            counted(report.directories, "directory", "directories"),
            Size(report.used_blocks * BLOCK_BYTES),
            Size(report.total_blocks * BLOCK_BYTES)
        )
    }
}

impl<'r> JsonProblem<'r> {
    fn new(problem: &'r Problem) -> Self {
        Self {
            place: problem.place.to_string(),
            inode: problem.inode.map(InodeNo::raw),
            path: problem.path.as_deref().map(JsonName::new),
            what: &problem.what,
            has_remedy: problem.has_remedy,
            repair: problem.repair.as_deref(),
            lost: problem.lost.as_deref(),
        }
    }
}

/// The damaged inodes, and where they are: an inode that lost its name in one step of a repair had it before.
fn paths(report: &Report) -> BTreeMap<InodeNo, Option<&[u8]>> {
    let mut paths = BTreeMap::new();
    for problem in &report.problems {
        if let Some(ino) = problem.inode {
            let path: &mut Option<&[u8]> = paths.entry(ino).or_default();
            *path = path.or(problem.path.as_deref());
        }
    }
    paths
}

/// What is to be told of the pool's data device, if it has one. Its data is not looked at, and no other pool's is
/// touched.
fn device(region: &Region) -> Option<String> {
    match Filesystem::find_data_device(region) {
        Ok(path) => path.map(|path| {
            format!(
                "the data device {} is there; the data on it was not read",
                crate::name::shown(&path)
            )
        }),
        Err(error @ udax::Error::NotDevice { .. }) => {
            Some(format!("not checked, and cannot be mounted without: {error}"))
        }
        // What is wrong with the pool itself is in the report.
        Err(_) => None,
    }
}

/// The exit status of fsck(8) for `report`.
fn status(report: &Report) -> u8 {
    if report.problems.is_empty() {
        0
    } else if report.problems.iter().all(|problem| problem.repair.is_some()) {
        CORRECTED
    } else {
        UNCORRECTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use udax_media::{BlockNo, Place};

    fn problem(repair: Option<&str>) -> Problem {
        Problem {
            place: Place::Block(BlockNo(7)),
            inode: None,
            path: None,
            what: "x".to_owned(),
            has_remedy: true,
            repair: repair.map(str::to_owned),
            lost: None,
        }
    }

    #[test]
    fn one_error_that_is_left_makes_the_status_4() {
        let mut report = Report::default();
        assert_eq!(status(&report), 0);
        report.problems.push(problem(Some("y")));
        assert_eq!(status(&report), CORRECTED);
        report.problems.push(problem(None));
        assert_eq!(status(&report), UNCORRECTED);
    }
}
