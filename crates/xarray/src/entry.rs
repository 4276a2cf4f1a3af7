//! What the index holds and what a lookup tells: [`Entry`], [`Found`], [`Mark`], and the place of an entry, [`Span`].

use std::fmt;
use std::sync::Arc;

/// The largest value of an entry: 63 bits.
pub const MAX_VALUE: u64 = u64::MAX >> 1;

/// The largest order of an entry: it covers half of all indices.
pub const MAX_ORDER: u8 = 63;

/// One of the three properties by which entries can be found. What they stand for is the user's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mark {
    /// The first mark.
    Zero,
    /// The second mark.
    One,
    /// The third mark.
    Two,
}

impl Mark {
    /// All marks.
    pub const ALL: [Self; 3] = [Self::Zero, Self::One, Self::Two];

    pub(crate) fn number(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// What is stored at an index, or at a range of them.
pub enum Entry<T> {
    /// A number up to [`MAX_VALUE`].
    Value(u64),
    /// A shared object; the index holds one count of it.
    Pointer(Arc<T>),
}

impl<T> Entry<T> {
    /// The number, if it is one.
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Pointer(_) => None,
        }
    }

    /// The object, if it is one.
    pub fn pointer(&self) -> Option<&Arc<T>> {
        match self {
            Self::Value(_) => None,
            Self::Pointer(pointer) => Some(pointer),
        }
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Value(value) => Self::Value(*value),
            Self::Pointer(pointer) => Self::Pointer(Arc::clone(pointer)),
        }
    }
}

/// The same number, or the same object (not an equal one).
impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(one), Self::Value(other)) => one == other,
            (Self::Pointer(one), Self::Pointer(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<T> Eq for Entry<T> {}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::Pointer(pointer) => f.debug_tuple("Pointer").field(&Arc::as_ptr(pointer)).finish(),
        }
    }
}

/// An entry and the indices that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<E> {
    /// The first index, a multiple of `1 << order`.
    pub start: u64,
    /// It covers `1 << order` indices.
    pub order: u8,
    /// What is there.
    pub entry: E,
}

impl<E> Found<E> {
    /// The last index that the entry covers.
    pub fn last(&self) -> u64 {
        last_of(self.start, self.order)
    }
}

/// The last of `1 << order` indices from `start`, which is a multiple of that.
pub(crate) fn last_of(start: u64, order: u8) -> u64 {
    start | ((1 << order) - 1)
}
