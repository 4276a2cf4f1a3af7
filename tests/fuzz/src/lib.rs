//! Fuzz targets as functions: parsers, journals, whole images, sequences of operations.
//!
//! A target takes any bytes and panics when something is wrong. [`TARGETS`] has all of them. The tests of this package
//! run the corpus and mutations of it; its program does so for long, without a sanitizer; `libfuzzer` wraps each target
//! for cargo-fuzz, which is guided by what the bytes reach.
//!
//! * `input`: choices out of bytes. `parsers`, `journal`, `image`, `operations`: the targets.
//! * [`corpus`]: bytes to begin with, made from real pools. [`mutate`]: others like them.
#![forbid(unsafe_code)]

pub mod corpus;
mod image;
mod input;
mod journal;
pub mod mutate;
mod operations;
mod parsers;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 16] = [
    ("superblock", parsers::superblock),
    ("device", parsers::device),
    ("checkpoint", parsers::checkpoint),
    ("roots", parsers::roots),
    ("bitmap", parsers::bitmap),
    ("sums", parsers::sums),
    ("node", parsers::node),
    ("inode", parsers::inode),
    ("record", parsers::record),
    ("dentry", parsers::dentry),
    ("extent", parsers::extent),
    ("xattr", parsers::xattr),
    ("chunk", parsers::chunk),
    ("journal", journal::journal),
    ("image", image::image),
    ("operations", operations::operations),
];

/// The target called `name`.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, target)| *target).expect("a target of this name")
}
