//! Many requests under way at once, through io_uring: [`Ring`].
//!
//! A ring is used by one thread at a time; [`Rings`] keeps those that nobody uses. A call begins requests and returns
//! when all of them have ended, so that memory is lent for the call only.
//!
//! # Invariants
//! - Between the submission of a request and its completion `run` neither returns nor panics: the kernel has addresses
//!   of memory that is borrowed for the call.
//! - A ring that the kernel takes nothing from any more is never used again: its queue has addresses of such memory.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use udax_sync::{Mutex, Rank, thread};

use crate::DiskError;

/// Requests under way at most: enough for the fastest devices with requests as large as ours.
const DEPTH: usize = 32;
const ENTRIES: u32 = 32;
/// Bytes of one request at most. Reads are shorter, so that one run of a read-ahead is several.
const WRITE_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 256 << 10;
/// Rings that are kept for the next one, at most.
const MAX_IDLE: usize = 8;
/// How long is waited when the kernel has no room for a moment.
const PAUSE: Duration = Duration::from_millis(1);
/// So often in a row at most: what has no room for so many seconds will have none.
const MAX_PAUSES: u32 = if cfg!(test) { 30 } else { 30_000 };

/// Bytes to be read or written.
pub(crate) enum Request<'b> {
    Read { at: u64, to: &'b mut [u8] },
    Write { at: u64, from: &'b [u8] },
}

/// A part of a request, not larger than the kernel is given at once.
struct Flight {
    at: u64,
    address: *mut u8,
    left: usize,
    is_write: bool,
}

impl Flight {
    fn entry(&self, file: types::Fd) -> squeue::Entry {
        let len = u32::try_from(self.left).unwrap_or(u32::MAX);
        match self.is_write {
            true => opcode::Write::new(file, self.address, len)
                .offset(self.at)
                .build(),
            false => opcode::Read::new(file, self.address, len).offset(self.at).build(),
        }
    }

    fn failed(&self, source: io::Error) -> DiskError {
        DiskError::Failed {
            what: if self.is_write { "write" } else { "read" },
            at: self.at,
            source,
        }
    }

    /// Goes on behind `count` bytes that are done.
    fn advance(&mut self, count: usize) {
        let count = count.min(self.left);
        self.at += u64::try_from(count).unwrap_or(0);
        self.address = self.address.wrapping_add(count);
        self.left -= count;
    }
}

/// Rings that nobody uses.
pub(crate) struct Rings {
    idle: Mutex<Vec<Ring>>,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            idle: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rings")
    }
}

impl Rings {
    /// A ring of the caller's own.
    ///
    /// # Errors
    /// There is no io_uring for this process.
    pub(crate) fn take(&self) -> io::Result<Ring> {
        if let Some(ring) = self.idle.lock().pop() {
            return Ok(ring);
        }
        let mut ring = IoUring::new(ENTRIES)?;
        // A filter may let rings be made, and not used.
        let nothing = opcode::Nop::new().build();
        // SAFETY: a request that does nothing refers to no memory.
        let pushed = unsafe { ring.submission().push(&nothing) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock)?;
        ring.submit_and_wait(1)?;
        let _ = ring.completion().next();
        Ok(Ring { ring, is_sound: true })
    }

    pub(crate) fn give_back(&self, ring: Ring) {
        let mut idle = self.idle.lock();
        if ring.is_sound && idle.len() < MAX_IDLE {
            idle.push(ring);
        }
    }
}

/// A ring, in use by one thread.
pub(crate) struct Ring {
    ring: IoUring,
    /// The kernel still takes what it is given. Else requests may be left in the queue whose memory is gone.
    is_sound: bool,
}

/// What is under way in a ring during a call.
#[derive(Default)]
struct Flights {
    waiting: VecDeque<Flight>,
    flying: [Option<Flight>; DEPTH],
    /// Places of those that the kernel may not have taken yet, in the order of the queue.
    queued: VecDeque<usize>,
    failure: Option<DiskError>,
}

impl Flights {
    fn is_over(&self) -> bool {
        self.flying.iter().all(Option::is_none)
    }

    fn fail(&mut self, error: DiskError) {
        self.failure.get_or_insert(error);
        self.waiting.clear();
    }

    /// The request in this place has ended.
    fn end(&mut self, place: u64, result: i32) {
        let place = usize::try_from(place).ok();
        let Some(mut flight) = place
            .and_then(|place| self.flying.get_mut(place))
            .and_then(Option::take)
        else {
            return;
        };
        match done(result) {
            Ok(count) => flight.advance(count),
            Err(error) => {
                self.fail(flight.failed(error));
                return;
            }
        }
        if flight.left > 0 && self.failure.is_none() {
            self.waiting.push_back(flight);
        }
    }
}

impl Ring {
    /// Does all of `requests`; the first error. No new ones are begun after it.
    pub(crate) fn run(&mut self, file: &File, requests: Vec<Request<'_>>) -> Result<(), DiskError> {
        self.run_with(file, requests, |ring| ring.submit_and_wait(1))
    }

    /// As [`Ring::run`]; `enter` gives the kernel what is in the queue, and waits for one completion.
    fn run_with(
        &mut self,
        file: &File,
        requests: Vec<Request<'_>>,
        mut enter: impl FnMut(&IoUring) -> io::Result<usize>,
    ) -> Result<(), DiskError> {
        let mut flights = Flights {
            waiting: requests.into_iter().flat_map(flights).collect(),
            ..Flights::default()
        };
        let mut pauses = 0;
        loop {
            if self.is_sound {
                self.push(types::Fd(file.as_raw_fd()), &mut flights);
            }
            if flights.is_over() {
                return flights.failure.map_or(Ok(()), Err);
            }
            match if self.is_sound { enter(&self.ring) } else { Ok(0) } {
                Ok(_) if self.is_sound => pauses = 0,
                // The kernel does not wait for us any more, but ends what it has taken.
                Ok(_) => thread::sleep(PAUSE),
                Err(error) if is_passing(&error) && pauses < MAX_PAUSES => {
                    pauses += 1;
                    thread::sleep(PAUSE);
                }
                Err(error) => self.give_up(error, &mut flights),
            }
            for completion in self.ring.completion() {
                flights.end(completion.user_data(), completion.result());
            }
        }
    }

    /// Puts what waits into the queue, as much as there are places.
    fn push(&mut self, fd: types::Fd, flights: &mut Flights) {
        let left = self.ring.submission().len();
        let taken = flights.queued.len().saturating_sub(left);
        flights.queued.drain(..taken);
        for (number, place) in flights.flying.iter_mut().enumerate() {
            if place.is_some() {
                continue;
            }
            let Some(flight) = flights.waiting.pop_front() else {
                break;
            };
            let entry = flight
                .entry(fd)
                .user_data(u64::try_from(number).unwrap_or(u64::MAX));
            // SAFETY: the memory is borrowed by `requests` for the call, which does not end before the request has, or
            // is never taken from the queue; for a read alone. The file is open as long.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                // As many as there are places fit, so this is not met; then it waits for its turn.
                flights.waiting.push_front(flight);
                break;
            }
            *place = Some(flight);
            flights.queued.push_back(number);
        }
    }

    /// The kernel takes nothing more: what it has not taken fails, and what it has taken is still waited for.
    fn give_up(&mut self, error: io::Error, flights: &mut Flights) {
        self.is_sound = false;
        // Entries leave the queue in its order, by the kernel only, which is not told of any from now on.
        let left = self.ring.submission().len();
        let taken = flights.queued.len().saturating_sub(left);
        let mut error = Some(error);
        for place in flights.queued.split_off(taken) {
            let Some(flight) = flights.flying.get_mut(place).and_then(Option::take) else {
                continue;
            };
            if let Some(error) = error.take() {
                flights.fail(flight.failed(error));
            }
        }
        if let Some((error, flight)) = error.zip(flights.flying.iter().flatten().next()) {
            let failed = flight.failed(error);
            flights.fail(failed);
        }
    }
}

/// Whether the kernel may take it the next time: it was interrupted, or had no room.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

/// Bytes that a request has moved; none when it is to be tried again.
fn done(result: i32) -> io::Result<usize> {
    match usize::try_from(result) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(count),
        Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => Ok(0),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// A request in parts.
fn flights(request: Request<'_>) -> Vec<Flight> {
    match request {
        Request::Read { mut at, to } => {
            let parts = to.chunks_mut(READ_BYTES);
            let flight = |part: &mut [u8]| {
                let here = at;
                at += u64::try_from(part.len()).unwrap_or(0);
                Flight {
                    at: here,
                    address: part.as_mut_ptr(),
                    left: part.len(),
                    is_write: false,
                }
            };
            parts.map(flight).collect()
        }
        Request::Write { mut at, from } => {
            let parts = from.chunks(WRITE_BYTES);
            let flight = |part: &[u8]| {
                let here = at;
                at += u64::try_from(part.len()).unwrap_or(0);
                Flight {
                    at: here,
                    // Only read by the kernel: the opcode is a write.
                    address: part.as_ptr().cast_mut(),
                    left: part.len(),
                    is_write: true,
                }
            };
            parts.map(flight).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write as _;

    const LEN: usize = 64 << 10;

    fn ring() -> Option<(Rings, Ring, File)> {
        let rings = Rings::default();
        let ring = match rings.take() {
            Ok(ring) => ring,
            Err(error) => {
                println!("skipped: no io_uring: {error}");
                return None;
            }
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; LEN]).unwrap();
        Some((rings, ring, file))
    }

    fn read<'b>(to: &'b mut [u8], from: &'b [u8]) -> Vec<Request<'b>> {
        vec![
            Request::Read { at: 0, to },
            Request::Write {
                at: u64::try_from(LEN).unwrap(),
                from,
            },
        ]
    }

    fn number(result: Result<(), DiskError>) -> Option<i32> {
        match result {
            Err(DiskError::Failed { source, .. }) => source.raw_os_error(),
            _ => None,
        }
    }

    #[test]
    fn what_the_kernel_never_takes_fails_and_the_ring_is_not_used_again() {
        let Some((rings, mut ring, file)) = ring() else {
            return;
        };
        let mut bytes = [0; LEN];
        let mut calls = 0;
        let result = ring.run_with(&file, read(&mut bytes, &[8; 4096]), |_| {
            calls += 1;
            Err(io::Error::from_raw_os_error(libc::EFAULT))
        });
        assert_eq!((number(result), calls), (Some(libc::EFAULT), 1));
        assert_eq!(bytes, [0; LEN]);
        rings.give_back(ring);
        assert!(
            rings.idle.lock().is_empty(),
            "its queue has addresses of memory that is gone"
        );
        assert_eq!(
            file.metadata().unwrap().len(),
            u64::try_from(LEN).unwrap(),
            "nothing was written"
        );
    }

    #[test]
    fn what_the_kernel_has_taken_is_waited_for_after_it_takes_no_more() {
        let Some((rings, mut ring, file)) = ring() else {
            return;
        };
        let mut bytes = [0; LEN];
        let result = ring.run_with(&file, read(&mut bytes, &[8; 4096]), |ring| {
            ring.submit()?;
            Err(io::Error::from_raw_os_error(libc::EIO))
        });
        assert_eq!(number(result), Some(libc::EIO));
        // Both ended before the call did.
        assert_eq!(bytes, [7; LEN]);
        assert_eq!(file.metadata().unwrap().len(), u64::try_from(LEN + 4096).unwrap());
        rings.give_back(ring);
        assert!(rings.idle.lock().is_empty());
    }

    #[test]
    fn a_kernel_that_never_has_room_is_an_error_in_the_end() {
        let Some((_, mut ring, file)) = ring() else { return };
        let mut bytes = [0; LEN];
        let result = ring.run_with(&file, read(&mut bytes, &[8; 4096]), |_| {
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        });
        assert_eq!(number(result), Some(libc::EAGAIN));
    }

    #[test]
    fn a_kernel_without_room_for_a_moment_is_asked_again() {
        let Some((rings, mut ring, file)) = ring() else {
            return;
        };
        let mut bytes = [0; LEN];
        let mut calls = 0;
        let result = ring.run_with(&file, read(&mut bytes, &[8; 4096]), |ring| {
            calls += 1;
            match calls {
                1 => Err(io::Error::from_raw_os_error(libc::EINTR)),
                2 => Err(io::Error::from_raw_os_error(libc::EBUSY)),
                _ => ring.submit_and_wait(1),
            }
        });
        result.unwrap();
        assert_eq!(bytes, [7; LEN]);
        rings.give_back(ring);
        assert_eq!(rings.idle.lock().len(), 1);
    }
}
