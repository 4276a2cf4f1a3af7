//! What is waited for with DAX mappings: the keys of their [`WaitTable`].

use udax_sync::wait::WaitKey;
pub use udax_sync::wait::{Cancel, Mode, Until, WaitError};
pub(crate) use udax_sync::wait::{Promise, Wake};

/// The queues of a device.
pub(crate) type WaitTable = udax_sync::wait::WaitTable<Key>;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// That the entry at `start` of a mapping is unlocked.
    Entry { mapping: u64, start: u64 },
    /// That pins of a frame go.
    Frame(u64),
    /// That a break of a mapping's layout is no longer pending.
    Gate(u64),
    /// That a read lease of a mapping ends.
    Lease(u64),
    /// That a library write to a mapping ends.
    Writer(u64),
}

impl WaitKey for Key {
    fn number(self) -> u64 {
        match self {
            Self::Entry { mapping, start } => mapping.rotate_left(40) ^ start,
            Self::Frame(frame) => !frame,
            Self::Gate(mapping) => mapping,
            Self::Lease(mapping) => mapping.rotate_left(20),
            Self::Writer(mapping) => mapping.rotate_left(30),
        }
    }
}
