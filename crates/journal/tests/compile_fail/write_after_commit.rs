//! A committed transaction takes no more changes.

use udax_journal::Journal;
use udax_media::ByteOffset;

fn commit(journal: &Journal) {
    let mut transaction = journal.begin();
    let _ = transaction.commit();
    transaction.write_u64(ByteOffset(0), 1);
}

fn main() {}
