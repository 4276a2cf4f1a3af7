//! `udax dump POOL journal`.

use serde_json::json;
use udax_media::checkpoint::Checkpoint;
use udax_media::record::Operation;

use super::medium::Medium;
use super::records::{Fields, Records};
use crate::name::hex;

/// The most bytes of a write that are shown.
const SHOWN_BYTES: usize = 32;

/// Shows the checkpoints and the records that recovery would replay.
pub(crate) fn show(medium: &Medium, records: &mut Records<'_>) -> anyhow::Result<()> {
    let frame = medium.frame()?;
    let superblock = &frame.superblock;
    for slot in medium.checkpoints(superblock) {
        match slot.content {
            Ok(checkpoint) => {
                let mut fields = fields(&checkpoint);
                fields.insert(0, ("byte", json!(slot.at.raw())));
                fields.push(("counts", json!(frame.checkpoint == Some(checkpoint))));
                records.line("checkpoint", fields)?;
            }
            // The second slot is empty until the first checkpoint after the format.
            Err(_) if is_unused(medium, slot.at.raw()) => {
                records.line(
                    "checkpoint",
                    vec![("byte", json!(slot.at.raw())), ("unused", json!(true))],
                )?;
            }
            Err(error) => records.problem(crate::failure::line(&error))?,
        }
    }
    for lane in 0..superblock.lane_count {
        let blocks = superblock.lane(lane);
        let fields = vec![
            ("number", json!(lane)),
            ("first_block", json!(blocks.start.raw())),
            ("blocks", json!(blocks.count)),
        ];
        records.line("lane", fields)?;
    }
    let mut shown = Ok(());
    let inspected = udax_journal::inspect(medium.region(), superblock, &mut |sequence, lane, operations| {
        if shown.is_ok() {
            shown = show_record(records, sequence.raw(), lane, operations);
        }
    });
    shown?;
    if let Err(error) = inspected {
        records.problem(crate::failure::line(&error.into()))?;
    }
    Ok(())
}

fn is_unused(medium: &Medium, at: u64) -> bool {
    let mut bytes = [0; udax_media::LINE_SIZE];
    medium.region().read(at, &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

fn fields(checkpoint: &Checkpoint) -> Fields {
    vec![
        ("number", json!(checkpoint.number)),
        ("sequence", json!(checkpoint.sequence.raw())),
        ("nonce", json!(format!("{:#018x}", checkpoint.nonce))),
        ("free_blocks", json!(checkpoint.free_blocks)),
        ("inodes", json!(checkpoint.inodes)),
        ("clean", json!(checkpoint.is_clean)),
    ]
}

fn show_record(
    records: &mut Records<'_>,
    sequence: u64,
    lane: u16,
    operations: &[Operation<'_>],
) -> anyhow::Result<()> {
    let fields = vec![
        ("sequence", json!(sequence)),
        ("lane", json!(lane)),
        ("operations", json!(operations.len())),
    ];
    records.line("record", fields)?;
    for operation in operations {
        let (kind, fields) = match operation {
            Operation::Write { at, bytes } => {
                let shown = bytes.get(..bytes.len().min(SHOWN_BYTES)).unwrap_or_default();
                let more = if shown.len() < bytes.len() { "..." } else { "" };
                let fields = vec![
                    ("byte", json!(at.raw())),
                    ("length", json!(bytes.len())),
                    ("bytes", json!(format!("{}{more}", hex(shown)))),
                ];
                ("  write", fields)
            }
            Operation::Allocate(range) => ("  allocate", range_fields(*range)),
            Operation::Free(range) => ("  free", range_fields(*range)),
            Operation::Zero(range) => ("  zero", range_fields(*range)),
        };
        records.line(kind, fields)?;
    }
    Ok(())
}

fn range_fields(range: udax_media::BlockRange) -> Fields {
    vec![
        ("block", json!(range.start.raw())),
        ("blocks", json!(range.count)),
    ]
}
