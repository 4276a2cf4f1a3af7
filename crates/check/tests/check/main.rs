//! The checker against pools made by hand: sound ones, wrong ones, damaged ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod flips;
mod image;
mod interrupted;
mod scale;
mod sound;
mod table;
mod wrong;
