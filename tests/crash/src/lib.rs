//! Power failures at every moment of every operation, and whether what is left is right.
//!
//! A workload runs on a recorded pool, with the code that ships. Its trace gives every legal image of the medium
//! (`udax_crash`). Each is checked, recovered, compared with what had been promised at that moment, closed and checked
//! again; and of some of them power fails once more at the fences of that recovery.
//!
//! * [`base`]: the pools that workloads begin with. [`alphabet`], [`workload`]: what is done to them: sequences of
//!   operations over a few files (after ACE: Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash
//!   Testing", OSDI 2018), all of one, all or samples of two, samples of three; random ones, threads, special cases;
//!   [`many`]: those that take several records.
//! * [`record`]: runs one, and keeps the trace and what each operation promised.
//! * [`promise`]: what may be there at a moment; [`cached`]: in files of the page cache; [`parts`]: of what takes
//!   several records. [`judge`]: whether it is.
//!   [`explore`]: goes through the images; `likeness`: which of them are the same one.
//! * [`run`]: many workloads on all processors and all machines, with counts of each kind and progress. [`hunt`]: that
//!   missing protections are found.
#![forbid(unsafe_code)]

pub mod alphabet;
pub mod base;
pub mod cached;
pub mod explore;
pub mod hunt;
pub mod judge;
mod likeness;
pub mod many;
pub mod parts;
pub mod promise;
pub mod record;
pub mod run;
mod shared;
pub mod workload;
