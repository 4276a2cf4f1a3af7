//! A process of this package's program that is killed at a random moment.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, anyhow, ensure};
use rand::Rng;
use rand::rngs::SmallRng;

/// The most turns of a loop between the last report that is waited for and the kill.
const MAX_TURNS: u32 = 50_000;

/// What it was started for.
#[derive(Debug)]
pub(super) struct Victim {
    child: Child,
    pipe: ChildStdout,
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Whatever happened, no process stays behind; one that has been waited for is not killed again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    /// Starts the program with these arguments; it reports on its standard output.
    pub(super) fn start(program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start of {}", program.display()))?;
        let pipe = child
            .stdout
            .take()
            .ok_or_else(|| anyhow!("no pipe to the child"))?;
        Ok(Self { child, pipe })
    }

    /// Kills it some time after it has reported `wanted` words of 4 bytes; all words that it reported.
    pub(super) fn kill_after(mut self, wanted: usize, random: &mut SmallRng) -> anyhow::Result<Vec<u32>> {
        let mut bytes = vec![0; wanted * 4];
        self.pipe
            .read_exact(&mut bytes)
            .context("reports of the writer")?;
        // Somewhere within the next operations, not at the same place of each report.
        for _ in 0..random.random_range(0..MAX_TURNS) {
            std::hint::spin_loop();
        }
        self.child.kill().context("kill")?;
        self.pipe
            .read_to_end(&mut bytes)
            .context("last reports of the writer")?;
        let status = self.child.wait().context("wait for the writer")?;
        ensure!(!status.success(), "the writer ended before it was killed");
        let (reports, rest) = bytes.as_chunks::<4>();
        ensure!(
            rest.is_empty(),
            "half a report: the pipe does not keep 4 bytes together"
        );
        Ok(reports.iter().map(|report| u32::from_le_bytes(*report)).collect())
    }

    /// Kills it `turns` turns of a loop after its first byte; how many bytes it reported.
    pub(super) fn kill_soon(mut self, turns: u32) -> anyhow::Result<usize> {
        let mut bytes = vec![0];
        self.pipe.read_exact(&mut bytes).context("first report")?;
        for _ in 0..turns {
            std::hint::spin_loop();
        }
        self.child.kill().context("kill")?;
        self.pipe.read_to_end(&mut bytes).context("last reports")?;
        self.child.wait().context("wait for the child")?;
        Ok(bytes.len())
    }
}
