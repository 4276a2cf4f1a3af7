//! A commit cannot be claimed.

use udax_journal::Committed;
use udax_media::Sequence;

fn main() {
    let _ = Committed(Sequence(1));
}
