//! Threads on one pool, in directories of their own and in a shared one.

use udax_test_model::parallel;
use udax_test_model::run::pool_path;

#[test]
fn threads_in_their_own_and_a_shared_directory_agree_with_their_models() {
    let seed = 1;
    let path = pool_path("parallel");
    let result = parallel::run(&path, 8, seed, 10_000);
    let _ = std::fs::remove_file(&path);
    result.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
}
