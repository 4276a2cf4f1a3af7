//! Pages of a pool that lose their bytes, in two ways that a kernel has without the memory's help, as emulated memory
//! does not fail:
//!
//! - *Told*: the kernel is told of a page (`hard_offline_page`). It takes it out of all mappings and sends SIGBUS. It
//!   names a page only where that is what is mapped: 4 KiB of a device with such an alignment, or of a file. A later
//!   load would fault on real memory; here the page is mapped again, with its bytes.
//! - *Met*: a page is put on the list of bad blocks of `/dev/pmem0`. A fault on it fails, which the load that raised it
//!   hears by SIGBUS. Devices do not look at such a list.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use udax::{
    Access, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags, Request, ScrubOptions, ScrubReport,
};
use udax_pmem::Medium;

const PAGE: usize = 4096;
const SECTOR: u64 = 512;
/// Pages of the file, and what each of three is for.
const PAGES: usize = 5;
const ASKED: usize = 1;
const TOLD: usize = 2;
const MET: usize = 3;
/// The offline interface of the kernel: takes a physical address.
const INJECT: &str = "/sys/devices/system/memory/hard_offline_page";
/// How long a signal may take to be seen.
const LIMIT: Duration = Duration::from_secs(5);
/// Of an entry of /proc/self/pagemap: the frame, and that there is one (Documentation/admin-guide/mm/pagemap.rst).
const FRAME: u64 = (1 << 55) - 1;
const IS_PRESENT: u64 = 1 << 63;

/// A pool with a file that is to lose something.
struct Precious {
    filesystem: Filesystem,
    file: udax::File,
    bytes: Vec<u8>,
}

/// Where a page is.
#[derive(Clone, Copy)]
struct Place {
    address: usize,
    physical: u64,
}

/// Overwrites `pool`, lets pages of a file lose their bytes, and looks at what follows.
///
/// # Errors
/// Anything else than promised: `EIO` for these bytes only, found by a scrub, gone after a write of the whole page.
pub(crate) fn run(pool: &Path) -> anyhow::Result<()> {
    let medium = Medium::of(pool)?;
    if medium.alignment.is_none() {
        // So that a file is mapped page by page, wherever the filesystem has put it.
        prctl::set_thp_disable(true)?;
    }
    let options = FormatOptions {
        force: true,
        ..FormatOptions::default()
    };
    Filesystem::format(pool, &options)?;
    let precious = Precious::new(pool)?;
    let unit = ask_kernel(precious.place(ASKED)?)?;
    precious.ensure_good(None)?;
    ensure!(
        unit == medium.alignment.unwrap_or(u64::try_from(PAGE)?),
        "the kernel speaks of {unit} bytes"
    );
    inject(precious.place(TOLD)?.physical)?;
    if unit == u64::try_from(PAGE)? {
        precious.ensure_lost(TOLD)?;
        precious.make_good(TOLD)?;
        println!("written as a whole, it is good again");
    } else {
        sleep(LIMIT / 10);
        precious.ensure_good(None)?;
        println!("the process lives; which page of {unit} bytes is lost, the kernel does not say");
    }
    if medium.alignment.is_some() {
        return precious.close();
    }
    let physical = precious.place(MET)?.physical;
    precious.close()?;
    let device = medium.device.context("the pool is on no device")?;
    list_as_bad(&device, physical)?;
    let precious = Precious::open(pool)?;
    precious.ensure_lost(MET)?;
    match precious.write_whole(MET) {
        Ok(()) => {
            precious.ensure_whole()?;
            println!("written as a whole, it is good again");
        }
        Err(error) => {
            // Only the memory's firmware can clear such a page; QEMU's has no such function.
            println!("written as a whole, it is still lost: {error}");
            ensure!(error.errno() == Errno::EIO, "not EIO, but {}", error.errno());
            precious.ensure_lost(MET)?;
        }
    }
    precious.close()
}

impl Precious {
    fn new(pool: &Path) -> anyhow::Result<Self> {
        let precious = Self::open(pool)?;
        precious.file.write_at(&precious.bytes, 0)?;
        Ok(precious)
    }

    fn open(pool: &Path) -> anyhow::Result<Self> {
        let filesystem = Filesystem::open(pool, &MountOptions::default())?;
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        let file = filesystem.open_file("precious", flags, NewInode::with_permissions(0o600))?;
        let bytes = (0..PAGES * PAGE)
            .map(|at| u8::try_from(at / PAGE + 1).unwrap_or(0))
            .collect();
        Ok(Self {
            filesystem,
            file,
            bytes,
        })
    }

    fn close(self) -> anyhow::Result<()> {
        drop(self.file);
        Ok(self.filesystem.close()?)
    }

    fn page(&self, number: usize) -> &[u8] {
        &self.bytes[number * PAGE..][..PAGE]
    }

    fn place(&self, number: usize) -> anyhow::Result<Place> {
        let at = u64::try_from(number * PAGE)?;
        let mut pin = self
            .file
            .pin(at, u64::try_from(PAGE)?, Request::new(Access::Write))?;
        let addresses = pin.addresses_mut()?;
        let address = addresses
            .first()
            .context("a pin without pages")?
            .0
            .as_ptr()
            .addr();
        // So that it is mapped.
        let mut page = vec![0; PAGE];
        self.file.read_at(&mut page, at)?;
        Ok(Place {
            address,
            physical: physical_address(address)?,
        })
    }

    /// All pages but `lost` have their bytes.
    fn ensure_good(&self, lost: Option<usize>) -> anyhow::Result<()> {
        let mut page = vec![0; PAGE];
        for number in (0..PAGES).filter(|number| Some(*number) != lost) {
            self.file.read_at(&mut page, u64::try_from(number * PAGE)?)?;
            ensure!(page == self.page(number), "page {number} has changed");
        }
        Ok(())
    }

    /// A read of page `lost` fails, now or soon, others do not, and the scrub names it.
    fn ensure_lost(&self, lost: usize) -> anyhow::Result<()> {
        let at = u64::try_from(lost * PAGE)?;
        let begin = Instant::now();
        let mut page = vec![0; PAGE];
        let error = loop {
            match self.file.read_at(&mut page, at) {
                Err(error) => break error,
                Ok(len) => ensure!(len == PAGE, "a short read"),
            }
            ensure!(begin.elapsed() < LIMIT, "the lost page is still read");
            sleep(Duration::from_millis(10));
        };
        println!("a read of page {lost}: {error}");
        ensure!(error.errno() == Errno::EIO, "not EIO, but {}", error.errno());
        self.ensure_good(Some(lost))?;
        let report = self.scrub()?;
        let Some(finding) = report
            .findings
            .iter()
            .find(|found| found.path.as_deref() == Some(b"/precious"))
        else {
            bail!("the scrub does not find it: {:?}", report.findings);
        };
        println!("the scrub: {}: {}", finding.place, finding.what);
        Ok(())
    }

    /// A write of page `lost` as a whole makes all good.
    fn make_good(&self, lost: usize) -> anyhow::Result<()> {
        self.write_whole(lost)?;
        self.ensure_whole()
    }

    fn write_whole(&self, page: usize) -> Result<(), udax::Error> {
        let at = u64::try_from(page * PAGE).unwrap_or(0);
        self.file.write_at(self.page(page), at).map(drop)
    }

    fn ensure_whole(&self) -> anyhow::Result<()> {
        self.ensure_good(None)?;
        let report = self.scrub()?;
        ensure!(
            report.findings.is_empty(),
            "the scrub still finds {:?}",
            report.findings
        );
        Ok(())
    }

    fn scrub(&self) -> anyhow::Result<ScrubReport> {
        let options = ScrubOptions::default();
        Ok(self
            .filesystem
            .scrub(options, &mut |_| ControlFlow::Continue(()))?)
    }
}

/// Tells the kernel that a page is lost, and takes its signal before anybody else does. Gives how many bytes it speaks
/// of.
fn ask_kernel(place: Place) -> anyhow::Result<u64> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGBUS);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK)?;
    inject(place.physical)?;
    let begin = Instant::now();
    let signal = loop {
        if let Some(signal) = signals.read_signal()? {
            break signal;
        }
        ensure!(begin.elapsed() < LIMIT, "the kernel sends no signal");
        sleep(Duration::from_millis(10));
    };
    mask.thread_unblock()?;
    let unit = 1_u64
        .checked_shl(signal.ssi_addr_lsb.into())
        .context("no power of two")?;
    let told = usize::try_from(signal.ssi_addr)?;
    println!(
        "the kernel's signal: code {}, {unit} bytes, an address {} pages before the lost page's",
        signal.ssi_code,
        place.address.wrapping_sub(told).cast_signed() / PAGE.cast_signed()
    );
    Ok(unit)
}

/// Where a page of this process is in the machine.
pub(crate) fn physical_address(address: usize) -> anyhow::Result<u64> {
    let mut entry = [0; 8];
    let at = u64::try_from(address / PAGE * entry.len())?;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
    let entry = u64::from_le_bytes(entry);
    ensure!(entry & IS_PRESENT != 0, "the page is not mapped");
    Ok((entry & FRAME) * u64::try_from(PAGE)?)
}

/// In a process of its own: who asks for it is not told, but killed.
pub(crate) fn inject(physical: u64) -> anyhow::Result<()> {
    ensure!(fs::exists(INJECT)?, "this kernel has no {INJECT}");
    let script = format!("echo {physical:#x} >{INJECT}");
    let status = Command::new("sh").args(["-c", &script]).status()?;
    // Memory that cannot be replaced is reported as such: the effect is what counts.
    println!("the page at {physical:#x} loses its bytes: {status}");
    Ok(())
}

/// Puts a page on the list of bad blocks of a block device of persistent memory.
fn list_as_bad(device: &str, physical: u64) -> anyhow::Result<()> {
    let directory = Path::new("/sys/block").join(device);
    let start = fs::read_to_string(directory.join("device/resource"))?;
    let start = u64::from_str_radix(start.trim().trim_start_matches("0x"), 16)?;
    let sector = physical.checked_sub(start).context("before its device")? / SECTOR;
    let list = directory.join("badblocks");
    fs::write(&list, format!("{sector} {}\n", u64::try_from(PAGE)? / SECTOR))?;
    print!("bad blocks of {device}: {}", fs::read_to_string(list)?);
    Ok(())
}
