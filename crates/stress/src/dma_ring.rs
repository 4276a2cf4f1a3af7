//! Real DMA into pinned pages: `O_DIRECT` reads of a file through io_uring.
//!
//! [`DmaRing`] owns whatever holds the pin from the submission of its reads to their completion, so that the pages that
//! the device stores to are pinned as long as it may. The pages are registered with the ring as fixed buffers, one for
//! each run, where the kernel takes them; a DAX mapping of the kernel's own refuses such long pins, and so may a limit
//! on locked memory: then they are read into as ordinary buffers.
//!
//! # Invariants
//! - A flight is in `flights` as long as one of its reads is not completed.
//! - A ring is not dropped before its reads are; if the kernel does not say that they are, the pins are leaked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use io_uring::{IoUring, opcode, types};
use udax::Pin;

use crate::stamp::{BLOCK, BLOCK_LEN};

/// Flights under way at most.
pub(crate) const MAX_FLIGHTS: usize = 8;
/// Runs of a flight at most.
pub(crate) const MAX_RUNS: usize = 4;
/// Blocks of a flight that are stored to at most.
pub(crate) const MAX_FLIGHT_BLOCKS: usize = 64;
/// One entry for each run of each flight.
const ENTRIES: u32 = 32;

/// Pages of a pin that lie in a row in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// First byte in the pin: a multiple of 4096.
    pub(crate) at: u64,
    /// Blocks.
    pub(crate) blocks: usize,
    /// First block of the flight's part of the source.
    pub(crate) source: usize,
}

#[derive(Debug)]
struct Flight<T> {
    holder: T,
    runs_left: usize,
    bytes_left: usize,
    error: Option<io::Error>,
}

/// See the [module](self).
pub(crate) struct DmaRing<T: AsMut<Pin>> {
    ring: IoUring,
    source: File,
    has_buffers: bool,
    flights: [Option<Flight<T>>; MAX_FLIGHTS],
    /// Aligned as `O_DIRECT` wants it, from `start` on.
    staging: Vec<u8>,
    start: usize,
}

/// What a flight has come to.
pub(crate) type Landed<T> = (T, io::Result<()>);

impl<T: AsMut<Pin>> DmaRing<T> {
    /// A ring that reads from a file in `directory`, which has no name.
    ///
    /// # Errors
    /// The filesystem has no `O_DIRECT`, or the kernel no io_uring for this process: the text says which.
    pub(crate) fn new(directory: &Path, number: u64) -> Result<Self, (&'static str, io::Error)> {
        let source = open_source(directory, number).map_err(|error| ("no file with O_DIRECT", error))?;
        let ring = IoUring::new(ENTRIES).map_err(|error| ("no io_uring", error))?;
        let has_buffers = ring.submitter().register_buffers_sparse(ENTRIES).is_ok();
        let staging = vec![0; (MAX_FLIGHT_BLOCKS + 1) * BLOCK];
        Ok(Self {
            ring,
            source,
            has_buffers,
            flights: Default::default(),
            start: staging.as_ptr().align_offset(BLOCK),
            staging,
        })
    }

    /// Flights under way.
    pub(crate) fn flying(&self) -> usize {
        self.flights.iter().flatten().count()
    }

    /// Whether the kernel takes pinned pages as registered buffers.
    pub(crate) fn has_buffers(&self) -> bool {
        self.has_buffers
    }

    /// Lets `fill` make the content of the flight's blocks, and begins to read them into `runs` of the holder's pin,
    /// which must be one for writing. Gives the holder back when that cannot begin.
    pub(crate) fn take_off(
        &mut self,
        mut holder: T,
        runs: &[Run],
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Landed<T>> {
        let Some(place) = self.flights.iter().position(Option::is_none) else {
            return Err((holder, Err(io::Error::from(io::ErrorKind::WouldBlock))));
        };
        let prepared = addresses(holder.as_mut(), runs).and_then(|addresses| {
            self.write_source(place, fill)?;
            Ok(addresses)
        });
        let addresses = match prepared {
            Ok(addresses) => addresses,
            Err(error) => return Err((holder, Err(error))),
        };
        self.flights[place] = Some(Flight {
            holder,
            runs_left: runs.len(),
            bytes_left: runs.iter().map(|run| run.blocks * BLOCK).sum(),
            error: None,
        });
        for (number, (run, address)) in runs.iter().zip(addresses).enumerate() {
            self.push(place * MAX_RUNS + number, place, *run, address);
        }
        // What is not submitted now is so by the next call.
        let _ = self.ring.submit();
        Ok(())
    }

    fn write_source(&mut self, place: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let bytes = self
            .staging
            .get_mut(self.start..self.start + MAX_FLIGHT_BLOCKS * BLOCK);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        fill(bytes);
        self.source.write_all_at(bytes, source_offset(place, 0))
    }

    fn push(&mut self, slot: usize, place: usize, run: Run, address: *mut u8) {
        let (Ok(len), Ok(index)) = (u32::try_from(run.blocks * BLOCK), u16::try_from(slot)) else {
            return self.note(slot, Err(io::ErrorKind::InvalidInput.into()));
        };
        let offset = source_offset(place, run.source);
        let file = types::Fd(self.source.as_raw_fd());
        let user_data = u64::try_from(slot).unwrap_or(0);
        let entry = if self.register(index, address, run.blocks * BLOCK) {
            opcode::ReadFixed::new(file, address, len, index)
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(file, address, len).offset(offset).build()
        };
        // SAFETY: the `len` bytes at `address` are pages of the flight's pin, which is for writing; `flights` keeps the
        // pin until this read's completion was seen, and the pin keeps the pages mapped and the block's own. Nobody
        // has a reference to them. The file is open as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(user_data)) };
        if pushed.is_err() {
            self.note(slot, Err(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Registers the pages of a run as buffer `index`; whether the kernel takes them.
    fn register(&mut self, index: u16, address: *mut u8, len: usize) -> bool {
        if !self.has_buffers {
            return false;
        }
        let buffer = libc::iovec {
            iov_base: address.cast(),
            iov_len: len,
        };
        // SAFETY: the bytes are mapped as long as the flight's pin, and the buffer is taken out of the table when the
        // last read of its flight has completed, before the pin goes.
        let done = unsafe {
            self.ring
                .submitter()
                .register_buffers_update(index.into(), &[buffer], None)
        };
        self.has_buffers = done.is_ok();
        self.has_buffers
    }

    fn unregister(&mut self, place: usize) {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let first = u32::try_from(place * MAX_RUNS).unwrap_or(0);
        // SAFETY: empty buffers refer to no memory.
        let done = unsafe {
            self.ring
                .submitter()
                .register_buffers_update(first, &[empty; MAX_RUNS], None)
        };
        self.has_buffers = done.is_ok();
    }

    /// Notes the result of a read.
    fn note(&mut self, slot: usize, result: io::Result<usize>) {
        let flight = self.flights.get_mut(slot / MAX_RUNS).and_then(Option::as_mut);
        let Some(flight) = flight else { return };
        flight.runs_left -= 1;
        match result {
            Ok(bytes) => flight.bytes_left = flight.bytes_left.saturating_sub(bytes),
            Err(error) => flight.error = Some(error),
        }
    }

    /// Flights whose reads have all completed; waits for one read, if told.
    pub(crate) fn land(&mut self, patience: Patience) -> Vec<Landed<T>> {
        let _ = match patience {
            Patience::None => self.ring.submit(),
            Patience::One => self.ring.submit_and_wait(1),
        };
        let completed: Vec<_> = self.ring.completion().collect();
        for entry in completed {
            let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let result = usize::try_from(entry.result());
            self.note(
                slot,
                result.map_err(|_| io::Error::from_raw_os_error(-entry.result())),
            );
        }
        let mut landed = Vec::new();
        for place in 0..MAX_FLIGHTS {
            let is_done = |flight: &Flight<T>| flight.runs_left == 0;
            if !self.flights[place].as_ref().is_some_and(is_done) {
                continue;
            }
            if self.has_buffers {
                self.unregister(place);
            }
            let Some(flight) = self.flights[place].take() else {
                continue;
            };
            let result = match flight.error {
                Some(error) => Err(error),
                None if flight.bytes_left > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Ok(()),
            };
            landed.push((flight.holder, result));
        }
        landed
    }
}

/// Whether to wait for a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    None,
    One,
}

impl<T: AsMut<Pin>> Drop for DmaRing<T> {
    fn drop(&mut self) {
        // A read that was submitted completes; many waits that bring nothing mean that the ring is broken.
        for _ in 0..10_000 {
            if self.flying() == 0 {
                return;
            }
            self.land(Patience::One);
        }
        self.flights
            .iter_mut()
            .for_each(|flight| std::mem::forget(flight.take()));
    }
}

/// Where the runs of a pin are in memory.
fn addresses(pin: &mut Pin, runs: &[Run]) -> io::Result<Vec<*mut u8>> {
    let pieces = pin.addresses_mut().map_err(io::Error::other)?;
    let address = |run: &Run| {
        let mut start = 0;
        for (address, len) in &pieces {
            let end = run.at + u64::try_from(run.blocks).unwrap_or(u64::MAX) * BLOCK_LEN;
            if run.at >= start && end <= start + len {
                let offset = usize::try_from(run.at - start).ok()?;
                return Some(address.as_ptr().wrapping_add(offset));
            }
            start += len;
        }
        None
    };
    let found: Option<Vec<*mut u8>> = runs.iter().take(MAX_RUNS).map(address).collect();
    found
        .filter(|found| found.len() == runs.len())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Where a block of a flight's part of the source is.
fn source_offset(place: usize, block: usize) -> u64 {
    u64::try_from((place * MAX_FLIGHT_BLOCKS + block) * BLOCK).unwrap_or(0)
}

/// A file in `directory` without a name, for direct reads.
pub(crate) fn open_source(directory: &Path, number: u64) -> io::Result<File> {
    let path = directory.join(format!("udax-stress-{}-{number}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let removed = fs::remove_file(&path);
    let file = file?;
    removed?;
    Ok(file)
}
