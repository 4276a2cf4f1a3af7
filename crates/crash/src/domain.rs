//! Machines that differ in what they save.

use std::str::FromStr;

use crate::cut::ParseCutError;

/// What the machine saves when power fails (`udax_pmem::Persistence`), and in which units.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Domain {
    /// Only what was flushed and fenced; lines of 64 bytes reach the medium on their own.
    #[default]
    Flush,
    /// The caches too: stores through them are saved in the order in which they were made, without a flush. What is
    /// stored past the cache waits in the processor's buffers until a fence.
    Eadr,
    /// The mapping is of the page cache of an ordinary device: sectors of 512 bytes, each as it was at some moment
    /// since the last msync. That an msync writes the rest of its pages too is not counted on.
    Msync,
}

impl Domain {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flush, Self::Eadr, Self::Msync];

    /// Bytes that reach the medium together, as of one moment.
    pub const fn unit(self) -> u64 {
        match self {
            Self::Flush | Self::Eadr => udax_pmem::LINE,
            Self::Msync => 512,
        }
    }

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Eadr => "eadr",
            Self::Msync => "msync",
        }
    }
}

impl FromStr for Domain {
    type Err = ParseCutError;

    fn from_str(name: &str) -> Result<Self, ParseCutError> {
        let found = Self::ALL.into_iter().find(|domain| domain.name() == name);
        found.ok_or_else(|| ParseCutError::new(name))
    }
}
