//! Serves a pool through FUSE, so that any program can use it.
//!
//! [`Options`] says how, [`Mount`] mounts and serves. Everything is translation: what a request means is done by
//! [`udax`], and `protocol` has one method for each kind of request, which calls the operation in the file of its
//! family: `names`, `attributes`, `open`, `data`, `directories`, `xattrs`, `control`. Beside them `acl`, `birth` and
//! `privileges` do what POSIX asks of a filesystem with users, and the library does not (its decision 0006).
//!
//! # Who checks what
//! The kernel checks permissions, access lists, the sticky bit and namespaces of attributes (`default_permissions`,
//! `FUSE_POSIX_ACL`), and keeps locks (flock, fcntl, leases of files), which are its own on one machine. We
//! take set-id bits and capabilities away when content or owner change (`FUSE_HANDLE_KILLPRIV_V2`), apply the umask or
//! the directory's default list, and keep lists and permission bits together.
//!
//! # Node ids
//! A node id is an inode number; with the inode's generation it names the inode for ever, also to clients of NFS.
//! `nodes` has a [`udax::Node`] for each number that the kernel knows, with the count of its lookups: while it is
//! there, the number is not given to another inode, so that no late request reaches one. It does not keep the
//! inode: an unlinked file is freed with its last handle, as ever, and its node is `ESTALE` then; only its last
//! attributes stay, for those who have it as a working directory. An open file that is unlinked lives in its
//! handle.
//!
//! # What the kernel remembers
//! Names, their absence, attributes, content, directories and link targets, for as long as it likes: nobody else
//! changes a mounted pool, since opening it locks it, and what a request changes the kernel knows from the request.
//! Exceptions are told to it: that a write took set-id bits away, and, by whoever changes something beside the mount
//! in the same process, what that was ([`Invalidator`]). Content is written through: what `write` was
//! told is in the pool is there, durably, when it returns. A page written through a shared mapping is written back
//! by the kernel, at `msync`, `fsync`, the last close, or when it likes.
//!
//! # Threads and locks
//! A few threads, each with its own queue to the kernel (`FUSE_DEV_IOC_CLONE`), take one request at a time to its end;
//! requests are independent. Only the tables of nodes and handles are shared, with locks of rank Leaf, under which
//! nothing else is taken. A request that panics is `EIO`, and its thread goes on.
//!
//! # What is counted
//! Each kind of request has a histogram of times (`meter`), which [`Mount::meters`] reads.
//!
//! # What is durable
//! As in the library: each operation when it is answered. A daemon that is killed loses nothing that was answered; the
//! next mount replays the journal.
#![forbid(unsafe_code)]

mod acl;
mod attributes;
mod birth;
mod control;
mod data;
mod directories;
mod handles;
mod identity;
mod invalidator;
#[cfg(test)]
mod malformed;
mod meter;
mod mount;
mod mounts;
mod names;
mod nodes;
mod open;
mod options;
mod privileges;
mod protocol;
mod refusal;
mod server;
mod times;
mod xattrs;

pub use identity::{BadRange, IdMap, IdRange};
pub use invalidator::Invalidator;
pub use meter::{MeterReading, Meters};
pub use mount::{Lazy, Mount, MountError, Serving, Stopper, unmount_directory};
pub use mounts::Mounted;
pub use options::{Audience, KernelFlag, OptionError, Options};
