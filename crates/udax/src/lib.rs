//! A persistent-memory DAX filesystem in userspace, as a library.
#![forbid(unsafe_code)]

pub mod error;
mod file;
mod filesystem;
mod options;
mod tree;

pub use error::{Error, Result};
pub use file::File;
pub use filesystem::Filesystem;
pub use options::*;
pub use udax_media::inode::FileKind;
pub use udax_media::{InodeNo, Timestamp};
