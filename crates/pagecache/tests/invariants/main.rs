//! The kernel's invariants of the page cache, each as a test whose name has its number, and what this crate promises.
//!
//! | invariants | module |
//! |---|---|
//! | K 90 to 101: passes of write-back | `k_passes` |
//! | L 102 to 108: errors | `l_errors`; 102 to 104 of one word in `src/errseq.rs` |
//! | M 109 to 112: folios that go | `m_free` |
//! | N 113 to 121: DONTCACHE | `n_dontcache` |
//! | O 122 to 127: invalidation, direct writes | `o_invalidate` |
//! | P 128 to 130: limits of what is dirty | `p_throttle` |
//!
//! Not here, and why:
//!
//! | invariant | where it shows |
//! |---|---|
//! | 107: errors of DAX write-back | `mounts` of the command's tests, by an msync that fails |
//! | 119: who may ask for DONTCACHE | `cached` of the filesystem's tests |
//! | 130: DAX writers are not throttled | `cached` of the filesystem's tests |
#![expect(clippy::unwrap_used, reason = "a test: what goes wrong is its failure")]

mod collapse;
mod disk;
mod k_passes;
mod l_errors;
mod m_free;
mod model;
mod n_dontcache;
mod o_invalidate;
mod p_throttle;
mod pins;
mod reads;
mod scans;
mod sequences;
mod space;
mod threads;
