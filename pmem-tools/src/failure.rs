//! How errors are told: one line that names the file, what failed, why, and what to do.

use std::borrow::Cow;
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::ExitCode;

use udax_check::CheckError;
use udax_journal::JournalError;
use udax_media::FormatError;
use udax_pmem::RegionError;

/// Exit status of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// Exit status of a wrong command line.
pub(crate) const USAGE: u8 = 2;

/// What to do about data of files that is lost, or does not have its checksum.
pub(crate) const DATA_ADVICE: &str = "a write of whole blocks there, or removing the file, is the end of it; 'udax attr \
    -checksum' lets data without the right checksum be read as it is";

/// Prints `error` on standard error and gives the exit status, `status` unless a reader just went away.
pub(crate) fn report(error: &anyhow::Error, status: u8) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    tell(&line(error));
    ExitCode::from(status)
}

/// Does `work` for each of `arguments`, also after a failure, which is told at once; the exit status says
/// whether one failed.
///
/// # Errors
/// When the reader of the output went away: nothing more is to be done then.
pub(crate) fn for_each<T>(
    arguments: &[T],
    mut work: impl FnMut(&T) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for argument in arguments {
        match work(argument) {
            Ok(()) => {}
            Err(error) if is_broken_pipe(&error) => return Err(error),
            Err(error) => status = report(&error, FAILED),
        }
    }
    Ok(status)
}

/// Prints `udax: message` on standard error; that nobody reads it is no failure.
pub(crate) fn tell(message: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "udax: {message}");
}

/// An error about the pool `pool`: `what` could not be done because of `why`.
pub(crate) fn of_pool<E>(pool: &Path, what: &str, why: E) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let shown = crate::name::shown(pool);
    if [OPEN, CHECK].contains(&what) {
        match first_word(pool) {
            Some(udax_media::device::MAGIC) => {
                return anyhow::anyhow!(
                    "{shown}: is the data device of a pool, without which it is nothing: name the pool, on persistent \
                     memory"
                );
            }
            // A file there may be a pool, too.
            Some(word) if word != udax_media::superblock::MAGIC && crate::dax_flag::is_on_mount(pool) => {
                return anyhow::anyhow!(
                    "{shown}: is no pool, but a file on a mounted one: other programs use it there"
                );
            }
            _ => {}
        }
    }
    anyhow::Error::new(why).context(format!("{shown}: {what}"))
}

/// What cannot be done with something that is no pool.
pub(crate) const OPEN: &str = "cannot open";
pub(crate) const CHECK: &str = "cannot check";

/// What the file or block device begins with: a magic number, if it is one of ours; 0 if it is shorter than that.
fn first_word(path: &Path) -> Option<u32> {
    // Opening others may wait, or do something.
    let is_readable = |metadata: &Metadata| metadata.is_file() || metadata.file_type().is_block_device();
    path.metadata().ok().filter(is_readable)?;
    let mut file = std::fs::File::open(path).ok()?;
    let mut word = [0; 4];
    Some(
        file.read_exact(&mut word)
            .map_or(0, |()| u32::from_le_bytes(word)),
    )
}

/// The causes of `error` in one line, without repetitions, and what to do.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let message = cause.to_string().replace('\n', " ");
        let subject = text.split(": ").next().unwrap_or_default();
        let message = match message
            .strip_prefix(subject)
            .and_then(|rest| rest.strip_prefix(": "))
        {
            Some(rest) if !subject.is_empty() => rest,
            _ => &message,
        };
        if text.contains(message) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(message);
    }
    match error.chain().find_map(advice) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn advice(cause: &(dyn std::error::Error + 'static)) -> Option<Cow<'static, str>> {
    if let Some(error) = cause.downcast_ref::<udax::Error>() {
        return match error {
            udax::Error::NoSpace { on_device: true, .. } => Some(
                "remove files without the DAX flag, or move some to the pool with 'udax tier --to dax'; a data device \
                 cannot grow"
                    .into(),
            ),
            udax::Error::NoSpace { .. } => {
                Some("remove files, or make the pool larger with 'udax grow'".into())
            }
            udax::Error::NotBlank { .. } | udax::Error::DeviceNotBlank { .. } => {
                Some("--force overwrites it".into())
            }
            udax::Error::Corrupt(error) | udax::Error::NotPool(error) => format_advice(error),
            udax::Error::Region(error) | udax::Error::Journal(JournalError::Region(error)) => {
                region_advice(error)
            }
            udax::Error::UnreachableData { at, .. } => {
                region_advice(&RegionError::Unreachable { at: *at })
            }
            udax::Error::LostData { .. } => Some(
                "the rest of it can be read; 'udax fsck --badblocks' tells all that is lost, and a write of whole \
                 blocks, or removing the file, is the end of it"
                    .into(),
            ),
            udax::Error::WrongData { .. } => Some(
                "the rest of it can be read; 'udax fsck --data' tells all that is wrong, and a write of whole blocks, or \
                 removing the file, is the end of it; 'udax attr -checksum' lets it be read as it is"
                    .into(),
            ),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<CheckError>() {
        return match error {
            CheckError::Region(error) | CheckError::Journal(JournalError::Region(error)) => {
                region_advice(error)
            }
            CheckError::NoSuperblock(error) => format_advice(error),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<FormatError>() {
        return format_advice(error);
    }
    let error = cause.downcast_ref::<RegionError>()?;
    region_advice(error)
}

fn format_advice(error: &FormatError) -> Option<Cow<'static, str>> {
    match error {
        FormatError::Magic {
            what: "superblock", ..
        } => Some(
            "if this was never a udax pool, make one with 'udax mkfs'; if it was, both copies of its superblock \
             are lost, and 'udax fsck' cannot make them anew: restore its first 4096 bytes from a copy made since \
             it last grew, or all of it"
                .into(),
        ),
        FormatError::Checksum {
            what: "superblock", ..
        }
        | FormatError::Field {
            what: "superblock", ..
        } => Some(
            "both copies of the pool's superblock are lost, and 'udax fsck' cannot make them anew: restore its \
             first 4096 bytes from a copy made since it last grew, or all of it"
                .into(),
        ),
        FormatError::UnknownFeature { set: "ro_compat", .. } => {
            Some("this one can read it: commands that only read do, and so does a mount with 'ro'".into())
        }
        FormatError::TooSmall { .. } => Some(
            "if it was a pool, it was cut short: restore it from a copy; else check the path, or make a pool elsewhere with 'udax mkfs'"
                .into(),
        ),
        FormatError::Cut { pool, .. } => Some(
            format!(
                "what was cut off is lost: restore the pool from a copy, or give it its length back with \
                 'truncate -s {pool}' (a device: its old size) and save what is left with 'udax fsck -y'"
            )
            .into(),
        ),
        _ => None,
    }
}

fn region_advice(error: &RegionError) -> Option<Cow<'static, str>> {
    let advice = match error {
        RegionError::Busy { path, .. } => return Some(busy_advice(Path::new(path))),
        RegionError::Io { path, source, .. } => return io_advice(path, source.kind()),
        RegionError::Unreserved { .. } => "a process has no more addresses here: see 'ulimit -v'",
        RegionError::Unreachable { .. } => {
            "make room there, or give the file its length back, and try again: what was durable is there then"
        }
        RegionError::Media { .. } => "copy what can be read with 'udax get', then run 'udax fsck -y'",
        _ => return None,
    };
    Some(advice.into())
}

/// What to do about a pool that somebody has open.
fn busy_advice(pool: &Path) -> Cow<'static, str> {
    match crate::pool::mounted(pool) {
        Some(mounted) => {
            let directory = crate::name::shown(&mounted.directory);
            format!("it is mounted on {directory}: use it there, or end that with 'udax umount {directory}'")
                .into()
        }
        None => "close it there, or wait until it is closed".into(),
    }
}

/// What to do about a file or device that cannot be opened.
fn io_advice(path: &str, kind: io::ErrorKind) -> Option<Cow<'static, str>> {
    let place = Path::new(path);
    let is_missing = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    if let Some(meant) = path_meant(path).filter(|_| is_missing) {
        return Some(format!("did you mean {meant}?").into());
    }
    let is_device = || path.starts_with("/dev/dax") || path.starts_with("/dev/pmem");
    let advice = match kind {
        io::ErrorKind::NotFound if is_directory_missing(place) => {
            "its directory does not exist: make that first"
        }
        io::ErrorKind::NotFound if is_device() => {
            "check the path; 'daxctl list' and 'ndctl list' tell which devices there are"
        }
        io::ErrorKind::NotFound => "check the path, or make a pool there with 'udax mkfs'",
        io::ErrorKind::PermissionDenied => "run as a user who may do that",
        _ if crate::dax_flag::is_on_mount(place) => {
            "it is on a mounted pool: other programs use it there, as any file or directory"
        }
        _ => return None,
    };
    Some(advice.into())
}

/// `POOL:/PATH`, where the path is a pool's and something behind it.
fn path_meant(path: &str) -> Option<String> {
    let (pool, rest) = path.split_once(':').or_else(|| {
        let file = Path::new(path)
            .ancestors()
            .skip(1)
            .find(|above| above.is_file())?;
        let file = file.to_str()?;
        Some((file, path.get(file.len()..)?))
    })?;
    let rest = rest.trim_start_matches('/');
    Path::new(pool)
        .is_file()
        .then(|| crate::pool_path::in_pool(Path::new(pool), Path::new(rest)))
}

/// Whether the directory that `path` is in does not exist.
fn is_directory_missing(path: &Path) -> bool {
    path.parent()
        .is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_pool_once_and_says_what_to_do() {
        let why = RegionError::Busy {
            path: "/p".to_owned(),
            holder: " by process 7 (x)".to_owned(),
        };
        let error = of_pool(Path::new("/p"), OPEN, udax::Error::Region(why));
        assert_eq!(
            line(&error),
            "/p: cannot open: in use by process 7 (x); close it there, or wait until it is closed"
        );
    }

    #[test]
    fn a_cause_that_the_text_already_has_is_not_repeated() {
        let why = RegionError::Io {
            path: "/p".to_owned(),
            what: "open",
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        let text = line(&of_pool(Path::new("/p"), OPEN, why));
        assert_eq!(text.matches("entity not found").count(), 1, "{text}");
        assert!(text.ends_with("with 'udax mkfs'"), "{text}");
    }

    #[test]
    fn damage_is_told_once() {
        let why = FormatError::UnknownFeature {
            set: "incompat",
            bits: 4,
        };
        let text = line(&of_pool(Path::new("/p"), OPEN, udax::Error::Corrupt(why)));
        assert_eq!(text.matches("unknown incompat").count(), 1, "{text}");
        assert_eq!(text.matches("run fsck").count(), 1, "{text}");
    }
}
