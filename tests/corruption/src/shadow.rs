//! What a region holds, and what of it a power failure leaves at worst.
//!
//! Lock: one around both copies; it is a leaf.

use std::sync::{Mutex, MutexGuard, PoisonError};

use udax_pmem::{Event, Recorder};

/// Bytes of a line, the unit of flushing.
const LINE: usize = 64;

/// Follows every store to a region.
#[derive(Debug)]
pub struct Shadow {
    copies: Mutex<Copies>,
}

#[derive(Debug)]
struct Copies {
    current: Vec<u8>,
    durable: Vec<u8>,
}

impl Shadow {
    /// Of a region of `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let copies = Copies {
            current: vec![0; len],
            durable: vec![0; len],
        };
        Self {
            copies: Mutex::new(copies),
        }
    }

    /// All bytes, as a process that dies leaves them.
    pub fn current(&self) -> Vec<u8> {
        self.copies().current.clone()
    }

    /// What was stored past the cache or flushed: the least that a power failure leaves between two operations.
    pub fn durable(&self) -> Vec<u8> {
        self.copies().durable.clone()
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        // A panic elsewhere does not make bytes wrong.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for Shadow {
    fn record(&self, event: Event<'_>) {
        let copies = &mut *self.copies();
        match event {
            Event::Store { at, bytes } => put(&mut copies.current, at, bytes),
            Event::NonTemporal { at, bytes } => {
                put(&mut copies.current, at, bytes);
                put(&mut copies.durable, at, bytes);
            }
            Event::Flush { at, len } => {
                let first = index(at) / LINE * LINE;
                let end = index(at.saturating_add(len)).next_multiple_of(LINE);
                if let (Some(from), Some(to)) =
                    (copies.current.get(first..end), copies.durable.get_mut(first..end))
                {
                    to.copy_from_slice(from);
                }
            }
            Event::Fence => {}
        }
    }
}

fn put(to: &mut [u8], at: u64, bytes: &[u8]) {
    if let Some(to) = to
        .get_mut(index(at)..)
        .and_then(|rest| rest.get_mut(..bytes.len()))
    {
        to.copy_from_slice(bytes);
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
