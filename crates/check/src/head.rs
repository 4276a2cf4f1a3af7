//! The two superblocks and the two copies of the checkpoint slots.

use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS};
use udax_media::{BLOCK_SIZE, BlockNo, ByteOffset, FormatError, LINE_BYTES, LINE_SIZE, Place, Superblock};
use udax_pmem::{Region, RegionError};

use crate::CheckError;
use crate::finding::Finding;
use crate::source::BlockSource;

/// The superblock to believe, and the copies that are not it.
#[derive(Debug)]
pub(crate) struct Superblocks {
    pub(crate) believed: Superblock,
    /// Indices of copies that must be written.
    pub(crate) stale: Vec<usize>,
    /// One for each of those.
    findings: Vec<Finding>,
}

/// How a pool was left, as far as its superblocks are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Closed: both are whole.
    Closed,
    /// Not closed. A crash at the end of a growth leaves the copy new and the superblock old or torn; recovery writes
    /// it.
    Crashed,
    /// Not closed, and the journal has a growth to complete: it writes the copy, and then the superblock.
    Growing,
}

impl Ending {
    /// Of a pool with this checkpoint, which a growth that the journal completes gives another superblock.
    pub(crate) fn of(checkpoint: Option<&Checkpoint>, grown: Option<&Superblock>) -> Self {
        match (checkpoint, grown) {
            (Some(checkpoint), _) if checkpoint.is_clean => Self::Closed,
            (_, Some(_)) => Self::Growing,
            (_, None) => Self::Crashed,
        }
    }
}

impl Superblocks {
    /// Adds what was found to what is wrong, or to what a crash may have left.
    pub(crate) fn told(&self, ending: Ending, findings: &mut Vec<Finding>, notes: &mut Vec<Finding>) {
        for (finding, copy) in self.findings.iter().zip(&self.stale) {
            let is_legal = match ending {
                Ending::Closed => false,
                Ending::Crashed => *copy == 0,
                Ending::Growing => true,
            };
            let list = if is_legal { &mut *notes } else { &mut *findings };
            list.push(finding.clone());
        }
    }
}

/// Reads both superblocks.
///
/// # Errors
/// [`CheckError::NoSuperblock`] when neither can be believed.
pub(crate) fn read_superblocks(region: &Region) -> Result<Superblocks, CheckError> {
    let restored = "restored from the other copy";
    let mut found = Superblocks {
        believed: match (read_superblock(region, 0), read_superblock(region, 1)) {
            (Ok(first), Ok(second)) if second.generation > first.generation => second,
            (Ok(one), _) | (_, Ok(one)) => one,
            (Err(first), Err(second)) => {
                let why = FormatError::of_superblocks(first, second, region.len());
                return Err(CheckError::NoSuperblock(why));
            }
        },
        stale: Vec::new(),
        findings: Vec::new(),
    };
    for (copy, block) in SUPERBLOCKS.into_iter().enumerate() {
        let what = match read_superblock(region, copy) {
            Ok(superblock) if superblock == found.believed => {
                let mut bytes = [0; BLOCK_SIZE];
                region.read_block(block, &mut bytes)?;
                if bytes == *found.believed.encode() {
                    continue;
                }
                "superblock has bytes set that the format reserves".to_owned()
            }
            Ok(superblock) => format!(
                "superblock of generation {} beside one of generation {}",
                superblock.generation, found.believed.generation
            ),
            Err(error) => error.to_string(),
        };
        found
            .findings
            .push(Finding::of_pool(Place::Block(block), what, restored));
        found.stale.push(copy);
    }
    Ok(found)
}

fn read_superblock(region: &Region, copy: usize) -> Result<Superblock, FormatError> {
    let block = SUPERBLOCKS[copy.min(1)];
    let mut bytes = [0; BLOCK_SIZE];
    match region.read_block(block, &mut bytes) {
        Ok(()) => Superblock::decode(&bytes, copy, region.len()),
        Err(RegionError::OutOfBounds { .. }) => Err(FormatError::TooSmall { found: region.len() }),
        Err(error) => Err(FormatError::Field {
            what: "superblock",
            place: Place::Block(block),
            field: "byte that cannot be read",
            value: match error {
                RegionError::Media { at } => at,
                _ => block.offset().raw(),
            },
        }),
    }
}

/// The checkpoint to believe.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// The valid one with the highest number.
    pub(crate) believed: Option<Checkpoint>,
    pub(crate) findings: Vec<Finding>,
    /// What a crash may have left as well.
    pub(crate) notes: Vec<Finding>,
}

/// Reads all checkpoint slots.
///
/// A crash may leave any slot torn but one, so one valid slot is enough. A pool that was closed cleanly has published
/// enough checkpoints that all slots are whole, unless the crash came just when the last one, or the first one after
/// it, was being published: what is not whole there is noted.
pub(crate) fn read_checkpoints(region: &Region, superblock: &Superblock) -> Checkpoints {
    let slots: Vec<Slot> = CHECKPOINTS
        .into_iter()
        .flat_map(|block| (0..2).map(move |number| (block, number)))
        .map(|(block, number)| Slot::read(region, superblock, block, number))
        .collect();
    let valid = slots.iter().filter_map(|slot| slot.decoded.as_ref().ok());
    let believed = valid.max_by_key(|checkpoint| checkpoint.number).copied();
    let mut findings = Vec::new();
    let mut notes = Vec::new();
    match believed {
        None => {
            let place = Place::Block(CHECKPOINTS[0]);
            let what = "no checkpoint can be believed".to_owned();
            let mut finding = Finding::of_pool(place, what, REMEDY);
            finding.lost = Some("what had been changed since the last checkpoint".to_owned());
            findings.push(finding);
        }
        Some(newest) if newest.is_half_mended => {
            let what = "a repair was interrupted: the pool is half mended".to_owned();
            let at = newest.offset_in(CHECKPOINTS[0]);
            findings.push(Finding::of_pool(Place::Byte(at), what, "repair finished"));
        }
        Some(newest) if newest.is_clean => {
            for slot in &slots {
                let Some(what) = slot.deviation(&newest, &slots) else {
                    continue;
                };
                let list = if slot.is_unreadable {
                    &mut findings
                } else {
                    &mut notes
                };
                list.push(Finding::of_pool(Place::Byte(slot.at), what, REMEDY));
            }
        }
        Some(_) => {}
    }
    Checkpoints {
        believed,
        findings,
        notes,
    }
}

const REMEDY: &str = "checkpoint published anew";

/// One slot of one copy.
struct Slot {
    at: ByteOffset,
    /// Which of the copy's two.
    number: u64,
    decoded: Result<Checkpoint, String>,
    /// Zeros: the journal of a new pool has published one checkpoint only.
    is_unused: bool,
    is_unreadable: bool,
}

impl Slot {
    fn read(region: &Region, superblock: &Superblock, block: BlockNo, number: u64) -> Self {
        let at = ByteOffset(block.offset().raw() + number * LINE_BYTES);
        let mut bytes = [0; LINE_SIZE];
        let read = region.read(at.raw(), &mut bytes);
        let is_unreadable = read.is_err();
        let decoded = match read {
            Ok(()) => Checkpoint::decode(superblock.seed(), &bytes, at, superblock.total_blocks())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Self {
            at,
            number,
            decoded,
            is_unused: bytes == [0; LINE_SIZE],
            is_unreadable,
        }
    }

    /// How it differs from what it holds after a pool was closed with the checkpoint `newest`.
    fn deviation(&self, newest: &Checkpoint, slots: &[Self]) -> Option<String> {
        let is_newest = self.number == newest.number % 2;
        let mut twins = slots.iter().filter(|other| other.number == self.number);
        match &self.decoded {
            Ok(checkpoint) if is_newest && checkpoint != newest => Some(format!(
                "checkpoint {} where {} should be",
                checkpoint.number, newest.number
            )),
            Ok(_) => None,
            Err(_) if !is_newest && twins.all(|twin| twin.is_unused) => None,
            Err(error) => Some(error.clone()),
        }
    }
}
