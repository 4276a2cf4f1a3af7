//! Real persistent memory. Run on a machine that has it, as `PMEM_DEV=/dev/dax0.0 PMEM_DIR=/mnt/pmem cargo test -p
//! udax-pmem devices:: -- --ignored`; what the device holds is lost. `PMEM_DIR` is on a filesystem mounted with `dax`.
//! `ci/vm` runs them in a virtual machine.

use std::fs;
use std::path::{Path, PathBuf};

use udax_pmem::{Medium, Persistence, Region, RegionError, RegionOptions};

use super::{backends, with_backend};

fn named_by(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set"))
        .into()
}

fn is_durable(region: &Region) -> bool {
    matches!(region.persistence(), Persistence::Flush | Persistence::Eadr)
}

/// An attribute of the device in sysfs, a number.
fn attribute(device: &Path, name: &str) -> u64 {
    let name = Path::new("/sys/bus/dax/devices")
        .join(device.file_name().unwrap())
        .join(name);
    let text = fs::read_to_string(&name).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
    text.trim().parse().unwrap()
}

fn read_only() -> RegionOptions {
    RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    }
}

mod of_a_device {
    use super::*;

    #[test]
    #[ignore = "needs PMEM_DEV: a DAX device whose content may be lost"]
    fn a_dax_device_is_mapped_whole_and_keeps_what_is_stored() {
        let path = named_by("PMEM_DEV");
        for (round, backend) in (1_u8..).zip(backends()) {
            let region = Region::create(&path, 2 << 20, with_backend(backend)).unwrap();
            let len = region.len();
            assert!(len >= 2 << 20);
            // Not so ordinary memory, as on a CXL card.
            let is_persistent = Medium::of(&path).unwrap().is_persistent_memory == Some(true);
            assert_eq!(is_durable(&region), is_persistent, "{:?}", region.persistence());
            region.store_nontemporal(len - 5000, &[round; 5000]).unwrap();
            region.store_u64(8, u64::from(round)).unwrap();
            region.flush(8, 8).unwrap();
            region.fence().unwrap();
            drop(region);
            let region = Region::open(&path, read_only()).unwrap();
            assert_eq!(region.len(), len);
            assert!(region.compare(len - 5000, &[round; 5000]).unwrap());
            assert_eq!(region.read_u64(8).unwrap(), u64::from(round));
        }
    }

    #[test]
    #[ignore = "needs PMEM_DEV: a DAX device whose content may be lost"]
    fn a_dax_device_has_the_size_and_the_alignment_that_the_kernel_tells() {
        let path = named_by("PMEM_DEV");
        let (size, align) = (attribute(&path, "size"), attribute(&path, "align"));
        let region = Region::open(&path, RegionOptions::default()).unwrap();
        assert_eq!(region.len(), size - size % align);
        let address = region.address(0, 1).unwrap().addr().get();
        assert!(
            address.is_multiple_of(usize::try_from(align).unwrap()),
            "{address:#x}"
        );
        // What the mapping's last part is: touched, so that a shorter one is found.
        region.store_u64(region.len() - 8, 1).unwrap();
        assert_eq!(Medium::of(&path).unwrap().alignment, Some(align));
    }

    #[test]
    #[ignore = "needs PMEM_DEV: a DAX device whose content may be lost"]
    fn a_dax_device_is_flushed_deeply() {
        let path = named_by("PMEM_DEV");
        let region = Region::open(&path, RegionOptions::default()).unwrap();
        region.store_nontemporal(0, &[1; 4096]).unwrap();
        region.fence().unwrap();
        let attribute = Path::new("/sys/bus/nd/devices/region0/deep_flush");
        println!("deep_flush of region0: {:?}", fs::read_to_string(attribute));
        region.deep_flush().unwrap();
    }

    #[test]
    #[ignore = "needs PMEM_DEV: a DAX device whose content may be lost"]
    fn a_dax_device_keeps_its_size_and_its_lock() {
        let path = named_by("PMEM_DEV");
        let region = Region::open(&path, RegionOptions::default()).unwrap();
        let len = region.len();
        assert!(matches!(region.grow(len + 1), Err(RegionError::TooSmall { .. })));
        assert!(matches!(
            Region::open(&path, read_only()),
            Err(RegionError::Busy { .. })
        ));
        drop(region);
        let error = Region::create(&path, len + 1, RegionOptions::default()).unwrap_err();
        assert!(matches!(error, RegionError::TooSmall { .. }), "{error}");
        assert!(path.exists());
    }
}

mod of_a_filesystem {
    use super::*;

    #[test]
    #[ignore = "needs PMEM_DIR: a directory of a filesystem mounted with dax"]
    fn a_file_on_a_dax_filesystem_needs_flushes_only_and_can_grow() {
        let directory = tempfile::tempdir_in(named_by("PMEM_DIR")).unwrap();
        let path = directory.path().join("pool");
        for backend in backends() {
            let options = RegionOptions {
                // Ignored: the mapping is the medium.
                msync: true,
                ..with_backend(backend)
            };
            let region = Region::create(&path, 4 << 20, options).unwrap();
            assert!(is_durable(&region), "{:?}", region.persistence());
            region.store_nontemporal(3, &[4; 100_000]).unwrap();
            region.fence().unwrap();
            region.grow(9 << 20).unwrap();
            region.store((9 << 20) - 8, &[5; 8]).unwrap();
            region.flush((9 << 20) - 8, 8).unwrap();
            region.fence().unwrap();
            region.deep_flush().unwrap();
            drop(region);
            let region = Region::open(&path, read_only()).unwrap();
            assert!(is_durable(&region));
            assert!(region.compare(3, &[4; 100_000]).unwrap());
            assert!(region.compare((9 << 20) - 8, &[5; 8]).unwrap());
            drop(region);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    #[ignore = "needs PMEM_DIR: a directory of a filesystem mounted with dax"]
    fn a_page_cut_off_a_dax_file_is_an_error() {
        let directory = tempfile::tempdir_in(named_by("PMEM_DIR")).unwrap();
        let path = directory.path().join("pool");
        let region = Region::create(&path, 4 << 20, RegionOptions::default()).unwrap();
        region.store(0, &[1; 8192]).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(4096).unwrap();
        let mut buffer = [0; 8192];
        assert!(matches!(
            region.read(0, &mut buffer),
            Err(RegionError::Unreachable { at: 4096 })
        ));
        assert_eq!(&buffer[..4096], &[1; 4096]);
        assert!(matches!(
            region.store_nontemporal(8192, &[1; 64]),
            Err(RegionError::Unreachable { at: 8192 })
        ));
        // No flush of a lost page: emulated processors do not fault on it.
        assert!(region.compare(0, &[1; 4096]).unwrap());
    }
}
