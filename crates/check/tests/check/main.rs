//! The checker against pools made by hand: sound ones, wrong ones, damaged ones.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking, as its functions do"
)]

mod flips;
mod image;
mod interrupted;
mod scale;
mod sound;
mod wrong;
