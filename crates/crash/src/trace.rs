//! What happens to a memory and to the data device beside it, in one order: [`Trace`].

use std::sync::Arc;

use udax_disk::{DiskError, Medium, Write};
use udax_pmem::{Event, OwnedEvent, Recorder, Traced};
use udax_sync::{Mutex, Rank};

use crate::{DEVICE, Image};

/// What has happened to one of the two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    /// To the memory.
    Memory(Traced),
    /// To the data device.
    Device(DeviceEvent),
}

/// What has happened to a data device. A write that has not returned is not followed by a flush that covers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceEvent {
    /// These bytes were written: each sector of 512 bytes is lost or there, until a flush.
    Write {
        /// The device's byte.
        at: u64,
        /// Whole blocks.
        bytes: Arc<[u8]>,
    },
    /// All that was written before is durable.
    Flush,
}

impl Happened {
    /// The event, if it is one of the memory.
    pub fn memory(&self) -> Option<&OwnedEvent> {
        match self {
            Self::Memory(traced) => Some(&traced.event),
            Self::Device(_) => None,
        }
    }

    /// Whether it makes something durable: a fence, or a flush of the data device.
    pub fn is_barrier(&self) -> bool {
        match self {
            Self::Memory(traced) => matches!(traced.event, OwnedEvent::Fence),
            Self::Device(event) => matches!(event, DeviceEvent::Flush),
        }
    }
}

#[derive(Debug)]
struct Kept {
    events: Vec<Happened>,
    /// Only its data device is kept up to date.
    device: Image,
}

/// Keeps all events with their bytes, and is the data device.
///
/// Locks: one, a leaf, so that the events of both are in the order in which they happened.
#[derive(Debug)]
pub struct Trace {
    device_len: u64,
    kept: Mutex<Kept>,
}

impl Trace {
    /// An empty trace, with the data device of `image`.
    pub fn new(image: Image) -> Self {
        Self {
            device_len: image.device_len(),
            kept: Mutex::new(
                Rank::Leaf,
                Kept {
                    events: Vec::new(),
                    device: image,
                },
            ),
        }
    }

    /// The events since the last call, in the order in which they happened.
    pub fn take(&self) -> Vec<Happened> {
        std::mem::take(&mut self.kept.lock().events)
    }

    /// How many events are kept.
    pub fn len(&self) -> usize {
        self.kept.lock().events.len()
    }

    /// Whether no event is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Recorder for Trace {
    fn record(&self, event: Event<'_>) {
        let traced = Traced {
            thread: std::thread::current().id(),
            event: event.into(),
        };
        self.kept.lock().events.push(Happened::Memory(traced));
    }
}

impl Medium for Trace {
    fn len(&self) -> u64 {
        self.device_len
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        self.kept.lock().device.read(DEVICE + at, to);
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let mut kept = self.kept.lock();
        for write in writes {
            kept.device.write(DEVICE + write.at, write.bytes);
            let (at, bytes) = (write.at, Arc::from(write.bytes));
            kept.events
                .push(Happened::Device(DeviceEvent::Write { at, bytes }));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut kept = self.kept.lock();
        kept.events.push(Happened::Device(DeviceEvent::Flush));
        Ok(())
    }
}
