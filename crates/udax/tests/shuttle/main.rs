//! Operations of several threads at once, in many schedules (shuttle). After each the pool is closed and checked.
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/shuttle cargo test -p udax --test shuttle
//! ```
//! `UDAX_SCHEDULES=100000` tries so many of each instead of a few; `SHUTTLE_RANDOM_SEED=7` others. A failure prints its
//! schedule: `UDAX_REPLAY='...'` with the name of one test repeats it.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod arena;
mod bytes;
mod cached;
mod devices;
mod names;
mod space;
