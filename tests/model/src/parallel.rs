//! Many threads on one pool.
