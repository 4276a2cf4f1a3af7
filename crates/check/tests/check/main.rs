//! The checker against pools made by hand: sound ones, wrong ones, damaged ones.

mod flips;
mod image;
mod interrupted;
mod scale;
mod sound;
mod wrong;
