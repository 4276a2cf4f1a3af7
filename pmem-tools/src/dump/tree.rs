//! `udax dump POOL tree PATH`.

use std::path::{Component, Path};

use anyhow::bail;
use serde_json::json;
use std::os::unix::ffi::OsStrExt;
use udax_media::InodeNo;
use udax_media::dentry::Dentry;
use udax_media::inode::{FileKind, Inode, InodeFlags, ROOT};
use udax_media::node::{TreeKind, TreeRoot};

use super::inode::{find, show_value, walk_of};
use super::medium::{Frame, Medium};
use super::records::Records;
use super::walk::Visit;

/// Shows the nodes of the directory or extent tree, and of the attribute tree, of the file at `path`.
pub(crate) fn show(medium: &Medium, path: &Path, records: &mut Records<'_>) -> anyhow::Result<()> {
    let frame = medium.frame()?;
    let ino = resolve(medium, &frame, path, records)?;
    let inode = find(medium, &frame, ino, records)?.inode;
    let fields = vec![
        ("path", json!(crate::name::shown(path))),
        ("inode", json!(ino.raw())),
        ("kind", json!(crate::list::kind_word(inode.kind))),
    ];
    records.line("file", fields)?;
    let tree = match inode.kind {
        FileKind::Directory => Some(TreeKind::Directory),
        FileKind::Regular if inode.flags.contains(InodeFlags::EXTENT_TREE) => Some(TreeKind::Extents),
        _ => None,
    };
    match tree {
        Some(kind) => show_nodes(medium, &frame, &inode, (kind, inode.root), records)?,
        None => records.line("tree", vec![("root", json!("none: extents are in the inode"))])?,
    }
    if inode.xattr_root.block().is_some() {
        show_nodes(
            medium,
            &frame,
            &inode,
            (TreeKind::Xattrs, inode.xattr_root),
            records,
        )?;
    }
    Ok(())
}

fn show_nodes(
    medium: &Medium,
    frame: &Frame,
    inode: &Inode,
    (kind, root): (TreeKind, TreeRoot),
    records: &mut Records<'_>,
) -> anyhow::Result<()> {
    walk_of(medium, frame, inode, kind).run(root, &mut |visit| match visit {
        Visit::Node { block, state } => {
            let fields = vec![
                ("block", json!(block.raw())),
                ("level", json!(state.level)),
                ("entries", json!(state.count)),
                ("heap_top", json!(state.heap_top)),
            ];
            records.line("node", fields)
        }
        Visit::Child { key, child } => {
            let fields = vec![("key", json!(format!("{key:#x}"))), ("block", json!(child.raw()))];
            records.line("child", fields)
        }
        Visit::Value { key, bytes } => show_value(kind, key, bytes, frame, records),
        Visit::Problem(what) => records.problem(what),
    })
}

/// Follows a path from the root by reading whole directories, so that a damaged index does not hide a name.
fn resolve(
    medium: &Medium,
    frame: &Frame,
    path: &Path,
    records: &mut Records<'_>,
) -> anyhow::Result<InodeNo> {
    let mut ino = ROOT;
    for part in path.components() {
        let name = match part {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir | Component::Prefix(_) => {
                bail!("{}: write the path without '..'", crate::name::shown(path))
            }
        };
        let inode = find(medium, frame, ino, records)?.inode;
        if inode.kind != FileKind::Directory {
            bail!(
                "{}: inode {ino} above {} is no directory",
                crate::name::shown(path),
                crate::name::escaped(name)
            );
        }
        let mut found = None;
        walk_of(medium, frame, &inode, TreeKind::Directory).run(inode.root, &mut |visit| {
            match visit {
                Visit::Value { bytes, .. } => {
                    if let Some(dentry) = Dentry::decode(bytes).filter(|dentry| dentry.name == name) {
                        found = Some(dentry.ino);
                    }
                }
                Visit::Problem(what) => records.problem(what)?,
                _ => {}
            }
            Ok(())
        })?;
        match found {
            Some(child) => ino = child,
            None => bail!(
                "{}: directory inode {ino} has no entry {}",
                crate::name::shown(path),
                crate::name::escaped(name)
            ),
        }
    }
    Ok(ino)
}
