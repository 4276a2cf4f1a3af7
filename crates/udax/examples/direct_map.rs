//! Bytes of a file in place: borrowed through a lease, and stored to through a pin.
//!
//! A lease keeps writers away, so that the bytes can be a `&[u8]` without a copy. A pin only keeps the pages where they
//! are, so that it gives addresses and copies; what is stored through it is durable after `persist`.
//!
//! ```text
//! cargo run -p udax --example direct_map [POOL]
//! ```
//! Without an argument the pool is a file in the system's folder for temporary files. It is formatted anew.

use std::path::PathBuf;

use udax::{Access, Filesystem, FormatOptions, Label, MountOptions, NewInode, OpenFlags, Request, Term};

/// Bytes of a record in the example's file.
const RECORD: u64 = 4096;
const RECORDS: u64 = 1000;

fn main() -> udax::Result<()> {
    let default = || std::env::temp_dir().join(format!("direct_map-{}.pool", std::process::id()));
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let pool = given.clone().unwrap_or_else(default);
    let format = FormatOptions {
        size: Some(64 << 20),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &format)?;
    let result = work(&pool);
    if given.is_none() {
        // The example's own file.
        let _ = std::fs::remove_file(&pool);
    }
    result
}

fn work(pool: &std::path::Path) -> udax::Result<()> {
    let filesystem = Filesystem::open(pool, &MountOptions::default())?;
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = filesystem.open_file("/records", flags, NewInode::with_permissions(0o644))?;
    for number in 0..RECORDS {
        let mut record = vec![0; 4096];
        record[..8].copy_from_slice(&number.to_le_bytes());
        file.append(&record)?;
    }

    // Sum all records without copying one of them.
    let lease = file.lease(0, RECORDS * RECORD, Label::new("sum"), Term::Short)?;
    let slices = lease.slices()?;
    let records = slices.iter().flat_map(|slice| slice.chunks(4096));
    let sum: u64 = records
        .filter_map(|record| record.first_chunk())
        .map(|first| u64::from_le_bytes(*first))
        .sum();
    println!("{RECORDS} records in {} pieces, their sum is {sum}", slices.len());
    drop(lease);

    // Change one in place.
    let pin = file.pin(
        7 * RECORD,
        RECORD,
        Request::new(Access::Write).labelled(Label::new("change")),
    )?;
    pin.write(0, &1_000_000_u64.to_le_bytes())?;
    pin.persist(0, 8)?;
    for piece in pin.pieces() {
        println!("record 7 lies at byte {} of the pool", piece.at);
    }
    for held in filesystem.pins() {
        println!("{held}");
    }
    drop(pin);

    let mut bytes = [0; 8];
    file.read_at(&mut bytes, 7 * RECORD)?;
    println!("record 7 reads as {}", u64::from_le_bytes(bytes));
    drop(file);
    filesystem.close()
}
