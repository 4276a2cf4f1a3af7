//! Blocks whose data is stored but not fenced cannot be published.

use udax_journal::{DataWriter, Journal};
use udax_media::BlockRange;

fn publish(journal: &Journal, blocks: BlockRange) {
    let stored = DataWriter::new(journal.region()).finish([blocks]);
    let mut transaction = journal.begin();
    transaction.allocate(&stored);
}

fn main() {}
