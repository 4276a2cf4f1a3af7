//! A commit does not free what waits for a checkpoint.

use udax_journal::{Committed, Quarantine};

fn take(quarantine: &mut Quarantine, committed: Committed) {
    let _ = quarantine.take(committed);
}

fn main() {}
