//! What operations of several records may leave when they are cut off: a first part, and nothing that was never there.
//!
//! Blocks are the measure: a part that ends where no record does is not told from one that does. Which operations may
//! be there in part, and what their first record brings along, is in the table of docs/crash-consistency.md.

use std::collections::BTreeSet;
use std::ops::Range;

use udax::AllocateMode;
use udax_test_model::model::{Content, Model};
use udax_test_model::opened::Opened;
use udax_test_model::operation::{FileOperation, Operation, Remap, Text};
use udax_test_model::pool::Pool;
use udax_test_model::run::Session;

const BLOCK: u64 = 4096;

/// How an operation gets from the state before it to the one after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Blocks one after the other, the end of the file with them.
    Growing,
    /// As `Growing`; blocks that have data are overwritten where they are, by words, whatever the others do.
    Overwriting,
    /// Blocks one after the other, but for those at the edges of this range, which come first; the end comes last.
    Zeroing(Range<u64>),
}

impl Rule {
    /// That of `operation`, if it may be there in part. `is_atomic`: what has data is not overwritten where it is.
    pub fn of(operation: &Operation, is_atomic: bool) -> Option<Self> {
        let writing = match is_atomic {
            true => Self::Growing,
            false => Self::Overwriting,
        };
        match operation {
            Operation::Remap {
                how: Remap::Clone, ..
            } => Some(Self::Growing),
            Operation::CopyRange { .. } => Some(writing),
            Operation::File { what, .. } => match what {
                FileOperation::WriteWith { .. } if operation.is_atomic_write() => None,
                FileOperation::Write { .. }
                | FileOperation::WriteWith { .. }
                | FileOperation::WriteVectored { .. }
                | FileOperation::Append { .. } => Some(writing),
                FileOperation::Allocate {
                    mode: AllocateMode::PunchHole | AllocateMode::ZeroRange | AllocateMode::ZeroRangeKeepSize,
                    offset,
                    len,
                } => Some(Self::Zeroing(*offset..offset.saturating_add(*len))),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a block is only partly in the range.
    fn is_edge(&self, number: u64) -> bool {
        let Self::Zeroing(range) = self else {
            return false;
        };
        let is_in = |end: u64| !end.is_multiple_of(BLOCK) && end / BLOCK == number;
        is_in(range.start) || is_in(range.end)
    }

    /// Sets the files of the session's model, which is that before the operation, to what its pool has of `after`.
    ///
    /// # Errors
    /// What is no first part of it.
    pub fn adopt(&self, session: &mut Session<Pool>, after: &Model) -> Result<(), String> {
        for (id, path) in session.model.paths() {
            let (Some(old), Some(new)) = (session.model.file(id), after.file(id)) else {
                continue;
            };
            let (old, path) = (old.clone(), Text(path));
            let mut file = Opened::new(&mut session.target, &path)?;
            let size = file.size();
            let found = self.part((&old, new), size, |number| file.block(number));
            drop(file);
            let content = found.map_err(|what| format!("{path:?}: {what}"))?;
            session.model.adopt_content(id, content);
        }
        Ok(())
    }

    /// The first part of `new` that a file of `size` bytes, whose blocks `read` gives, has in place of `old`.
    fn part(
        &self,
        (old, new): (&Content, &Content),
        size: u64,
        mut read: impl FnMut(u64) -> Result<Vec<u8>, String>,
    ) -> Result<Content, String> {
        let ends = match self {
            Self::Growing | Self::Overwriting => old.size()..=new.size().max(old.size()),
            Self::Zeroing(_) => old.size()..=old.size(),
        };
        if !ends.contains(&size) {
            return Err(format!("the end is {size}, not in {ends:?}"));
        }
        let numbers: BTreeSet<u64> = old.block_numbers().chain(new.block_numbers()).collect();
        let mut content = old.clone();
        // The first block that is as before, of those that differ.
        let mut first_old = None;
        for number in numbers.into_iter().take_while(|number| number * BLOCK < size) {
            let found = read(number)?;
            let [was, will] = [old, new].map(|content| bytes(content, number, found.len()));
            let is_new = found == will;
            if found == was && is_new {
                continue;
            }
            if self.is_edge(number) {
                if !is_new {
                    return Err(format!("block {number} is not zeroed with the first record"));
                }
                content.take_block(number, new);
            } else if *self == Self::Overwriting && old.block(number).is_some() {
                words(&found, &was, &will).map_err(|at| {
                    let at = number * BLOCK + at;
                    format!("the word at {at} is neither the old one nor the new one")
                })?;
                content.replace(number, &found);
            } else if is_new && first_old.is_none() {
                content.take_block(number, new);
            } else if found == was && number * BLOCK < old.size() {
                first_old.get_or_insert(number);
            } else if is_new {
                return Err(format!("block {number} is new, block {first_old:?} is not"));
            } else {
                return Err(format!("block {number} is neither as before nor as after it"));
            }
        }
        if first_old.is_some() && size > old.size() {
            return Err(format!("the end is {size}, and block {first_old:?} is not new"));
        }
        match size < content.size() {
            true => content.truncate(size),
            false => content.extend(size),
        }
        Ok(content)
    }
}

/// The first `len` bytes of a block.
fn bytes(content: &Content, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = content.read(number * BLOCK, len);
    bytes.resize(len, 0);
    bytes
}

/// Where a word is as in neither.
fn words(found: &[u8], was: &[u8], will: &[u8]) -> Result<(), u64> {
    let words = found.chunks(8).zip(was.chunks(8).zip(will.chunks(8)));
    for (index, (found, (was, will))) in (0_u64..).zip(words) {
        if found != was && found != will {
            return Err(index * 8);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(blocks: &[(u64, u8)], size: u64) -> Content {
        let mut content = Content::default();
        for (number, byte) in blocks {
            content.write(number * BLOCK, &[*byte; 4096]);
        }
        content.truncate(size);
        content
    }

    /// Whether a file with these bytes is a first part.
    fn judge(rule: &Rule, old: &Content, new: &Content, found: &Content) -> Result<Content, String> {
        rule.part((old, new), found.size(), |number| {
            Ok(found.read(number * BLOCK, 4096))
        })
    }

    #[test]
    fn a_first_part_is_legal_and_any_other_part_is_not() {
        let old = content(&[(0, 1)], 3000);
        let new = content(&[(0, 1), (1, 2), (3, 3), (5, 4)], 6 * BLOCK);
        let rule = Rule::Growing;
        for legal in [
            content(&[(0, 1)], 3000),
            content(&[(0, 1), (1, 2)], 2 * BLOCK),
            content(&[(0, 1), (1, 2)], 3 * BLOCK),
            content(&[(0, 1), (1, 2), (3, 3)], 4 * BLOCK),
        ] {
            let adopted = judge(&rule, &old, &new, &legal).unwrap();
            assert_eq!(adopted.size(), legal.size());
            let all = 6 * 4096;
            assert_eq!(adopted.read(0, all), legal.read(0, all));
        }
        for illegal in [
            content(&[(0, 1), (3, 3)], 4 * BLOCK),
            content(&[(0, 1), (1, 9)], 2 * BLOCK),
            content(&[(0, 9)], 3000),
            content(&[(0, 1)], 2 * BLOCK),
            content(&[(0, 1)], 100),
            content(&[(0, 1), (1, 2), (3, 3), (5, 4), (6, 1)], 7 * BLOCK),
        ] {
            assert!(judge(&rule, &old, &new, &illegal).is_err(), "{illegal:?}");
        }
    }

    #[test]
    fn a_gap_in_what_replaces_data_is_found() {
        let old = content(&[(0, 1), (2, 1), (4, 1)], 5 * BLOCK);
        let new = content(&[(0, 2), (2, 2), (4, 2)], 5 * BLOCK);
        let gap = content(&[(0, 2), (2, 1), (4, 2)], 5 * BLOCK);
        let part = content(&[(0, 2), (2, 1), (4, 1)], 5 * BLOCK);
        judge(&Rule::Growing, &old, &new, &part).unwrap();
        let error = judge(&Rule::Growing, &old, &new, &gap).unwrap_err();
        assert!(error.contains("block 4 is new"), "{error}");
        judge(&Rule::Overwriting, &old, &new, &gap).unwrap();
        let torn = content(&[(0, 2), (2, 3), (4, 2)], 5 * BLOCK);
        assert!(judge(&Rule::Overwriting, &old, &new, &torn).is_err());
    }

    #[test]
    fn edges_are_zeroed_first_and_the_end_comes_last() {
        let old = content(&[(0, 1), (1, 1), (2, 1), (3, 1)], 4 * BLOCK);
        let mut new = old.clone();
        new.punch(100, 3 * BLOCK);
        let rule = Rule::Zeroing(100..3 * BLOCK + 100);
        let mut part = old.clone();
        part.punch(100, BLOCK - 100);
        assert!(judge(&rule, &old, &new, &part).is_err(), "one edge only");
        part.punch(3 * BLOCK, 100);
        judge(&rule, &old, &new, &part).unwrap();
        part.extend(5 * BLOCK);
        assert!(judge(&rule, &old, &new, &part).is_err(), "a longer file");
    }
}
