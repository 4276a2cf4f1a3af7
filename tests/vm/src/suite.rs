//! What is run in one boot: the tests of regions, the `udax` command, contests of truncations against DMA, and poison.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Kit;
use crate::machine::{Image, Machine};
use crate::mode::{Alignment, Mode};

const SCRIPT: &str = include_str!("guest/suite");
/// What the suite takes without its contests, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the suite in a new machine; of a device, poison once more in another one, which maps it by pages.
///
/// # Errors
/// Any step fails.
pub(crate) fn run(kit: &Kit, mode: Mode, seconds: u64) -> anyhow::Result<()> {
    println!("\n== {}", mode.name());
    let begin = Instant::now();
    let places = [
        ("UDAX", &kit.udax),
        ("REGION", &kit.region),
        ("SELF", &std::env::current_exe()?),
    ];
    let mut job = format!(
        "MODE={} POOL={} SECONDS_EACH={seconds}\n",
        mode.name(),
        mode.pool()
    );
    for (name, path) in places {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        job += &format!("{name}={}\n", quoted(&path.to_string_lossy()));
    }
    let limit = LIMIT.saturating_add(Duration::from_secs(seconds.saturating_mul(6)));
    let only_poison = format!("ONLY_POISON=1\n{job}");
    let jobs = [(Alignment::Huge, job), (Alignment::Page, only_poison)];
    let count = if mode == Mode::Devdax { 2 } else { 1 };
    for (alignment, job) in jobs.iter().take(count) {
        let status = run_job(kit, (mode, *alignment), &(job.clone() + SCRIPT), limit)?;
        ensure!(status == 0, "{}: the suite ended with {status}", mode.name());
    }
    println!("{}: the suite took {} s", mode.name(), begin.elapsed().as_secs());
    Ok(())
}

/// Runs one command; its exit status is ours.
///
/// # Errors
/// The machine does not boot.
pub(crate) fn command(kit: &Kit, mode: Mode, words: &[String]) -> anyhow::Result<ExitCode> {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let status = run_job(
        kit,
        (mode, Alignment::Huge),
        &words.join(" "),
        Duration::from_secs(3600),
    )?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

fn run_job(
    kit: &Kit,
    (mode, alignment): (Mode, Alignment),
    job: &str,
    limit: Duration,
) -> anyhow::Result<i32> {
    let directory = image_directory(kit)?;
    let mut image = Image::new(directory.path(), mode, alignment)?;
    Machine::start(&kit.board, &mut image, &[], job)?.finish(limit)
}

/// A folder for images.
///
/// # Errors
/// What making a directory gives.
pub(crate) fn image_directory(kit: &Kit) -> anyhow::Result<tempfile::TempDir> {
    tempfile::tempdir_in(&kit.images).context("make a folder for the image")
}

/// A word of the shell's.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_quoted_word_is_one_word_to_the_shell() {
        for word in ["", "a b", "it's", "$HOME `x` \"y\" \\"] {
            let said = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s. {}", quoted(word))])
                .output()
                .unwrap_or_else(|error| panic!("sh: {error}"));
            assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{word}."));
        }
    }
}
