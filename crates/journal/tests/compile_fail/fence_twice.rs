//! What was stored becomes durable by one fence, and cannot be fenced as something else again.

use udax_journal::{DataWriter, Journal};

fn fence(journal: &Journal) {
    let stored = DataWriter::new(journal.region()).finish(());
    let _ = stored.fence(journal.region());
    let _ = stored.fence(journal.region());
}

fn main() {}
