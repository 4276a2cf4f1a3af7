//! What a writer refuses.

use thiserror::Error;

use crate::entry::{Entry, MAX_ORDER, MAX_VALUE};

/// Why an entry was not stored. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The place is taken by an entry of another order, or by several.
    #[error("index {start} has an entry of order {order}")]
    Conflict {
        /// First index of the first entry in the way.
        start: u64,
        /// Its order.
        order: u8,
    },
    /// The index is no multiple of the entry's size.
    #[error("index {index} is not aligned to order {order}")]
    Misaligned {
        /// The index.
        index: u64,
        /// The order.
        order: u8,
    },
    /// The order is above [`MAX_ORDER`].
    #[error("order {order}; the largest is {MAX_ORDER}")]
    OrderTooLarge {
        /// The order.
        order: u8,
    },
    /// The value is above [`MAX_VALUE`].
    #[error("value {value:#x}; the largest is {MAX_VALUE:#x}")]
    ValueTooLarge {
        /// The value.
        value: u64,
    },
}

/// Why an entry was not exchanged. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ExchangeError<T> {
    /// Something else is there, or nothing.
    #[error("found {found:?} instead of the expected entry")]
    Differs {
        /// What is there.
        found: Option<Entry<T>>,
    },
    /// The new value is above [`MAX_VALUE`].
    #[error("value {value:#x}; the largest is {MAX_VALUE:#x}")]
    ValueTooLarge {
        /// The value.
        value: u64,
    },
}

/// Why an entry was not split. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There is no entry.
    #[error("index {index} has no entry")]
    Absent {
        /// The index.
        index: u64,
    },
    /// The entry is not larger than its pieces would be.
    #[error("the entry has order {order}, the pieces would have {pieces}")]
    NotLarger {
        /// Order of the entry.
        order: u8,
        /// Order of the pieces.
        pieces: u8,
    },
    /// There would be more pieces than are made at once.
    #[error("an entry of order {order} has too many pieces of order {pieces}")]
    TooManyPieces {
        /// Order of the entry.
        order: u8,
        /// Order of the pieces.
        pieces: u8,
    },
    /// The value of a piece is above [`MAX_VALUE`].
    #[error("value {value:#x}; the largest is {MAX_VALUE:#x}")]
    ValueTooLarge {
        /// The value.
        value: u64,
    },
}
