//! What tells images of recoveries apart: their bytes, but for what a nonce makes different.
//!
//! Each open draws a nonce for its checkpoint, with which the records after it are sealed. So two recoveries that do
//! the same differ in the nonce and in checksums, and nowhere else: as images they are one.

use std::ops::Range;

use udax_crash::Image;
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS};
use udax_media::{BLOCK_SIZE, BlockNo, LINE_SIZE, Superblock, checkpoint, record};

/// Where the seal's checksum is in a unit: behind its magic number.
const CHECKSUM: Range<usize> = 4..8;
/// Where a checkpoint's nonce is.
const NONCE: Range<usize> = 24..32;

/// The fingerprint of `image` without nonces, and without checksums that are made with them.
pub(crate) fn fingerprint(image: &Image) -> u128 {
    let mut plain = image.clone();
    for slots in CHECKPOINTS {
        clear(&mut plain, slots, checkpoint::MAGIC, &[CHECKSUM, NONCE]);
    }
    let mut block = [0; BLOCK_SIZE];
    let found = SUPERBLOCKS.into_iter().enumerate().find_map(|(copy, at)| {
        image.read(at.offset().raw(), &mut block);
        Superblock::decode(&block, copy, image.len()).ok()
    });
    if let Some(superblock) = found {
        let journal = superblock.journal_blocks();
        for block in journal.start.raw()..journal.end().raw() {
            clear(&mut plain, BlockNo(block), record::MAGIC, &[CHECKSUM]);
        }
    }
    plain.fingerprint()
}

/// Clears these bytes of each line of a block that begins with `magic`.
fn clear(image: &mut Image, block: BlockNo, magic: u32, what: &[Range<usize>]) {
    let mut bytes = [0; BLOCK_SIZE];
    image.read(block.offset().raw(), &mut bytes);
    let mut is_changed = false;
    for line in bytes.as_chunks_mut::<LINE_SIZE>().0 {
        if line.starts_with(&magic.to_le_bytes()) {
            what.iter().for_each(|range| line[range.clone()].fill(0));
            is_changed = true;
        }
    }
    if is_changed {
        image.write(block.offset().raw(), &bytes);
    }
}

#[cfg(test)]
mod tests {
    use udax_crash::{Cut, Domain, Medium, Pick};

    use super::*;
    use crate::judge::{Depth, judge};
    use crate::workload::Workload;

    #[test]
    fn recoveries_of_one_image_are_alike_and_others_are_not() {
        let workload: Workload = "ace/create,append".parse().expect("a workload");
        let recording = workload.record().expect("it runs");
        let mut medium = Medium::new(Domain::Flush, recording.base.clone());
        for event in &recording.events {
            medium.happen(event);
        }
        let image = medium.image(&Cut::now(Pick::Least));
        let promises = recording.promises(&recording.moment(recording.events.len()));
        // It is used, too: records of this mount are in its lanes.
        let recovered = || {
            let mut medium = Medium::new(Domain::Flush, image.clone());
            for event in judge(&image, &promises, Depth::Compare).expect("it is right") {
                medium.happen(&event);
            }
            medium.image(&Cut::now(Pick::Least))
        };
        let (one, other) = (recovered(), recovered());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(fingerprint(&one), fingerprint(&other));
        assert_ne!(fingerprint(&one), fingerprint(&image));
        let mut changed = other.clone();
        changed.write(BlockNo(2).offset().raw() + 100, &[0xAB]);
        assert_ne!(fingerprint(&changed), fingerprint(&other));
    }
}
