//! A small crash harness: a recorder, a medium that knows what a power cut keeps, and a pool with a byte model.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod medium;
pub(crate) mod pool;
