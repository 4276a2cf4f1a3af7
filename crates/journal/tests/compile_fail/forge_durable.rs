//! Durability cannot be claimed.

use udax_journal::Durable;
use udax_media::{BlockNo, BlockRange};

fn main() {
    let _ = Durable(BlockRange::new(BlockNo(1), 1));
}
