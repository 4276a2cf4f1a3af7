//! The contest of truncations against DMA: does a store through a pin ever reach a block that has changed hands?
//!
//! Engines are threads that pin ranges of files and store to them at their own time, also when the file has no name any
//! more; meanwhile other threads truncate, punch, collapse, clone, write and replace the files. Every word of every
//! block says whose the block was when it was stored ([`stamp`](self), [`Report`]), and all threads judge what they
//! see, all the time: a word of somebody who has lost the block is a stray write, and ends the contest with a report
//! that says what happened to the block last.
//!
//! What is certain, and so is judged:
//! - As long as a pin lives, its pages hold words of the owner that they had when it was made, and no others.
//! - When a truncation, punch or move has returned, no word of an owner from before it is ever read there, or anywhere.
//! - Bytes that were written or stored are there until something removes them.
//! - A snapshot that nobody writes to stays as it is.
//! - No block is pinned for writing as a block of two files, nor given to one while another has it pinned.
//! - No operation and no pin waits for ever.
//! - The page cache takes no more memory than it may.
//!
//! Files may be switched between memory access and the page cache meanwhile ([`Ways`]); then all of this holds for
//! bytes in the cache too, and pins are refused as long as a file is there. The data device may fail meanwhile
//! ([`Failing`]): then operations are refused with its error, and have done nothing that is not known.
//!
//! What is not certain is not judged: blocks that are changing hands at this moment.
#![deny(unsafe_code)]

mod cache_watch;
mod contest;
mod directory;
#[expect(unsafe_code, reason = "the kernel is given addresses of pinned pages")]
mod dma_ring;
mod engine;
mod expected;
mod history;
mod life;
mod mutator;
mod options;
mod pool_blocks;
mod referee;
mod report;
mod run;
mod stamp;
mod tally;

pub use directory::run_directory;
pub use options::{EngineKind, Failing, Options, StressError, Ways, Witness};
pub use report::{CacheCounts, DaxCounts, DeviceCounts, Finding, Kind, Report};
pub use run::{Stop, run};
pub use tally::{DmaCounts, OperationCount};
