//! What sysfs knows of DAX devices: their size and alignment, whether caches survive a power failure, and which
//! bytes are lost.
//!
//! Every function takes the root of sysfs, so that tests can make one.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where the kernel describes itself.
pub(crate) const SYSFS: &str = "/sys";
/// The unit of lists of bad blocks.
const SECTOR: u64 = 512;
/// The most bytes that an attribute of sysfs gives.
const ATTRIBUTE: usize = 4095;

/// A `/dev/dax*` device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DaxDevice {
    /// Bytes: a multiple of `align`.
    pub(crate) size: u64,
    /// What file offsets and lengths of mappings must be multiples of.
    pub(crate) align: u64,
    /// Its directory in sysfs, without symbolic links.
    pub(crate) directory: PathBuf,
}

fn read_number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| {
        let message = format!("{}: not a number: {:?}", path.display(), text.trim());
        Error::new(ErrorKind::InvalidData, message)
    })
}

/// The directory of a device number, `kind` being `char` or `block`.
pub(crate) fn device_directory(sysfs: &Path, kind: &str, device: libc::dev_t) -> Result<PathBuf> {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    fs::canonicalize(sysfs.join("dev").join(kind).join(number))
}

/// What the character device `device` is.
///
/// # Errors
/// It is not a DAX device, or sysfs does not describe it.
pub(crate) fn dax_device(sysfs: &Path, device: libc::dev_t) -> Result<DaxDevice> {
    let directory = device_directory(sysfs, "char", device)?;
    let subsystem = fs::canonicalize(directory.join("subsystem"))?;
    if subsystem.file_name().is_none_or(|name| name != "dax") {
        return Err(Error::new(ErrorKind::InvalidInput, "not a DAX device"));
    }
    // Old kernels do not tell it: 2 MiB is what they make unless told otherwise.
    let align = read_number(&directory.join("align")).unwrap_or(2 << 20);
    if !align.is_power_of_two() || align < 4096 {
        let message = format!("alignment {align} is not a power of two of at least 4096");
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    let size = read_number(&directory.join("size"))?;
    Ok(DaxDevice {
        size: size - size % align,
        align,
        directory,
    })
}

/// Whether a device is on a bus of non-volatile memory; else it is ordinary memory behind a DAX device. What a host
/// lends by virtio is on such a bus, too, but durable only after the host has written it back, which no flush of a
/// line makes it do (the kernel refuses `MAP_SYNC` there).
pub(crate) fn is_persistent(directory: &Path) -> bool {
    ancestor(directory, "ndbus").is_some() && ancestor(directory, "virtio").is_none()
}

/// Whether caches are in the power-fail domain of the memory behind a device. Where its region cannot be told (a
/// device-mapper volume): whether they are for all regions.
pub(crate) fn is_eadr(sysfs: &Path, directory: Option<&Path>) -> bool {
    if let Some(region) = directory.and_then(|directory| ancestor(directory, "region")) {
        return region_is_eadr(&region);
    }
    let Ok(entries) = fs::read_dir(sysfs.join("bus/nd/devices")) else {
        return false;
    };
    let mut regions = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_numbered(path, "region"))
        .peekable();
    regions.peek().is_some() && regions.all(|region| region_is_eadr(&region))
}

/// The attribute is there only where firmware tells the domain.
fn region_is_eadr(region: &Path) -> bool {
    fs::read_to_string(region.join("persistence_domain")).is_ok_and(|domain| domain.trim() == "cpu_cache")
}

/// The bytes of a DAX device that the kernel knows to be lost, as ranges in it.
///
/// The kernel keeps them for the region that the device is a part of, as lines `sector count` of 512 bytes from the
/// region's start (`badblocks`); `resource` of both says where the device begins in it. Reading that takes root.
///
/// # Errors
/// What is missing, unreadable or no number.
pub(crate) fn bad_ranges(device: &DaxDevice) -> Result<Vec<Range<u64>>> {
    let Some(region) = ancestor(&device.directory, "region") else {
        return Ok(Vec::new());
    };
    let listed = parse_sectors(&fs::read_to_string(region.join("badblocks"))?)?;
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let first = read_address(&device.directory.join("resource"))?;
    let offset = first.saturating_sub(read_address(&region.join("resource"))?);
    // What is before or behind the device is another one's.
    let inside = |at: u64| at.saturating_sub(offset).min(device.size);
    let in_device = |range: Range<u64>| inside(range.start)..inside(range.end);
    Ok(listed
        .into_iter()
        .map(in_device)
        .filter(|range| !range.is_empty())
        .collect())
}

/// As [`bad_ranges`]; none where that cannot be told, which is logged. They are found when they are met.
pub(crate) fn known_bad_ranges(device: &DaxDevice) -> Vec<Range<u64>> {
    bad_ranges(device).unwrap_or_else(|error| {
        let device = device.directory.display();
        tracing::warn!(%device, %error, "the kernel's list of bad blocks cannot be read");
        Vec::new()
    })
}

/// Lines `sector count` as ranges of bytes. The kernel cuts a long list inside of a line, which has no end then: that
/// one is left out, and met like one that is not listed.
fn parse_sectors(text: &str) -> Result<Vec<Range<u64>>> {
    let parse = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let (Some(Some(start)), Some(Some(count)), None) = (numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        let end = start.checked_add(count)?.checked_mul(SECTOR)?;
        Some(start * SECTOR..end)
    };
    let is_cut = text.len() >= ATTRIBUTE && !text.ends_with('\n');
    let whole = match text.rsplit_once('\n') {
        Some((whole, _)) if is_cut => whole,
        _ => text,
    };
    whole
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let error = || Error::new(ErrorKind::InvalidData, format!("bad blocks: {line:?}"));
            parse(line).ok_or_else(error)
        })
        .collect()
}

fn read_address(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let digits = text.trim().strip_prefix("0x").unwrap_or(text.trim());
    u64::from_str_radix(digits, 16).map_err(|_| {
        let message = format!("{}: not an address: {:?}", path.display(), text.trim());
        Error::new(ErrorKind::InvalidData, message)
    })
}

/// The nearest ancestor called `prefix` and a number.
pub(crate) fn ancestor(directory: &Path, prefix: &str) -> Option<PathBuf> {
    ancestors(directory, prefix).next()
}

/// All ancestors called `prefix` and a number, or two with a dot between (`dax0.1`), the nearest first.
pub(crate) fn ancestors<'d>(directory: &'d Path, prefix: &'d str) -> impl Iterator<Item = PathBuf> + 'd {
    directory
        .ancestors()
        .filter(move |path| is_numbered(path, prefix))
        .map(Path::to_path_buf)
}

fn is_numbered(path: &Path, prefix: &str) -> bool {
    let number = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(prefix));
    number.is_some_and(|number| {
        number.starts_with(|first: char| first.is_ascii_digit())
            && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// Empties the buffers between the caches and the medium of the region that a device is a part of (the kernel's
/// `nvdimm_flush`). Of a region without such a function the kernel says 0, and it has nothing to empty.
///
/// # Errors
/// What writing the attribute gives: it takes root.
pub(crate) fn deep_flush(directory: &Path) -> Result<()> {
    let Some(region) = ancestor(directory, "region") else {
        return Ok(());
    };
    let attribute = region.join("deep_flush");
    match fs::read_to_string(&attribute) {
        Ok(has_function) if has_function.trim() == "1" => fs::write(attribute, "1\n"),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with one nvdimm bus, `regions` (their persistence domains) and dax0.0 (252:3) in the first.
    fn sysfs(regions: &[Option<&str>]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let bus = root.path().join("devices/platform/ndbus0");
        for directory in ["bus/nd/devices", "bus/dax", "dev/char"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for (number, domain) in regions.iter().enumerate() {
            let region = bus.join(format!("region{number}"));
            fs::create_dir_all(&region).unwrap();
            if let Some(domain) = domain {
                fs::write(region.join("persistence_domain"), format!("{domain}\n")).unwrap();
            }
            let link = root.path().join(format!("bus/nd/devices/region{number}"));
            symlink(&region, link).unwrap();
        }
        let device = bus.join("region0/dax0.0/dax0.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("size"), "1073741824\n").unwrap();
        fs::write(device.join("align"), "2097152\n").unwrap();
        symlink(root.path().join("bus/dax"), device.join("subsystem")).unwrap();
        symlink(&device, root.path().join("dev/char/252:3")).unwrap();
        root
    }

    fn device_number() -> libc::dev_t {
        libc::makedev(252, 3)
    }

    #[test]
    fn size_and_alignment_of_a_dax_device_are_read() {
        let root = sysfs(&[None]);
        let device = dax_device(root.path(), device_number()).unwrap();
        assert_eq!((device.size, device.align), (1 << 30, 2 << 20));
        assert!(is_persistent(&device.directory));
    }

    #[test]
    fn a_size_that_is_not_a_number_is_an_error() {
        let root = sysfs(&[None]);
        let directory = device_directory(root.path(), "char", device_number()).unwrap();
        fs::write(directory.join("size"), "many").unwrap();
        assert_eq!(
            dax_device(root.path(), device_number()).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
    }

    #[test]
    fn an_alignment_of_zero_is_an_error() {
        let root = sysfs(&[None]);
        let directory = device_directory(root.path(), "char", device_number()).unwrap();
        fs::write(directory.join("align"), "0").unwrap();
        assert_eq!(
            dax_device(root.path(), device_number()).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
    }

    #[test]
    fn memory_without_a_bus_of_nonvolatile_memory_is_not_persistent() {
        assert!(!is_persistent(Path::new("/sys/devices/platform/hmem.0/dax0.0")));
        assert!(!is_persistent(Path::new("/sys/devices/platform/ndbusted/dax0.0")));
        assert!(!is_persistent(Path::new(
            "/sys/devices/pci0000:00/0000:00:03.0/virtio1/ndbus0/region0/dax0.0"
        )));
    }

    #[test]
    fn the_region_of_a_device_decides_its_domain() {
        let root = sysfs(&[Some("cpu_cache"), Some("memory_controller")]);
        let device = dax_device(root.path(), device_number()).unwrap();
        assert!(is_eadr(root.path(), Some(&device.directory)));
        let root = sysfs(&[None, Some("cpu_cache")]);
        let device = dax_device(root.path(), device_number()).unwrap();
        assert!(!is_eadr(root.path(), Some(&device.directory)));
    }

    #[test]
    fn without_a_known_region_all_must_have_caches_in_the_domain() {
        assert!(is_eadr(
            sysfs(&[Some("cpu_cache"), Some("cpu_cache")]).path(),
            None
        ));
        assert!(!is_eadr(sysfs(&[Some("cpu_cache"), None]).path(), None));
        assert!(!is_eadr(sysfs(&[Some("memory_controller")]).path(), None));
        assert!(!is_eadr(tempfile::tempdir().unwrap().path(), None));
    }

    #[test]
    fn a_deep_flush_writes_to_the_region_that_has_one() {
        let root = sysfs(&[None]);
        let dax = dax_device(root.path(), device_number()).unwrap();
        deep_flush(&dax.directory).unwrap();
        let attribute = ancestor(&dax.directory, "region").unwrap().join("deep_flush");
        assert!(
            !attribute.exists(),
            "nothing is made where there is no such function"
        );
        for (before, after) in [("0", "0"), ("1", "1\n")] {
            fs::write(&attribute, before).unwrap();
            deep_flush(&dax.directory).unwrap();
            assert_eq!(fs::read_to_string(&attribute).unwrap(), after);
        }
        deep_flush(Path::new("/sys/devices/platform/hmem.0/dax0.0")).unwrap();
    }

    fn with_bad_blocks(listed: &str, region: &str, device: &str) -> Result<Vec<Range<u64>>> {
        let root = sysfs(&[None]);
        let dax = dax_device(root.path(), device_number()).unwrap();
        let nd_region = ancestor(&dax.directory, "region").unwrap();
        fs::write(nd_region.join("badblocks"), listed).unwrap();
        fs::write(nd_region.join("resource"), region).unwrap();
        fs::write(dax.directory.join("resource"), device).unwrap();
        bad_ranges(&dax)
    }

    #[test]
    fn bad_blocks_of_the_region_are_bytes_of_the_device() {
        let found = with_bad_blocks("8 2\n4096 1\n5000 16\n", "0x100000000\n", "0x100200000\n").unwrap();
        // The first range is before the device, the others 2 MiB nearer to its start.
        assert_eq!(found, [0..512, (5000 - 4096) * 512..(5016 - 4096) * 512]);
        assert_eq!(with_bad_blocks("", "0x0", "0x0").unwrap(), []);
    }

    #[test]
    fn a_range_that_begins_before_the_device_is_cut() {
        let found = with_bad_blocks("7 3\n9 1", "0x1000", "0x1000").unwrap();
        assert_eq!(found, [3584..5120, 4608..5120]);
        let found = with_bad_blocks("7 3\n9 1", "0x1000", "0x2000").unwrap();
        assert_eq!(found, [0..1024, 512..1024]);
        // The device has 1 GiB; what is behind it is another one's.
        let found = with_bad_blocks("2097151 3\n2097152 8", "0x1000", "0x1000").unwrap();
        assert_eq!(found.first(), Some(&((1 << 30) - 512..1 << 30)));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_list_that_the_kernel_has_cut_is_what_it_has_whole() {
        let lines: Vec<String> = (1..1000).map(|number| format!("{} 1\n", number * 8)).collect();
        let cut = &lines.concat()[..4095];
        let whole = &cut[..=cut.rfind('\n').unwrap()];
        assert!(whole.len() < cut.len());
        let known = with_bad_blocks(cut, "0x0", "0x0").unwrap();
        assert_eq!(known, with_bad_blocks(whole, "0x0", "0x0").unwrap());
        assert!(known.len() > 400, "{}", known.len());
    }

    #[test]
    fn bad_blocks_that_are_none_are_an_error() {
        for listed in [
            "8",
            "8 x",
            "1 2 3",
            "-1 4",
            "18446744073709551615 1",
            "36028797018963968 1",
        ] {
            assert_eq!(
                with_bad_blocks(listed, "0x0", "0x0").unwrap_err().kind(),
                ErrorKind::InvalidData,
                "{listed}"
            );
        }
        assert!(with_bad_blocks("8 1", "0x0", "here").is_err());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_known_as_empty() {
        let root = sysfs(&[None]);
        let dax = dax_device(root.path(), device_number()).unwrap();
        assert_eq!(bad_ranges(&dax).unwrap_err().kind(), ErrorKind::NotFound);
        let list = ancestor(&dax.directory, "region").unwrap().join("badblocks");
        for (listed, expected) in [("8 x", ErrorKind::InvalidData), ("8 1", ErrorKind::NotFound)] {
            fs::write(&list, listed).unwrap();
            assert_eq!(bad_ranges(&dax).unwrap_err().kind(), expected);
            assert_eq!(known_bad_ranges(&dax), []);
        }
    }

    proptest::proptest! {
        /// Whatever is listed: ranges of whole sectors, or an error.
        #[test]
        fn any_text_is_a_list_or_an_error(text in "([0-9]{1,20}[ \t\n]?| |x|\n){0,12}") {
            for range in parse_sectors(&text).unwrap_or_default() {
                assert!(range.start <= range.end, "{range:?}");
                assert!(range.start.is_multiple_of(SECTOR) && range.end.is_multiple_of(SECTOR), "{range:?}");
            }
        }

        #[test]
        fn what_is_listed_is_found(sectors in proptest::collection::vec((0..1_u64 << 40, 1..1_u64 << 20), 0..40)) {
            let lines = sectors.iter().map(|(start, count)| format!("{start} {count}\n"));
            let text: String = lines.collect();
            let expected: Vec<_> = sectors.iter().map(|(start, count)| start * 512..(start + count) * 512).collect();
            assert_eq!(parse_sectors(&text).unwrap(), expected);
        }
    }

    #[test]
    fn memory_without_a_region_has_no_list() {
        let device = DaxDevice {
            size: 1 << 30,
            align: 2 << 20,
            directory: PathBuf::from("/sys/devices/platform/hmem.0/dax0.0"),
        };
        assert_eq!(bad_ranges(&device).unwrap(), []);
    }
}
