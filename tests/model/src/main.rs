//! Runs random operations on a pool and compares them with the model.
fn main() {}
