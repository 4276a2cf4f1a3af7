//! Every kind of damage to a pool's metadata, judged: found or harmless, and mended with no more lost than it touched.
//!
//! * [`sample`]: small pools with something of every structure in them, closed, killed and cut off from power, made
//!   once; [`shadow`] is how they are seen while they are made.
//! * [`image`]: the bytes of a pool, put into a file for each case.
//! * [`tree`]: everything that the library's public interface tells of a pool, and how two such tellings differ.
//! * [`naming`]: whether a report names what is lost.
//! * [`place`]: what each block is for, and what its damage may cost.
//! * [`damage`]: kinds of damage, as text that repeats one, and all cases of a kind.
//! * [`case`](mod@case): one damage, judged. [`interrupted`]: the same, where power fails while it is mended. [`run`]:
//!   many, on all processors.
//!
//! What is judged: a check finds the damage, at the right place, or nothing is different and the pool can be used; the
//! damaged pool, opened, gives right bytes or errors; the mended pool is sound, can be used, has lost only what the
//! damage touched, and the report names each thing that is lost or other than before.
#![forbid(unsafe_code)]

pub mod case;
pub mod damage;
pub mod image;
pub mod interrupted;
pub mod naming;
pub mod place;
pub mod run;
pub mod sample;
pub mod shadow;
pub mod tree;
