//! `udax dump POOL free`.

use serde_json::json;
use udax_media::bitmap::{self, GROUP_WORDS, RawBitmapHeader};
use udax_media::geometry::{Geometry, Group};
use udax_media::{BlockRange, FormatError};

use super::medium::{Frame, Medium};
use super::records::Records;

/// Runs of consecutive free blocks.
#[derive(Default)]
struct Runs {
    free: u64,
    count: u64,
    longest: u64,
}

impl Runs {
    fn add(&mut self, run: u64) {
        if run > 0 {
            self.free += run;
            self.count += 1;
            self.longest = self.longest.max(run);
        }
    }
}

/// Shows how much of each allocation group is free.
pub(crate) fn show(medium: &Medium, records: &mut Records<'_>) -> anyhow::Result<()> {
    let frame = medium.frame()?;
    let geometry = Geometry::new(&frame.superblock);
    let mut total = Runs::default();
    for index in 0..geometry.group_count() {
        let Some(group) = geometry.group(index) else { break };
        let Some(words) = read_group(medium, &frame, group, records)? else {
            continue;
        };
        let runs = free_runs(&words, group.covers);
        let fields = vec![
            ("number", json!(index)),
            ("first_block", json!(group.covers.start.raw())),
            ("blocks", json!(group.covers.count)),
            ("bitmap", json!(group.bitmap.raw())),
            ("free", json!(runs.free)),
            ("runs", json!(runs.count)),
            ("longest", json!(runs.longest)),
        ];
        records.line("group", fields)?;
        total.free += runs.free;
        total.count += runs.count;
        total.longest = total.longest.max(runs.longest);
    }
    let fields = vec![
        ("free", json!(total.free)),
        ("runs", json!(total.count)),
        ("longest", json!(total.longest)),
    ];
    records.line("total", fields)?;
    match frame.checkpoint {
        Some(checkpoint) if checkpoint.is_clean && checkpoint.free_blocks != total.free => {
            records.problem(format!(
                "the checkpoint counts {} free blocks, the bitmaps {}",
                checkpoint.free_blocks, total.free
            ))
        }
        Some(_) => Ok(()),
        None => records.problem("no checkpoint can be believed"),
    }
}

/// The bits of a group; believed when only its checksum is wrong.
fn read_group(
    medium: &Medium,
    frame: &Frame,
    group: Group,
    records: &mut Records<'_>,
) -> anyhow::Result<Option<Box<[u64; GROUP_WORDS]>>> {
    let bytes = match medium.read_block(group.bitmap) {
        Ok(bytes) => bytes,
        Err(error) => {
            records.problem(format!("allocation bitmap at block {}: {error}", group.bitmap))?;
            return Ok(None);
        }
    };
    match bitmap::verify(frame.seed(), &bytes, group.bitmap, group.covers) {
        Ok(words) => return Ok(Some(words)),
        Err(FormatError::Checksum { .. }) if !frame.is_sealed() => {}
        Err(error) => records.problem(error)?,
    }
    if !bytes.starts_with(&bitmap::MAGIC.to_le_bytes()) {
        return Ok(None);
    }
    let mut words = Box::new([u64::MAX; GROUP_WORDS]);
    let bits = bytes.get(size_of::<RawBitmapHeader>()..).unwrap_or_default();
    for (word, bytes) in words.iter_mut().zip(bits.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(Some(words))
}

fn free_runs(words: &[u64; GROUP_WORDS], covers: BlockRange) -> Runs {
    let mut runs = Runs::default();
    let mut run = 0;
    let bits = words
        .iter()
        .flat_map(|word| (0..64).map(move |bit| word >> bit & 1));
    let count = usize::try_from(covers.count).unwrap_or(usize::MAX);
    for bit in bits.take(count) {
        if bit == 0 {
            run += 1;
        } else {
            runs.add(run);
            run = 0;
        }
    }
    runs.add(run);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use udax_media::BlockNo;

    #[test]
    fn runs_cross_words_and_end_with_the_group() {
        let mut words = [u64::MAX; GROUP_WORDS];
        words[0] = u64::MAX >> 2;
        words[1] = !0b111;
        words[3] = 0;
        let runs = free_runs(&words, BlockRange::new(BlockNo(0), 256));
        assert_eq!((runs.free, runs.count, runs.longest), (69, 2, 64));
        let runs = free_runs(&words, BlockRange::new(BlockNo(0), 200));
        assert_eq!((runs.free, runs.count, runs.longest), (13, 2, 8));
    }
}
