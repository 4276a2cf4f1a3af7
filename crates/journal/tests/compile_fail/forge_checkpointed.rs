//! A checkpoint cannot be claimed.

use udax_journal::Checkpointed;
use udax_media::Sequence;

fn main() {
    let _ = Checkpointed(Sequence(1));
}
