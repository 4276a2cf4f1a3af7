//! The kernel's invariants of DAX mappings, each as a test whose name has its number.
//!
//! | invariants | module |
//! |---|---|
//! | A 1 to 12: entry locks and wakes | `a_locks`; 8 and 11 in `src/wait.rs`, where the queues are |
//! | B 13 to 21: large entries and pages | `b_large` |
//! | C 22 to 34: dirty marks and flushes | `c_dirty` |
//! | D 35 to 46: truncation against pins | `d_breaks` |
//! | E 47 to 52: two files | `e_pairs` |
//! | F 53 to 64: faults against writes and truncation | `f_faults` |
//! | G 65 to 75: sharing | `g_sharing` |
//! | H 76 to 79: zero entries | `h_zero` |
//!
//! Not here, and why:
//!
//! | invariant | where it shows |
//! |---|---|
//! | 9: the mapping is not touched after a wait without promise | nowhere: the waiter's borrow keeps the mapping |
//! | 26: background write-back leaves DIRTY alone | nowhere: there is none for DAX |
//! | 28, 32: bytes that the filesystem copies or zeroes are durable | the filesystem's crash tests |
//! | 29: entries that only have TOWRITE | nowhere: a pass takes what has DIRTY, there is no TOWRITE |
//! | 60, 61, 64: the end of the file, fresh blocks | the filesystem's model and crash tests |
//! | 62: the fault lock through the fsync of a MAP_SYNC fault | with address spaces |
//! | 63: an extent is not used after it may have changed | the filesystem: `Extents` is asked under the entry's lock |
//! | 67 to 75: copies and comparisons of reflink and dedupe | the filesystem's reflink tests |
//!
//! 46 is decided otherwise: long pins are allowed, and listed.
#![expect(clippy::unwrap_used, reason = "a test: what goes wrong is its failure")]

mod a_locks;
mod b_large;
mod c_dirty;
mod d_breaks;
mod disk;
mod e_pairs;
mod f_faults;
mod g_sharing;
mod h_zero;
mod leases;
mod pins;
mod view;
