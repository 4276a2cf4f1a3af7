//! What a power failure may leave of persistent memory: every legal image of a recorded trace.
//!
//! A [`udax_pmem::TraceRecorder`] keeps what a program stores, flushes and fences. A [`Medium`] replays that and knows,
//! at each moment, what is durable and what is *open*: stored, but free to be lost. A [`Cut`] names one of the images
//! that a power failure at this moment may leave; [`Medium::cuts`] gives all of them when they are few, else the
//! extremes and seeded samples; [`Medium::image`] makes one. Each cut is printed as one word and read back, so that a
//! failure can be repeated.
//!
//! * [`Image`]: a sparse copy of a region's bytes, cheap to clone, with a fingerprint that tells distinct images apart.
//! * [`Trace`]: a recorder that is the data device beside the memory too, so that what happens to both is one sequence
//!   of [`Happened`]: then an image is of both, cut together.
//! * [`Domain`]: which stores the machine saves when power fails, and in which units.
//!
//! The rules (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, "Memory Ordering"; SNIA NVM
//! Programming Model): units reach the medium independently of each other; the stores of one unit reach it in the order
//! in which they were made, in aligned words of 8 bytes that are never torn; what a thread has flushed, or stored past
//! the cache, is durable after that thread's next fence. An unflushed store may reach the medium at any time.
//!
//! A data device (NVM Express Base Specification, "Flush command" and "Atomic Operations"): each sector of 512 bytes is
//! as it was written by some write since the last flush that has completed, or as before; independently of other
//! sectors and of all fences.
//!
//! # Invariants
//! 1. The images at one moment include those of each earlier moment since the last fence: a unit's older versions stay
//!    possible until a fence, or a flush of the device. So it suffices to look just before each of those, and when a
//!    promise changes.
//! 2. An image is made of the trace alone. The same trace and the same cut give the same bytes.
//!
//! No locks: who has a medium has it alone.
#![forbid(unsafe_code)]

mod cut;
mod domain;
mod image;
mod medium;
mod trace;

pub use cut::{Cut, ParseCutError, Pick};
pub use domain::Domain;
pub use image::{DEVICE, Image, PAGE};
pub use medium::Medium;
pub use trace::{DeviceEvent, Happened, Trace};
