//! Random operations on a pool, compared with an in-memory model of POSIX semantics.
//!
//! * [`operation`]: what can be done and what comes back; printable, so that a failing sequence can be read.
//! * [`model`]: the file system as POSIX and the Linux manual pages describe it, in memory. It is written from
//!   those, not from udax, so that it can contradict it.
//! * [`generate`]: random operations that meet each other: few names, edges of blocks and of files, huge offsets.
//! * [`pool`] and [`kernel`]: carry operations out on a udax pool, or in a directory of the kernel's file system
//!   (which shows that the model itself is right).
//! * [`compare`] and [`verify`]: one result, or the whole tree, against the model; [`opened`]: a file to look at.
//! * [`run`], [`shrink`]: sequences with remounts, crashes and checks; a failing one cut down to what is needed.
//! * [`parallel`], [`killed`]: many threads on one pool; a writer process that is killed.
#![forbid(unsafe_code)]

pub mod compare;
pub mod generate;
pub mod kernel;
pub mod killed;
pub mod model;
pub mod opened;
pub mod operation;
pub mod parallel;
pub mod pool;
pub mod run;
pub mod shrink;
pub mod verify;
