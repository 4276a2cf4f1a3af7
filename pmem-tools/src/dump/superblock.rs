//! `udax dump POOL superblock`.

use serde_json::json;
use udax_media::geometry::SUPERBLOCKS;
use udax_media::{BLOCK_BYTES, Superblock};

use super::medium::Medium;
use super::records::{Fields, Records};
use crate::size::Size;
use crate::time::iso;

/// Shows both copies.
pub(crate) fn show(medium: &Medium, records: &mut Records<'_>) -> anyhow::Result<()> {
    let counts = medium.frame().ok().map(|frame| frame.superblock);
    for (copy, block) in SUPERBLOCKS.into_iter().enumerate() {
        match medium.superblock(copy) {
            Ok(superblock) => {
                let mut fields = fields(&superblock);
                fields.insert(0, ("block", json!(block.raw())));
                fields.push(("counts", json!(counts.as_ref() == Some(&superblock))));
                records.block("superblock", fields)?;
                for segment in &superblock.segments {
                    records.line(
                        "segment",
                        vec![
                            ("first_block", json!(segment.blocks.start.raw())),
                            ("blocks", json!(segment.blocks.count)),
                            ("bitmap_start", json!(segment.bitmap_start.raw())),
                            ("sum_start", json!(segment.sum_start.map(|start| start.raw()))),
                            ("groups", json!(segment.group_count())),
                        ],
                    )?;
                }
            }
            Err(error) => records.problem(crate::failure::line(&error))?,
        }
    }
    Ok(())
}

fn fields(superblock: &Superblock) -> Fields {
    let bytes = superblock.total_blocks() * BLOCK_BYTES;
    vec![
        ("uuid", json!(superblock.uuid.to_string())),
        ("label", json!(superblock.label)),
        ("generation", json!(superblock.generation)),
        ("created", json!(iso(superblock.created))),
        ("total_blocks", json!(superblock.total_blocks())),
        ("size", json!(Size(bytes).to_string())),
        ("compat", json!(format!("{:#x}", superblock.compat))),
        ("ro_compat", json!(format!("{:#x}", superblock.ro_compat))),
        ("incompat", json!(format!("{:#x}", superblock.incompat))),
        ("journal_start", json!(superblock.journal_start.raw())),
        ("lanes", json!(superblock.lane_count)),
        ("lane_blocks", json!(superblock.lane_blocks)),
        ("hash_key", json!(crate::name::hex(&superblock.hash_key))),
    ]
}
