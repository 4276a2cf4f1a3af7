//! What operations cost, and what happens at the limits: full pools, damaged ones, crowded directories, large files.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod accesses;
mod attributes;
mod busy;
mod cached;
mod chunks;
mod counts;
mod crafted;
mod crash;
mod cuts;
mod damage;
mod devices;
mod errors;
mod exchange;
mod full;
mod grounds;
mod kinds;
mod layouts;
mod leases;
mod lent;
mod media;
mod modes;
mod names;
mod opening;
mod panics;
mod pins;
mod placed;
mod pool;
mod ranges;
mod records;
mod refusals;
mod scrub;
mod shares;
#[path = "../../../pmem/tests/smaps/mod.rs"]
mod smaps;
mod space;
mod stalled;
mod starved;
mod statistics;
mod sums;
mod switch;
mod tiered;
mod turmoil;
mod unreliable;

/// One allocation can be made to fail, in processes that `starved` starts.
#[global_allocator]
static ALLOCATOR: udax_sync::allocation::CountedAllocator = udax_sync::allocation::CountedAllocator;
