//! What a slot holds, in one machine word: nothing, a value, a pointer to an object, or a node.
//!
//! | bits | meaning |
//! |---|---|
//! | all zero | nothing |
//! | lowest bit 1 | a value in the other 63 |
//! | lowest two bits 10 | the address of an object, from `Arc::into_raw`, plus 2 |
//! | lowest two bits 00 | the address of a [`Node`] |
//!
//! The word is a pointer type, so that addresses keep their provenance.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::entry::Entry;
use crate::node::Node;

const VALUE: usize = 1;
const POINTER: usize = 2;
const KIND: usize = 3;

/// The content of a slot, undecoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(*mut ());

/// The content of a slot, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Empty,
    Value(u64),
    Pointer(NonNull<()>),
    Node(NonNull<Node>),
}

/// Does not compile where a pointer has not 64 bits: a value would not fit.
pub(crate) const fn to_usize(number: u64) -> usize {
    usize::from_ne_bytes(number.to_ne_bytes())
}

const fn to_u64(number: usize) -> u64 {
    u64::from_ne_bytes(number.to_ne_bytes())
}

impl Word {
    pub(crate) const EMPTY: Self = Self(ptr::null_mut());

    #[inline]
    pub(crate) fn from_raw(raw: *mut ()) -> Self {
        Self(raw)
    }

    #[inline]
    pub(crate) fn raw(self) -> *mut () {
        self.0
    }

    /// Whoever drops the word must give the object back; a value is at most `MAX_VALUE`.
    pub(crate) fn from_entry<T>(entry: Entry<T>) -> Self {
        match entry {
            Entry::Value(value) => Self(ptr::without_provenance_mut(to_usize(value << 1) | VALUE)),
            Entry::Pointer(pointer) => {
                let raw = Arc::into_raw(pointer).cast_mut().cast::<()>();
                // Two counters of a word each precede the object, so that every object of std's Arc is aligned to a
                // word; that is no promise of std, and without it the kinds could not be told apart.
                assert_eq!(raw.addr() & KIND, 0, "the object of an Arc is not aligned");
                Self(raw.map_addr(|address| address | POINTER))
            }
        }
    }

    pub(crate) fn from_node(node: Box<Node>) -> Self {
        Self(Box::into_raw(node).cast())
    }

    #[inline]
    pub(crate) fn kind(self) -> Kind {
        let address = self.0.addr();
        if address & VALUE != 0 {
            return Kind::Value(to_u64(address >> 1));
        }
        let stripped = NonNull::new(self.0.map_addr(|address| address & !KIND));
        match stripped {
            None => Kind::Empty,
            Some(object) if address & POINTER != 0 => Kind::Pointer(object),
            Some(node) => Kind::Node(node.cast()),
        }
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_null()
    }

    /// A further count of the entry; none for what is no entry.
    ///
    /// # Safety
    /// A pointer in the word is to an object of type `T` from [`Word::from_entry`], which holds its count during the
    /// call.
    #[inline]
    pub(crate) unsafe fn to_entry<T>(self) -> Option<Entry<T>> {
        if let Kind::Pointer(object) = self.kind() {
            // SAFETY: the caller says that the object is a T of an Arc whose count is above zero.
            unsafe { Arc::increment_strong_count(object.cast::<T>().as_ptr()) };
        }
        // SAFETY: as the caller says; the count that is taken was made above.
        unsafe { self.into_entry() }
    }

    /// The entry with the count that the word holds.
    ///
    /// # Safety
    /// As for [`Word::to_entry`]; and nothing else takes the count.
    #[inline]
    pub(crate) unsafe fn into_entry<T>(self) -> Option<Entry<T>> {
        match self.kind() {
            Kind::Value(value) => Some(Entry::Value(value)),
            Kind::Pointer(object) => {
                // SAFETY: the caller says that the object is a T of an Arc and that the count is this call's.
                Some(Entry::Pointer(unsafe {
                    Arc::from_raw(object.cast::<T>().as_ptr())
                }))
            }
            Kind::Empty | Kind::Node(_) => None,
        }
    }
}
