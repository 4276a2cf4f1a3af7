//! What the demo did, as a table or as JSON.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use udax_pmem::Persistence;

use super::fences::Cost;
use crate::copy::Summary;
use crate::output::{self, Output};
use crate::size::{Size, float};

/// A step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    /// Its name.
    pub(super) name: &'static str,
    /// Files concerned.
    pub(super) files: Option<u64>,
    /// Bytes concerned.
    pub(super) bytes: Option<u64>,
    /// Time taken.
    pub(super) seconds: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    source: String,
    pool: String,
    pool_bytes: u64,
    #[serde(skip)]
    pub(super) persistence: Persistence,
    /// The steps, in order.
    pub(super) steps: Vec<Step>,
    /// Files that the killed writer had promised.
    pub(super) promised: u64,
    /// Journal records that recovery replayed.
    pub(super) recovered_records: u64,
    /// Fences per operation.
    pub(super) fences: Vec<Cost>,
    failures: Vec<(&'static str, u64)>,
}

impl Step {
    /// A copy or comparison.
    pub(super) fn of_summary(name: &'static str, summary: &Summary) -> Self {
        Self {
            name,
            files: Some(summary.files),
            bytes: Some(summary.bytes),
            seconds: summary.seconds,
        }
    }
}

impl Outcome {
    /// Nothing done yet.
    pub(super) fn new(source: String, pool: &Path, pool_bytes: u64) -> Self {
        Self {
            source,
            pool: crate::name::shown(pool),
            pool_bytes,
            persistence: Persistence::ProcessOnly,
            steps: Vec::new(),
            promised: 0,
            recovered_records: 0,
            fences: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// `count` things went wrong in `step`.
    pub(super) fn count_failures(&mut self, step: &'static str, count: u64) {
        if count > 0 {
            self.failures.push((step, count));
        }
    }

    /// Whether nothing went wrong.
    pub(super) fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints the table.
    pub(super) fn print(&self, output: &mut Output) -> std::io::Result<()> {
        writeln!(
            output,
            "{} in a pool of {}, {}",
            self.source,
            Size(self.pool_bytes),
            self.pool
        )?;
        let promise = match self.persistence {
            Persistence::Eadr | Persistence::Flush => {
                "persistent memory: what is durable survives power failure"
            }
            Persistence::Msync => "no persistent memory: msync makes data survive power failure",
            Persistence::ProcessOnly => {
                "no persistent memory here: data survives a killed process, not power failure"
            }
        };
        writeln!(output, "{promise}\n")?;
        let mut table = output::table(&["Step", "Files", "Bytes", "Seconds", "GB/s"], 1);
        for step in &self.steps {
            let rate = step
                .bytes
                .map(|bytes| float(bytes) / 1e9 / step.seconds.max(1e-9));
            table.add_row([
                step.name.to_owned(),
                step.files.map_or_else(String::new, |files| files.to_string()),
                step.bytes
                    .map_or_else(String::new, |bytes| Size(bytes).to_string()),
                format!("{:.3}", step.seconds),
                rate.map_or_else(String::new, |rate| format!("{rate:.2}")),
            ]);
        }
        output.table(&table)?;
        writeln!(
            output,
            "\nA writer was killed after {} durable files; {} journal records were recovered.\n",
            self.promised, self.recovered_records
        )?;
        let mut table = output::table(&["Operation", "Fences"], 1);
        for cost in &self.fences {
            table.add_row([cost.operation.to_owned(), format!("{:.2}", cost.fences)]);
        }
        output.table(&table)?;
        match self.failures.as_slice() {
            [] => writeln!(output, "\nEverything durable is there, and equals its source."),
            failures => {
                for (step, count) in failures {
                    writeln!(output, "\nFAILED: {step}: {count} errors")?;
                }
                Ok(())
            }
        }
    }
}
