//! `udax fsck`: checks a pool and mends it, with the exit statuses of fsck(8).

mod device;
mod finding;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use udax_check::{CheckOptions, Report};
use udax_media::BLOCK_BYTES;
use udax_pmem::RegionOptions;

use self::finding::Finding;
use crate::failure;
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
    /// Where the pool's data device is, if it is not where it was. With -y its headers are written anew even if both
    /// are damaged, so that only this name tells that it is the one
    #[arg(long, value_name = "DEVICE")]
    data_device: Option<PathBuf>,
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
    /// Where the data device was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    problems: &'r [Finding],
    notes: Vec<Finding>,
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
        let (device, of_device) = device::check(&region, self.data_device.as_deref(), self.repair)
            .map_err(|error| failure::of_pool(&self.pool, failure::CHECK, error))?;
        let mut findings: Vec<Finding> = report.problems.iter().map(Finding::of_pool).collect();
        findings.extend(of_device);
        let status = status(&findings);
        if self.format.is_json() {
            output.json(&self.json(&report, &findings, device.as_deref()))?;
        } else {
            if let Some(device) = device {
                let (pool, device) = (crate::name::shown(&self.pool), crate::name::shown(&device));
                writeln!(
                    output,
                    "{pool}: the data device {device} is there; the data on it was not read"
                )?;
            }
            self.print(&report, &findings, output)?;
        }
        Ok(ExitCode::from(status))
    }

    fn json<'r>(&self, report: &Report, findings: &'r [Finding], device: Option<&Path>) -> JsonReport<'r> {
        JsonReport {
            pool: crate::name::shown(&self.pool),
            status: status(findings),
            was_clean: report.was_clean,
            replayed: report.replayed,
            inodes: report.inodes,
            directories: report.directories,
            orphans: report.orphans,
            bad_bytes: report.bad_blocks * BLOCK_BYTES,
            used_bytes: report.used_blocks * BLOCK_BYTES,
            total_bytes: report.total_blocks * BLOCK_BYTES,
            device: device.map(crate::name::shown),
            problems: findings,
            notes: report.notes.iter().map(Finding::of_pool).collect(),
        }
    }

    fn print(&self, report: &Report, findings: &[Finding], output: &mut Output) -> std::io::Result<()> {
        let pool = crate::name::shown(&self.pool);
        for note in &report.notes {
            let done = if note.repair.is_some() {
                "completed"
            } else {
                "the next mount completes it"
            };
            writeln!(output, "{pool}: note: {}: {}; {done}", note.place, note.what)?;
        }
        for finding in findings {
            writeln!(output, "{pool}: {finding}")?;
        }
        for (ino, path) in finding::paths(report) {
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
        let verdict = self.verdict(findings);
        writeln!(
            output,
            "{pool}: {verdict}: {}, {}, {} of {} in use",
            counted(report.inodes, "inode", "inodes"),
            counted(report.directories, "directory", "directories"),
            Size(report.used_blocks * BLOCK_BYTES),
            Size(report.total_blocks * BLOCK_BYTES)
        )
    }

    fn verdict(&self, findings: &[Finding]) -> String {
        let errors = counted(findings.len(), "error", "errors");
        let left = || findings.iter().filter(|finding| finding.repair.is_none());
        match status(findings) {
            0 => "clean".to_owned(),
            CORRECTED => format!("{errors}, all mended"),
            _ if left().all(Finding::is_of_data) => format!(
                "{errors}, {} of them in the data of files, which no repair mends; {}",
                left().count(),
                failure::DATA_ADVICE
            ),
            _ if self.repair || !left().any(|finding| finding.has_remedy) => {
                format!("{errors}, not all of them mended")
            }
            _ => format!("{errors}, and damage may hide more; mend them with 'udax fsck -y'"),
        }
    }
}

/// The exit status of fsck(8) for what was found.
fn status(findings: &[Finding]) -> u8 {
    if findings.is_empty() {
        0
    } else if findings.iter().all(|finding| finding.repair.is_some()) {
        CORRECTED
    } else {
        UNCORRECTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_that_is_left_makes_the_status_4() {
        let mut findings = Vec::new();
        assert_eq!(status(&findings), 0);
        let one = || Finding::of_device("here".to_owned(), "x".to_owned());
        findings.push(one().mended(Some("y".to_owned())));
        assert_eq!(status(&findings), CORRECTED);
        findings.push(one());
        assert_eq!(status(&findings), UNCORRECTED);
    }
}
