//! A file of the kernel's filesystem read into a pool without a copy: `O_DIRECT` through io_uring into pinned pages.
//!
//! The device stores straight into the pages of the pool's file. The pin keeps them where they are until the ring has
//! said that the read is complete, whatever other threads do to the file; then `persist` makes them durable.
//!
//! ```text
//! cargo run -p udax --example io_uring_zero_copy [FILE]
//! ```
//! `FILE` is read up to 64 MiB; its filesystem must have `O_DIRECT`. Without it an own file in the current folder is.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, opcode, types};
use udax::{Access, Filesystem, FormatOptions, Label, MountOptions, NewInode, OpenFlags, Pin, Request};

const BLOCK: u64 = 4096;
const MAX_BYTES: u64 = 64 << 20;
/// Bytes of one read.
const STEP: u64 = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let pool = std::env::temp_dir().join(format!("io_uring-{}.pool", std::process::id()));
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let own = PathBuf::from(format!("io_uring-{}.source", std::process::id()));
    let result = run(&pool, given.as_deref(), &own);
    // The example's own files.
    let _ = std::fs::remove_file(&pool);
    let _ = std::fs::remove_file(&own);
    result
}

fn run(pool: &Path, given: Option<&Path>, own: &Path) -> Result<()> {
    if given.is_none() {
        let bytes: Vec<u8> = (0..10_000_000_u32)
            .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2])
            .collect();
        File::create(own)?.write_all(&bytes)?;
    }
    let path = given.unwrap_or(own);
    let size = std::fs::metadata(path)?.len().min(MAX_BYTES);
    if size == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "the file is empty").into());
    }
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let (source, mut ring) = match (direct, IoUring::new(64)) {
        (Ok(source), Ok(ring)) => (source, ring),
        (Err(error), _) => {
            println!("{} cannot be read with O_DIRECT here: {error}", path.display());
            return Ok(());
        }
        (_, Err(error)) => {
            println!("there is no io_uring for this process: {error}");
            return Ok(());
        }
    };

    let format = FormatOptions {
        size: Some(128 << 20),
        ..FormatOptions::default()
    };
    Filesystem::format(pool, &format)?;
    let filesystem = Filesystem::open(pool, &MountOptions::default())?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = filesystem.open_file("/copy", flags, NewInode::with_permissions(0o644))?;
    // Whole blocks, as a device reads them.
    file.truncate(size.next_multiple_of(BLOCK))?;
    let request = Request::new(Access::Write).labelled(Label::new("io_uring"));
    let mut pin = file.pin(0, size, request)?;
    let pieces = pin.pieces().count();
    read_into(&mut pin, &mut ring, &source)?;
    pin.persist(0, pin.len())?;
    drop(pin);
    file.truncate(size)?;

    let mut expected = Vec::new();
    File::open(path)?.take(size).read_to_end(&mut expected)?;
    let mut found = vec![0; expected.len()];
    file.read_at(&mut found, 0)?;
    println!("{size} bytes read into {pieces} pieces of the pool, without a copy");
    if found != expected {
        return Err(Error::other("the bytes are not the same").into());
    }
    drop(file);
    Ok(filesystem.close()?)
}

/// Reads the source from its start into all pages of the pin. Returns when no read is under way any more.
fn read_into(pin: &mut Pin, ring: &mut IoUring, source: &File) -> Result<()> {
    let mut parts = Vec::new();
    let mut at = 0;
    for (address, len) in pin.addresses_mut()? {
        let mut done = 0;
        while done < len {
            let count = (len - done).min(STEP);
            parts.push((
                at + done,
                address.as_ptr().wrapping_add(usize::try_from(done)?),
                u32::try_from(count)?,
            ));
            done += count;
        }
        at += len;
    }
    let mut first_error = None;
    for batch in parts.chunks(32) {
        for (offset, address, len) in batch {
            let entry = opcode::Read::new(types::Fd(source.as_raw_fd()), *address, *len)
                .offset(*offset)
                .build();
            // SAFETY: the bytes are pages of `pin`, which is for writing and is borrowed until this function returns;
            // that is after every read has completed. The file is open as long.
            let pushed = unsafe { ring.submission().push(&entry) };
            pushed.map_err(|_| Error::other("the ring is full"))?;
        }
        let mut left = batch.len();
        while left > 0 {
            match ring.submit_and_wait(left) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    // Reads may be under way into pages that must not be given back then.
                    eprintln!("io_uring: {error}");
                    std::process::abort();
                }
                _ => {}
            }
            for completion in ring.completion() {
                left -= 1;
                if completion.result() < 0 {
                    first_error.get_or_insert(Error::from_raw_os_error(-completion.result()));
                }
            }
        }
    }
    match first_error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
