//! `udax dump POOL inode N`, and how inodes are found on the medium.

use anyhow::{Context as _, bail};
use serde_json::json;
use udax_media::extent::Extent;
use udax_media::geometry::ROOTS;
use udax_media::inode::{self, FileKind, Inode, InodeFlags, InodeSlot, chunk_and_slot, offset_in_chunk};
use udax_media::node::{NodeIdentity, TreeKind, TreeRoot};
use udax_media::roots::{self, PoolTree, RawRoots};
use udax_media::xattr::{Xattr, XattrValue};
use udax_media::{BlockNo, FileBlock, FormatError, InodeNo};
use zerocopy::FromBytes as _;

use super::medium::{Frame, Medium};
use super::records::{Fields, Records};
use super::walk::{Visit, Walk};
use crate::name::escaped;
use crate::time::iso;

/// An inode and where it is.
pub(crate) struct Found {
    /// The inode.
    pub(crate) inode: Inode,
    /// The block of its chunk.
    pub(crate) chunk: BlockNo,
}

/// Shows an inode, its extents and its extended attributes.
pub(crate) fn show(medium: &Medium, number: u64, records: &mut Records<'_>) -> anyhow::Result<()> {
    let frame = medium.frame()?;
    let found = find(medium, &frame, InodeNo(number), records)?;
    let mut fields = fields(&found.inode);
    let at = offset_in_chunk(found.chunk, found.inode.ino);
    fields.insert(0, ("byte", json!(at.raw())));
    records.block("inode", fields)?;
    show_extents(medium, &frame, &found.inode, records)?;
    show_xattrs(medium, &frame, &found.inode, records)
}

/// Finds an inode through the inode table. Damage on the way goes to `records`.
///
/// # Errors
/// Why there is none.
pub(crate) fn find(
    medium: &Medium,
    frame: &Frame,
    ino: InodeNo,
    records: &mut Records<'_>,
) -> anyhow::Result<Found> {
    let (wanted, _) = chunk_and_slot(ino);
    let walk = Walk {
        medium,
        frame,
        identity: NodeIdentity {
            kind: TreeKind::InodeTable,
            owner: 0,
            generation: 0,
        },
    };
    let mut chunk = None;
    walk.run(inode_table(medium, frame, records)?, &mut |visit| {
        match visit {
            Visit::Value { key, bytes } if key == wanted => {
                chunk = bytes
                    .first_chunk::<8>()
                    .map(|word| BlockNo(u64::from_le_bytes(*word)));
            }
            Visit::Problem(what) => records.problem(what)?,
            _ => {}
        }
        Ok(())
    })?;
    let Some(chunk) = chunk else {
        bail!("inode {ino}: the inode table has no chunk {wanted} for it");
    };
    let mut bytes = [0; inode::INODE_SIZE];
    medium
        .region()
        .read(offset_in_chunk(chunk, ino).raw(), &mut bytes)
        .with_context(|| format!("inode {ino}: chunk at block {chunk}"))?;
    let slot = match inode::verify(frame.seed(), &bytes, ino, frame.reach()) {
        Err(error @ FormatError::Checksum { .. }) => {
            if frame.is_sealed() {
                records.problem(&error)?;
            }
            inode::decode(&bytes, ino, frame.reach())
        }
        other => other,
    };
    match slot? {
        InodeSlot::Used(inode) => Ok(Found { inode: *inode, chunk }),
        InodeSlot::Free { generation: 0 } => bail!("inode {ino}: is free and was never used"),
        InodeSlot::Free { generation } => bail!("inode {ino}: is free, its last generation was {generation}"),
    }
}

/// The root of the inode table, believed even under a wrong checksum.
fn inode_table(medium: &Medium, frame: &Frame, records: &mut Records<'_>) -> anyhow::Result<TreeRoot> {
    let bytes = medium.read_block(ROOTS).context("roots block")?;
    match roots::verify(frame.seed(), &bytes, frame.total_blocks()) {
        Ok(roots) => Ok(roots[0]),
        Err(error) => {
            if frame.is_sealed() || !matches!(error, FormatError::Checksum { .. }) {
                records.problem(&error)?;
            }
            let raw = RawRoots::read_from_bytes(bytes.as_slice()).map_err(|_| error)?;
            let index = PoolTree::ALL
                .iter()
                .position(|tree| *tree == PoolTree::InodeTable);
            let word = raw.roots.get(index.unwrap_or(0)).map_or(0, |word| word.get());
            Ok(TreeRoot::from_word(word))
        }
    }
}

fn fields(inode: &Inode) -> Fields {
    let root = |root: TreeRoot| match root.block() {
        Some(block) => json!(format!("block {block}, level {}", root.level())),
        None => json!("none"),
    };
    let mut fields = vec![
        ("number", json!(inode.ino.raw())),
        ("generation", json!(inode.generation)),
        ("kind", json!(crate::list::kind_word(inode.kind))),
        ("mode", json!(format!("{:04o}", inode.permissions))),
        ("flags", json!(format!("{:#x}", inode.flags.bits()))),
        ("uid", json!(inode.uid)),
        ("gid", json!(inode.gid)),
        ("rdev", json!(inode.rdev)),
        ("nlink", json!(inode.nlink)),
        ("size", json!(inode.size)),
        ("blocks", json!(inode.blocks)),
        ("atime", json!(iso(inode.atime))),
        ("mtime", json!(iso(inode.mtime))),
        ("ctime", json!(iso(inode.ctime))),
        ("btime", json!(iso(inode.btime))),
        ("change", json!(inode.change)),
        ("parent", json!(inode.parent.raw())),
        ("tree", root(inode.root)),
        ("xattr_tree", root(inode.xattr_root)),
        ("inline_extents", json!(inode.inline_count)),
    ];
    if inode.kind == FileKind::Symlink && inode.inline_count == 0 {
        let length = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let target = inode.inline.get(..length).unwrap_or_default();
        fields.push(("target", json!(escaped(target))));
    }
    fields
}

/// The walk of one of an inode's trees.
pub(crate) fn walk_of<'m>(medium: &'m Medium, frame: &'m Frame, inode: &Inode, kind: TreeKind) -> Walk<'m> {
    Walk {
        medium,
        frame,
        identity: NodeIdentity {
            kind,
            owner: inode.ino.raw(),
            generation: inode.generation,
        },
    }
}

fn show_extents(
    medium: &Medium,
    frame: &Frame,
    inode: &Inode,
    records: &mut Records<'_>,
) -> anyhow::Result<()> {
    if !matches!(inode.kind, FileKind::Regular | FileKind::Symlink) {
        return Ok(());
    }
    if !inode.flags.contains(InodeFlags::EXTENT_TREE) {
        let Some(extents) = inode.collect_inline_extents(frame.reach()) else {
            return records.problem(format!("inode {}: inline extents are damaged", inode.ino));
        };
        return extents
            .iter()
            .try_for_each(|extent| records.line("extent", extent_fields(extent)));
    }
    walk_of(medium, frame, inode, TreeKind::Extents).run(inode.root, &mut |visit| match visit {
        Visit::Value { key, bytes } => show_value(TreeKind::Extents, key, bytes, frame, records),
        Visit::Problem(what) => records.problem(what),
        _ => Ok(()),
    })
}

fn show_xattrs(
    medium: &Medium,
    frame: &Frame,
    inode: &Inode,
    records: &mut Records<'_>,
) -> anyhow::Result<()> {
    walk_of(medium, frame, inode, TreeKind::Xattrs).run(inode.xattr_root, &mut |visit| match visit {
        Visit::Value { key, bytes } => show_value(TreeKind::Xattrs, key, bytes, frame, records),
        Visit::Problem(what) => records.problem(what),
        _ => Ok(()),
    })
}

/// Shows a value of an inode's tree.
pub(crate) fn show_value(
    kind: TreeKind,
    key: u64,
    bytes: &[u8],
    frame: &Frame,
    records: &mut Records<'_>,
) -> anyhow::Result<()> {
    let total = frame.total_blocks();
    let shown = match kind {
        TreeKind::Extents => Extent::decode(FileBlock(key), bytes, frame.reach())
            .map(|extent| ("extent", extent_fields(&extent))),
        TreeKind::Directory => udax_media::dentry::Dentry::decode(bytes).map(|dentry| {
            let fields = vec![
                ("key", json!(format!("{key:#x}"))),
                ("inode", json!(dentry.ino.raw())),
                ("kind", json!(crate::list::kind_word(dentry.kind))),
                ("name", json!(escaped(dentry.name))),
            ];
            ("dentry", fields)
        }),
        TreeKind::Xattrs => Xattr::decode(bytes, total).map(|xattr| ("xattr", xattr_fields(key, &xattr))),
        TreeKind::InodeTable | TreeKind::Orphans | TreeKind::Shared | TreeKind::BadBlocks => None,
    };
    match shown {
        Some((name, fields)) => records.line(name, fields),
        None => records.problem(format!(
            "value of key {key:#x} is damaged: {}",
            crate::name::hex(bytes)
        )),
    }
}

fn extent_fields(extent: &Extent) -> Fields {
    vec![
        ("file_block", json!(extent.first.raw())),
        ("block", json!(extent.start.raw())),
        ("blocks", json!(extent.count)),
        ("unwritten", json!(extent.is_unwritten())),
        ("summed", json!(extent.is_summed())),
    ]
}

fn xattr_fields(key: u64, xattr: &Xattr<'_>) -> Fields {
    let mut fields = vec![
        ("key", json!(format!("{key:#x}"))),
        ("name", json!(escaped(xattr.name))),
    ];
    match &xattr.value {
        XattrValue::Inline(value) => fields.push(("value", json!(escaped(value)))),
        XattrValue::External {
            length,
            checksum,
            runs,
        } => {
            let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
            fields.push(("length", json!(length)));
            fields.push(("checksum", json!(format!("{checksum:#010x}"))));
            fields.push(("runs", json!(runs)));
        }
    }
    fields
}
