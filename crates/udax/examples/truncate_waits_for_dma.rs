//! A truncation waits for a transfer into the range that it cuts off, and for no other.
//!
//! The transfer is a thread that stores through a pin for half a second, as a device would. Meanwhile the file is read,
//! written and truncated elsewhere at once; a truncation that would free the transfer's pages says so when it must not
//! wait, and otherwise returns when the transfer is over. Linux waits here for pins anywhere in the file, and reads and
//! writes of the file wait with it.
//!
//! ```text
//! cargo run -p udax --example truncate_waits_for_dma
//! ```

use std::time::{Duration, Instant};

use udax::{
    Access, File, Filesystem, FormatOptions, Label, Mode, MountOptions, NewInode, OpenFlags, Pin, Request,
};

const BLOCK: u64 = 4096;

/// A device that fills its pages again and again until `end`.
fn transfer(pin: Pin, end: Instant) -> udax::Result<()> {
    let mut round = 0_u8;
    while Instant::now() < end {
        round = round.wrapping_add(1);
        pin.write(0, &[round; 4096])?;
    }
    // The pages are given back here.
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> udax::Result<T>) -> udax::Result<T> {
    let begin = Instant::now();
    let result = work()?;
    println!("{what}: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    Ok(result)
}

fn contest(filesystem: &Filesystem, file: &File) -> udax::Result<()> {
    let request = Request::new(Access::Write).labelled(Label::new("transfer"));
    let pin = file.pin(8 * BLOCK, BLOCK, request)?;
    let end = Instant::now() + Duration::from_millis(500);
    std::thread::scope(|scope| {
        let device = scope.spawn(move || transfer(pin, end));
        timed("write beside the transfer", || file.write_at(&[1; 4096], 0))?;
        timed("truncate behind the transfer", || file.truncate(12 * BLOCK))?;
        match file.waiting(Mode::NoWait).truncate(4 * BLOCK) {
            Err(error) => println!("truncate before it, without waiting: {error}"),
            Ok(()) => println!("the transfer was over already"),
        }
        for pin in filesystem.pins() {
            println!("{pin}");
        }
        timed("truncate before it, waiting", || file.truncate(4 * BLOCK))?;
        device.join().unwrap_or(Ok(()))
    })
}

fn main() -> udax::Result<()> {
    let pool = std::env::temp_dir().join(format!("truncate_waits-{}.pool", std::process::id()));
    let format = FormatOptions {
        size: Some(64 << 20),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &format)?;
    let work = || {
        let filesystem = Filesystem::open(&pool, &MountOptions::default())?;
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        let file = filesystem.open_file("/f", flags, NewInode::with_permissions(0o644))?;
        file.write_at(&[0; 16 * 4096], 0)?;
        contest(&filesystem, &file)?;
        drop(file);
        filesystem.close()
    };
    let result = work();
    // The example's own file.
    let _ = std::fs::remove_file(&pool);
    result
}
