//! A range without proof cannot be published.

use udax_journal::Journal;
use udax_media::BlockRange;

fn publish(journal: &Journal, blocks: BlockRange) {
    let mut transaction = journal.begin();
    transaction.allocate(&[blocks]);
}

fn main() {}
