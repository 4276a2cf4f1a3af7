//! A mounted pool, used through system calls as any program does.
//!
//! Needs /dev/fuse and root; without them each test says so and passes. Each has a pool and a mount of its own, which
//! goes when the test ends, also by a panic, and after a time limit at the latest.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod attributes;
mod beside;
mod data;
mod lists;
mod maps;
mod mixed;
mod names;
mod place;
mod users;
