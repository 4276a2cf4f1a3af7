//! One operation, over and over, to be counted from outside: its instructions under callgrind, or its time.
//!
//! ```text
//! cargo build --release -p udax-test-bench --bin operation_loop
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*measured*' \
//!     target/release/operation_loop create 2000
//! ```
//! Prints nanoseconds for each operation; under callgrind, divide its instructions by the count.

use std::time::Instant;

use anyhow::{Result, bail};
use udax::{Access, File, Filesystem, Label, NewInode, OpenFlags, RenameMode, Request, Term};
use udax_test_bench::{Bench, CREATE, NEW};

const BLOCK: [u8; 4096] = [7; 4096];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let operation = arguments.next().unwrap_or_default();
    let count: usize = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let bench = Bench::new()?;
    let filesystem = &bench.filesystem;
    filesystem.create_dir("work", NewInode::with_permissions(0o755))?;
    filesystem.create_dir("other", NewInode::with_permissions(0o755))?;
    let file = filesystem.open_file("file", CREATE, NEW)?;
    file.append(&BLOCK)?;
    let sources = names("work", count);
    let others = names("other", count);
    if matches!(operation.as_str(), "unlink" | "rename" | "open" | "stat") {
        for name in &sources {
            filesystem.open_file(name, CREATE, NEW)?;
        }
    }
    let start = Instant::now();
    let work = Work {
        filesystem,
        file: &file,
        names: &sources,
        others: &others,
    };
    measured(&operation, &work)?;
    let elapsed = start.elapsed();
    println!(
        "{operation}: {} ns each",
        elapsed.as_nanos() / u128::try_from(count.max(1))?
    );
    Ok(())
}

struct Work<'b> {
    filesystem: &'b Filesystem,
    file: &'b File,
    names: &'b [String],
    others: &'b [String],
}

/// What callgrind collects.
#[inline(never)]
fn measured(operation: &str, work: &Work<'_>) -> Result<()> {
    let filesystem = work.filesystem;
    let each = |action: &dyn Fn(&String) -> udax::Result<()>| work.names.iter().try_for_each(action);
    match operation {
        "create" => each(&|name| filesystem.open_file(name, CREATE, NEW).map(drop))?,
        "mkdir" => each(&|name| filesystem.create_dir(name, NEW).map(drop))?,
        "unlink" => each(&|name| filesystem.unlink(name))?,
        "rename" => {
            for (name, other) in work.names.iter().zip(work.others) {
                filesystem.rename(name, other, RenameMode::Replace)?;
            }
        }
        "cycle" => each(&|_| {
            drop(filesystem.open_file("work/same", CREATE, NEW)?);
            filesystem.unlink("work/same")
        })?,
        "open" => each(&|_| filesystem.open_file("file", OpenFlags::READ, NEW).map(drop))?,
        "stat" => each(&|name| filesystem.stat(name).map(drop))?,
        "append" => each(&|_| work.file.append(&BLOCK).map(drop))?,
        "overwrite" => each(&|_| work.file.write_at(&BLOCK, 0).map(drop))?,
        "read" => each(&|_| work.file.read_at(&mut [0; 4096], 0).map(drop))?,
        "pin" => each(&|_| work.file.pin(0, 4096, Request::new(Access::Read)).map(drop))?,
        "pin-write" => each(&|_| work.file.pin(0, 4096, Request::new(Access::Write)).map(drop))?,
        "lease" => each(&|_| work.file.lease(0, 4096, Label::default(), Term::Short).map(drop))?,
        other => bail!("no operation `{other}`: see the source"),
    }
    Ok(())
}

fn names(directory: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{directory}/{number:08}"))
        .collect()
}
