//! Threads whose names are in one directory: [`scripts`].

use udax::{NewInode, OpenFlags, Owner, RenameMode};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Text};

use crate::record::{Act, Part, Script, Share};

/// The directory.
pub(crate) const DIRECTORY: &str = "all";

/// Bytes of a name, so that a leaf has few of them.
const NAME_BYTES: usize = 180;

/// What each of so many threads does.
pub(crate) fn scripts(threads: u64, rounds: u64) -> Vec<Part> {
    let part = |thread| Part {
        share: Share {
            directory: DIRECTORY.to_owned(),
            names: format!("t{thread}-"),
        },
        script: Script::Fixed((0..rounds).flat_map(|number| round(thread, number)).collect()),
    };
    (0..threads).map(part).collect()
}

/// Makes a file and a second name of it; in every second round that replaces the file before, and a name goes; in every
/// third a directory is made, and the one before removed.
fn round(thread: u64, number: u64) -> Vec<Act> {
    let new = |permissions| NewInode {
        permissions,
        owner: Owner::default(),
    };
    let file = |number| name("file", number);
    let mut operations = vec![
        Operation::Open {
            slot: 0,
            path: file(number),
            flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
            new: new(0o600),
        },
        Operation::File {
            slot: 0,
            what: FileOperation::Append {
                data: Data {
                    seed: 9_000_000 + thread * 10_000 + number,
                    len: 700,
                },
            },
        },
        Operation::Close { slot: 0 },
        Operation::Name(NameOperation::Link {
            existing: file(number),
            new: name("link", number),
        }),
    ];
    if number % 2 == 1 {
        operations.extend([
            Operation::Name(NameOperation::Rename {
                from: name("link", number),
                to: file(number - 1),
                mode: RenameMode::Replace,
            }),
            Operation::Name(NameOperation::Unlink { path: file(number) }),
        ]);
    }
    if number.is_multiple_of(3) {
        operations.push(Operation::Name(NameOperation::CreateDir {
            path: name("directory", number),
            new: new(0o700),
        }));
        if number > 0 {
            operations.push(Operation::Name(NameOperation::RemoveDir {
                path: name("directory", number - 3),
            }));
        }
    }
    operations.push(Operation::Node {
        path: file(number - number % 2),
        what: NodeOperation::Truncate { size: number },
    });
    operations.into_iter().map(Act::Operation).collect()
}

/// Long, and not in the order in which they are made.
fn name(what: &str, number: u64) -> Text {
    let mixed = number.wrapping_mul(37) % 101;
    let mut text = format!("{mixed:03}-{what}-{number}-");
    text.extend(std::iter::repeat_n('x', NAME_BYTES - text.len()));
    Text::from(text.as_bytes())
}
