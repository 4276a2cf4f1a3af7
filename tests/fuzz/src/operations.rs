//! Sequences of operations, compared with the model.

use udax_test_model::generate::{Generator, Profile};
use udax_test_model::pool::Files;
use udax_test_model::run::{Plan, pool_path};

use crate::input::Numbers;

/// Bytes that an operation takes, more or less.
const BYTES_OF_ONE: usize = 24;
/// The most operations of an input.
const MAX_OPERATIONS: usize = 300;

/// The target: the first byte chooses how files are kept, the others are the choices.
pub(crate) fn operations(data: &[u8]) {
    let (first, data) = data.split_first().unwrap_or((&0, data));
    let files = Files::ALL[usize::from(*first) % Files::ALL.len()];
    let plan = Plan {
        pool: pool_path(&format!("fuzz-{:?}", std::thread::current().id())),
        pool_bytes: 16 << 20,
        files,
        seed: 0,
        operations: (data.len() / BYTES_OF_ONE + 1).min(MAX_OPERATIONS),
    };
    if let Err(failure) = plan.run_from(Generator::of(Numbers::new(data), Profile::Whole)) {
        panic!("{failure}");
    }
}
