//! A process of this package's program that is killed at a random moment.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::signal::Signal;
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
            // A backtrace takes memory: without any, std waits for its own lock for ever.
            .env("RUST_BACKTRACE", "0")
            // glibc would reserve address space for each thread, which no limit of it takes back.
            .env("MALLOC_ARENA_MAX", "1")
            .stdout(Stdio::piped())
            // What a process that runs out of memory says at its end is told only when it should not have ended.
            .stderr(Stdio::piped())
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
        words(&bytes)
    }

    /// Waits until it has died of itself, by the signal `wanted`; all words that it reported.
    pub(super) fn dies_by(mut self, wanted: Signal) -> anyhow::Result<Vec<u32>> {
        let mut bytes = Vec::new();
        self.pipe
            .read_to_end(&mut bytes)
            .context("reports of the writer")?;
        let status = self.child.wait().context("wait for the writer")?;
        let signal = status.signal().map(Signal::try_from);
        if signal != Some(Ok(wanted)) {
            let mut said = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                errors.read_to_string(&mut said).context("last words")?;
            }
            bail!("the writer ended with {status} instead of {wanted}: {said}");
        }
        words(&bytes)
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

fn words(bytes: &[u8]) -> anyhow::Result<Vec<u32>> {
    let (reports, rest) = bytes.as_chunks::<4>();
    ensure!(
        rest.is_empty(),
        "half a report: the pipe does not keep 4 bytes together"
    );
    Ok(reports.iter().map(|report| u32::from_le_bytes(*report)).collect())
}
