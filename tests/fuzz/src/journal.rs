//! Lanes with records that are sealed, but otherwise anything, or bytes that are none.
//!
//! What recovery shows in memory is what it makes of the pool, and it makes something of any lanes or refuses.

use std::cell::OnceCell;

use udax_media::record::{self, HEADER_SIZE, Operation, RecordHeader};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Sequence, Superblock};
use udax_pmem::Region;
use udax_test_corruption::run::Samples;
use udax_test_corruption::sample::Ending;

use crate::input::Input;

/// The most records and splinters of an input.
const MAX_PIECES: usize = 64;
/// The most bytes of one record.
const MAX_RECORD: usize = 8192;

thread_local! {
    static SAMPLES: OnceCell<Samples> = const { OnceCell::new() };
}

/// Runs `with` on the samples, which each thread makes once.
pub(crate) fn with_samples<T>(with: impl FnOnce(&Samples) -> T) -> T {
    SAMPLES.with(|cell| with(cell.get_or_init(|| Samples::make().expect("the samples are made"))))
}

/// The target.
pub(crate) fn journal(data: &[u8]) {
    with_samples(|samples| {
        let mut input = Input::new(data);
        let ending = if input.byte() & 1 == 0 {
            Ending::Killed
        } else {
            Ending::Cut
        };
        let (sample, places) = samples.of(ending);
        let superblock = &places.superblock;
        let region =
            Region::anonymous(superblock.total_blocks() * BLOCK_BYTES, None).expect("memory for a pool");
        for (at, bytes) in sample.image.written() {
            region.store(at, bytes).expect("blocks of the pool");
        }
        write_lanes(&region, superblock, &mut input);
        judge(&region, superblock);
    });
}

fn write_lanes(region: &Region, superblock: &Superblock, input: &mut Input<'_>) {
    let checkpoint = udax_journal::read_checkpoint(region, superblock).expect("the sample's checkpoint");
    let half = u64::from(superblock.lane_blocks / 2) * BLOCK_BYTES;
    let mut next = [0_u64; 4];
    for piece in 0..MAX_PIECES {
        if input.is_empty() {
            return;
        }
        let kind = input.byte();
        let lane = u16::from(kind & 1);
        let start = superblock.lane(u32::from(lane)).start.offset().raw() + u64::from(kind >> 1 & 1) * half;
        let at = &mut next[usize::from(kind & 3)];
        if kind & 0x80 != 0 {
            // Anything at all, somewhere in the half.
            let to = u64::from(input.short()) * 8 % half;
            let bytes = input.take(usize::from(input.clone().byte()));
            let fits = to + u64::try_from(bytes.len()).unwrap_or(half) <= half;
            if fits {
                region.store(start + to, bytes).expect("bytes of a lane");
            }
            continue;
        }
        let mut bytes = operations(superblock, input);
        let forward = u64::from(kind >> 2 & 7) + u64::try_from(piece).unwrap_or(0);
        let header = RecordHeader {
            sequence: Sequence(checkpoint.sequence.raw().wrapping_add(forward)),
            lane,
            free_blocks_delta: i64::from(kind >> 5 & 1) * i64::from(input.byte()),
            inodes_delta: 0,
        };
        record::finish(superblock.seed().with(checkpoint.nonce), &mut bytes, header);
        bytes.resize(record::padded_len(bytes.len()), 0);
        let len = u64::try_from(bytes.len()).unwrap_or(half);
        if *at + len <= half {
            region.store(start + *at, &bytes).expect("bytes of a lane");
            *at += len;
        }
    }
}

/// A record's operations; where they reach is not kept within the pool.
fn operations(superblock: &Superblock, input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_SIZE];
    for _ in 0..input.byte() & 7 {
        let kind = input.byte();
        let limit = superblock.total_blocks() + u64::from(kind >> 4);
        let block = BlockNo(u64::from(input.short()) % limit);
        let range = BlockRange::new(block, u64::from(kind >> 2 & 3) * 5);
        match kind & 3 {
            0 => {
                let words = input.take(usize::from(kind >> 2 & 31) * 8);
                let at = ByteOffset(block.offset().raw() + u64::from(input.byte()) * 8);
                let bytes_of = words.get(..words.len() / 8 * 8).unwrap_or_default();
                Operation::Write { at, bytes: bytes_of }.encode_into(&mut bytes);
            }
            1 => Operation::Allocate(range).encode_into(&mut bytes),
            2 => Operation::Free(range).encode_into(&mut bytes),
            _ => Operation::Zero(range).encode_into(&mut bytes),
        }
        if bytes.len() > MAX_RECORD {
            break;
        }
    }
    bytes
}

fn judge(region: &Region, superblock: &Superblock) {
    let mut seen = 0_u64;
    let inspected = udax_journal::inspect(region, superblock, &mut |_, _, _| seen += 1);
    let shown = udax_journal::overlay(region, superblock);
    let recovered = udax_journal::recover(region, superblock);
    match (&shown, &recovered) {
        (Ok(shown), Ok(recovered)) => {
            assert_eq!(shown.recovery.records, recovered.records);
            assert_eq!(shown.recovery.damaged, recovered.damaged);
            assert_eq!(inspected.is_ok(), recovered.damaged.is_empty());
            assert!(inspected.is_err() || seen == recovered.records);
            for (block, expected) in &shown.blocks {
                let mut bytes = [0; BLOCK_SIZE];
                region
                    .read(block.offset().raw(), &mut bytes)
                    .expect("a block of the pool");
                assert!(bytes == **expected, "block {block} is not what was shown");
            }
            let again = udax_journal::recover(region, superblock).expect("a pool that was recovered");
            assert_eq!(again.records, 0);
        }
        (Err(_), Err(_)) => assert!(inspected.is_err() || seen > 0),
        _ => panic!(
            "shown {:?}, recovered {recovered:?}",
            shown.map(|shown| shown.recovery)
        ),
    }
}
