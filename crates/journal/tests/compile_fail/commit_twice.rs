//! A transaction is committed once.

use udax_journal::Journal;

fn commit(journal: &Journal) {
    let transaction = journal.begin();
    let _ = transaction.commit();
    let _ = transaction.commit();
}

fn main() {}
