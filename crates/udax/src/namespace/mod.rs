//! Names: directories, paths, and the operations that make, move and remove names.
//!
//! An operation finds its inodes without locks, through the dentry cache, then locks all that it changes in ascending
//! order of their numbers ([`locks`]), looks again whether the names still lead to them, and if not starts over.

pub(crate) mod cache;
pub(crate) mod create;
pub(crate) mod directory;
pub(crate) mod link;
pub(crate) mod locks;
pub(crate) mod path;
pub(crate) mod remove;
pub(crate) mod rename;

/// How often an operation starts over because names changed under it. Each time somebody else made progress.
pub(crate) const MAX_RETRIES: usize = 1000;
