//! A writer that is killed, and the check of what it had promised.
//!
//! The writer makes files one after another: content into a file without a name, then the name. When both are
//! durable it says the file's number on a pipe. Whatever has been said must be there after its death; the one
//! file that it was at may be there, but then whole.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use udax::{Filesystem, MountOptions, NewInode, OpenFlags};

use super::result::Step;
use crate::copy::{InPool, Source as _};
use crate::failure;
use crate::output::Output;

/// Where the files are.
const DIRECTORY: &str = "/promised";
/// The writer is killed when so many files have been promised.
const KILL_AFTER: u64 = 2000;
/// The writer stops by itself at so many: the pool has room for them. (The reader is never so far behind.)
const MAX_FILES: u64 = 16_384;
/// The longest file.
const MAX_BYTES: u64 = 16 << 10;

/// Write files into a pool and say which are durable (used by demo)
#[derive(Args, Debug)]
pub(crate) struct DemoWriter {
    /// The pool
    pool: PathBuf,
}

impl DemoWriter {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> Result<ExitCode> {
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default())
            .map_err(|error| failure::of_pool(&self.pool, failure::OPEN, error))?;
        filesystem.create_dir(DIRECTORY, NewInode::with_permissions(0o755))?;
        for number in 0..MAX_FILES {
            let flags = OpenFlags::WRITE | OpenFlags::TEMPORARY;
            let file = filesystem.open_file(DIRECTORY, flags, NewInode::with_permissions(0o644))?;
            let content = content(number);
            let written = file.write_at(&content, 0)?;
            if written != content.len() {
                bail!("only {written} of {} bytes were written", content.len());
            }
            filesystem.link_file(&file, path_of(number))?;
            writeln!(output, "{number}")?;
            output.flush()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn path_of(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(number.to_string())
}

/// The content of file `number`: it says what it is, and no two are alike.
fn content(number: u64) -> Vec<u8> {
    let mut state = number;
    let length = 64 + next_random(&mut state) % (MAX_BYTES - 64);
    let length = usize::try_from(length).unwrap_or(64);
    let mut bytes = format!("udax demo, file {number}, {length} bytes\n").into_bytes();
    while bytes.len() < length {
        bytes.extend(next_random(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// SplitMix64: every seed gives another stream.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Runs a writer on `pool`, kills it in the middle, and gives how many files it had promised.
pub(super) fn write_and_kill(pool: &Path) -> Result<u64> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut writer = Command::new(program)
        .arg("demo-writer")
        .arg(pool)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the writer")?;
    let pipe = writer.stdout.take().context("the writer has no output")?;
    let mut promised = 0;
    let mut was_killed = false;
    let mut line = String::new();
    let mut lines = BufReader::new(pipe);
    while lines.read_line(&mut line)? > 0 {
        // A line without its end was cut by the kill: it promises nothing.
        if line.strip_suffix('\n') == Some(promised.to_string().as_str()) {
            promised += 1;
        } else if line.ends_with('\n') {
            bail!("the writer promised {} after {promised} files", line.trim_end());
        }
        if promised >= KILL_AFTER && !was_killed {
            writer.kill().context("cannot kill the writer")?;
            was_killed = true;
        }
        line.clear();
    }
    let status = writer.wait()?;
    if !was_killed || status.success() {
        bail!("the writer ended by itself ({status}) after {promised} files");
    }
    Ok(promised)
}

/// What became of the promises.
pub(super) struct Verified {
    /// Promised files that are missing or wrong, and files that are there but not whole.
    pub(super) broken: u64,
    /// For the table.
    pub(super) step: Step,
}

/// Checks that the first `promised` files are there and whole, and that at most the next one is too.
pub(super) fn verify(pool: &InPool<'_>, promised: u64) -> Result<Verified> {
    let started = Instant::now();
    let (mut broken, mut bytes) = (0, 0);
    for number in 0..promised {
        match read(pool, number) {
            Ok(found) if found == content(number) => bytes += u64::try_from(found.len()).unwrap_or(0),
            Ok(_) => {
                failure::tell(&format!("promised file {number} has another content"));
                broken += 1;
            }
            Err(error) => {
                failure::tell(&format!("promised file {number}: {error:#}"));
                broken += 1;
            }
        }
    }
    for name in pool.names(Path::new(DIRECTORY))? {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        let is_expected = match number {
            Some(number) if number < promised => true,
            Some(number) if number == promised => read(pool, number)? == content(number),
            _ => false,
        };
        if !is_expected {
            failure::tell(&format!("{} is there, and should not be", name.display()));
            broken += 1;
        }
    }
    Ok(Verified {
        broken,
        step: Step {
            name: "verify promised",
            files: Some(promised),
            bytes: Some(bytes),
            seconds: started.elapsed().as_secs_f64(),
        },
    })
}

fn read(pool: &InPool<'_>, number: u64) -> Result<Vec<u8>> {
    let path = path_of(number);
    let size = pool.attributes(&path)?.size;
    let file = pool.open(&path)?;
    let limit = usize::try_from(size.min(MAX_BYTES + 1)).unwrap_or(0);
    let mut bytes = vec![0; limit];
    let read = pool.read_at(&file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_differ_and_repeat() {
        assert_eq!(content(7), content(7));
        assert_ne!(content(7), content(8));
        assert!(content(7).starts_with(b"udax demo, file 7, "));
        assert!((0..200).all(|number| (64..=16 << 10).contains(&content(number).len())));
    }
}
