//! `udax scrub`: looks through a pool for what the medium has lost or changed.

use std::io::Write as _;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use udax::ScrubOptions;

use crate::live::find::{self, Found};
use crate::live::scrubbing::{Finding, Kind, Report};
use crate::name::JsonName;
use crate::output::{Output, OutputArgs};
use crate::plural::counted;
use crate::progress::Progress;
use crate::size::Size;
use crate::{failure, pool};

/// Exit status: something is wrong.
const FOUND: u8 = 4;

/// Verify all metadata of a pool and read all its data, changing nothing
///
/// Lost bytes of files and damaged metadata are told with their paths, and changed bytes of file data where it has
/// checksums ('udax mkfs --data-checksum'). Blocks that nobody uses are not read: fsck does that, when asked. A pool
/// that is mounted is scrubbed by its daemon, while it is in use; when this command is interrupted, that ends, too.
///
/// Exit status: 0 nothing is wrong, 1 the scrub failed, 4 something is wrong.
#[derive(Args, Debug)]
pub(crate) struct Scrub {
    /// The most bytes to read in a second, for example 100M. Default: as fast as it goes
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    #[command(flatten)]
    format: OutputArgs,
    /// A directory where a pool is mounted, or the pool's file or device
    #[arg(value_name = "DIR|POOL")]
    pool: PathBuf,
}

#[derive(Serialize)]
struct JsonFinding<'r> {
    place: String,
    inode: Option<u64>,
    path: Option<JsonName>,
    what: &'r str,
    kind: Kind,
}

#[derive(Serialize)]
struct JsonReport<'r> {
    pool: String,
    status: u8,
    bytes: u64,
    units: u64,
    inodes: u64,
    verified_bytes: u64,
    unverified_bytes: u64,
    findings: Vec<JsonFinding<'r>>,
}

impl Scrub {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let rate = match self.rate {
            None => None,
            Some(Size(rate)) => {
                Some(NonZero::new(rate).ok_or_else(|| anyhow::anyhow!("--rate: 0 is no rate"))?)
            }
        };
        let progress = if self.format.is_json() {
            Progress::hidden()
        } else {
            Progress::of_bytes(0)
        };
        let found = find::find(&self.pool)?;
        let report = match found {
            Found::Live(connection) => connection
                .scrub(rate, |done, total| progress.set("scrub", done, total))
                .with_context(|| format!("{}: cannot scrub", crate::name::shown(&self.pool))),
            Found::Nobody => self.scrub_unused(rate, &progress),
        };
        progress.finish();
        let report = report?;
        let status = if report.findings.is_empty() { 0 } else { FOUND };
        if self.format.is_json() {
            output.json(&self.json(&report, status))?;
        } else {
            self.print(&report, output)?;
        }
        Ok(ExitCode::from(status))
    }

    /// Scrubs a pool that nobody has open.
    fn scrub_unused(&self, rate: Option<NonZero<u64>>, progress: &Progress) -> anyhow::Result<Report> {
        let filesystem = pool::open_for_reading(&self.pool)?;
        let scrubbed = filesystem.scrub(ScrubOptions { rate }, &mut |step| {
            progress.set("scrub", step.done, step.total);
            ControlFlow::Continue(())
        });
        let report = scrubbed.map_err(|error| failure::of_pool(&self.pool, "cannot scrub", error))?;
        // Where something is lost, that is told already.
        let closed = pool::close(&self.pool, filesystem);
        if report.findings.is_empty() {
            closed?;
        }
        Ok(report.into())
    }

    fn json<'r>(&self, report: &'r Report, status: u8) -> JsonReport<'r> {
        JsonReport {
            pool: crate::name::shown(&self.pool),
            status,
            bytes: report.bytes,
            units: report.units,
            inodes: report.inodes,
            verified_bytes: report.verified_bytes,
            unverified_bytes: report.unverified_bytes,
            findings: report.findings.iter().map(JsonFinding::new).collect(),
        }
    }

    fn print(&self, report: &Report, output: &mut Output) -> std::io::Result<()> {
        let pool = crate::name::shown(&self.pool);
        for finding in &report.findings {
            write!(output, "{pool}: {}: {}", finding.place, finding.what)?;
            if let Some(path) = &finding.path {
                write!(output, "; it is {}", crate::name::escaped(path))?;
            }
            writeln!(output)?;
        }
        if report.verified_bytes + report.unverified_bytes > 0 {
            writeln!(
                output,
                "{pool}: {} of data compared with checksums, {} wait for theirs",
                Size(report.verified_bytes),
                Size(report.unverified_bytes)
            )?;
        }
        let findings = counted(report.findings.len(), "finding", "findings");
        let kinds = report.findings.iter().map(|finding| finding.kind);
        let verdict = match kinds.max() {
            None => "nothing is wrong".to_owned(),
            Some(Kind::LostData | Kind::WrongData) => {
                format!("{findings} in the data of files; {}", failure::DATA_ADVICE)
            }
            Some(_) => {
                format!(
                    "{findings}; copy what can be read with 'udax get', then run 'udax fsck -y --badblocks'"
                )
            }
        };
        writeln!(
            output,
            "{pool}: {verdict}: {}, {}, {} looked at",
            counted(report.inodes, "inode", "inodes"),
            counted(report.units, "checksum", "checksums"),
            Size(report.bytes)
        )
    }
}

impl<'r> JsonFinding<'r> {
    fn new(finding: &'r Finding) -> Self {
        Self {
            place: finding.place.clone(),
            inode: finding.inode,
            path: finding.path.as_deref().map(JsonName::new),
            what: &finding.what,
            kind: finding.kind,
        }
    }
}
