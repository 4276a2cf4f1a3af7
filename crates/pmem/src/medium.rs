//! What a pool's path leads to, for people: which device, region and namespace of the kernel's, in which mode; and
//! where a path leads to memory in another mode than is needed, the command that changes it.
//!
//! Main types: [`Medium`]. All is read from sysfs, whose root functions take, so that tests can make one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::domain::{self, SYSFS, ancestor, ancestors, device_directory};

/// What the kernel tells about the memory under a file or device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Medium {
    /// Of a DAX device: what offsets and lengths of its mappings are multiples of.
    pub alignment: Option<u64>,
    /// The device: `dax0.0`, `pmem0`, `vda1`.
    pub device: Option<String>,
    /// The namespace that it is made of, with its label where there is one.
    pub namespace: Option<String>,
    /// Of memory, whether it is persistent: not so what is ordinary memory behind a DAX device, on a CXL card or set
    /// aside. `None` of anything else, as a disk.
    pub is_persistent_memory: Option<bool>,
    /// The region of memory.
    pub region: Option<String>,
    /// What of the region a power failure spares, in the kernel's words: `memory_controller` (what has left the
    /// caches), `cpu_cache`.
    pub persistence_domain: Option<String>,
    /// Bytes of a DAX device that the kernel lists as lost, as far as it tells us.
    pub bad_bytes: u64,
}

impl Medium {
    /// Of a file or device.
    ///
    /// # Errors
    /// What stat gives; a character device that is no DAX device.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let sysfs = Path::new(SYSFS);
        if !metadata.file_type().is_char_device() {
            let directory = device_directory(sysfs, "block", metadata.dev()).ok();
            return Ok(
                directory.map_or_else(Self::default, |directory| Self::in_directory(sysfs, &directory))
            );
        }
        let device = domain::dax_device(sysfs, metadata.rdev())?;
        let bad = domain::bad_ranges(&device).unwrap_or_default();
        Ok(Self {
            alignment: Some(device.align),
            bad_bytes: bad.iter().map(|range| range.end - range.start).sum(),
            is_persistent_memory: Some(domain::is_persistent(&device.directory)),
            ..Self::in_directory(sysfs, &device.directory)
        })
    }

    fn in_directory(sysfs: &Path, directory: &Path) -> Self {
        let region = ancestor(directory, "region");
        let domain = region
            .as_ref()
            .and_then(|region| word(&region.join("persistence_domain")));
        Self {
            device: name(directory),
            namespace: namespace(directory).map(|namespace| {
                let label = word(&sysfs.join("bus/nd/devices").join(&namespace).join("alt_name"));
                label.map_or_else(|| namespace.clone(), |label| format!("{namespace} '{label}'"))
            }),
            is_persistent_memory: region.is_some().then(|| domain::is_persistent(directory)),
            region: region.as_deref().and_then(name),
            persistence_domain: domain,
            ..Self::default()
        }
    }
}

/// What to do where a block device was given and a DAX device is needed, if it is persistent memory.
pub(crate) fn advice_for_block(sysfs: &Path, device: libc::dev_t) -> Option<String> {
    let directory = device_directory(sysfs, "block", device).ok()?;
    let namespace = namespace(&directory)?;
    let devdax = format!("'ndctl create-namespace --force --reconfig={namespace} --mode=devdax'");
    // A filesystem on sectors (mode `sector`) cannot be mounted with DAX.
    Some(if ancestor(&directory, "btt").is_some() {
        format!("it is {namespace} as a disk of sectors: make a device of it, which erases it, with {devdax}")
    } else {
        format!(
            "it is {namespace} as a disk: put the pool into a file of a filesystem on it that is mounted with -o dax, \
             or make a device of it, which erases it, with {devdax}"
        )
    })
}

/// What to do where `/dev/daxN.M` does not exist though the kernel knows that memory.
pub(crate) fn advice_for_missing(sysfs: &Path, path: &Path) -> Option<String> {
    let device = path
        .file_name()?
        .to_str()
        .filter(|name| name.starts_with("dax"))?;
    let directory = sysfs.join("bus/dax/devices").join(device);
    let driver = fs::canonicalize(directory.join("driver"))
        .ok()
        .as_deref()
        .and_then(name);
    let state = match driver.as_deref() {
        Some("kmem") => "it is used as ordinary memory",
        Some(_) => return None,
        None if directory.exists() => "no driver has it",
        None => return None,
    };
    Some(format!(
        "{state}: run 'daxctl reconfigure-device --mode=devdax {device}'"
    ))
}

/// The namespace that a device is made of: its own directory, or named by the device that is between.
fn namespace(directory: &Path) -> Option<String> {
    let between =
        |prefix: &str| ancestors(directory, prefix).find_map(|found| word(&found.join("namespace")));
    ancestors(directory, "namespace")
        .find_map(|found| name(&found))
        .or_else(|| ["dax", "pfn", "btt"].into_iter().find_map(between))
}

fn name(directory: &Path) -> Option<String> {
    Some(directory.file_name()?.to_str()?.to_owned())
}

/// The content of an attribute, if there is one.
fn word(attribute: &Path) -> Option<String> {
    let text = fs::read_to_string(attribute).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with a region, and in it `path` for the block device 259:0.
    fn with_disk(path: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("devices/ndbus0/region0").join(path);
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(root.path().join("dev/block")).unwrap();
        fs::write(
            root.path().join("devices/ndbus0/region0/persistence_domain"),
            "memory_controller\n",
        )
        .unwrap();
        symlink(&directory, root.path().join("dev/block/259:0")).unwrap();
        root
    }

    #[test]
    fn a_disk_of_persistent_memory_is_refused_with_the_command_that_makes_a_device() {
        let root = with_disk("pfn0.1/block/pmem0");
        fs::write(
            root.path().join("devices/ndbus0/region0/pfn0.1/namespace"),
            "namespace0.0\n",
        )
        .unwrap();
        let advice = advice_for_block(root.path(), libc::makedev(259, 0)).unwrap();
        assert!(
            advice.contains("--reconfig=namespace0.0 --mode=devdax"),
            "{advice}"
        );
        let raw = with_disk("namespace1.0/block/pmem1");
        let advice = advice_for_block(raw.path(), libc::makedev(259, 0)).unwrap();
        assert!(advice.contains("--reconfig=namespace1.0 "), "{advice}");
    }

    #[test]
    fn a_disk_of_sectors_is_not_offered_a_filesystem_with_dax() {
        let root = with_disk("btt0.1/block/pmem0s");
        fs::write(
            root.path().join("devices/ndbus0/region0/btt0.1/namespace"),
            "namespace0.0\n",
        )
        .unwrap();
        let advice = advice_for_block(root.path(), libc::makedev(259, 0)).unwrap();
        assert!(
            advice.contains("--reconfig=namespace0.0 --mode=devdax") && !advice.contains("-o dax"),
            "{advice}"
        );
    }

    #[test]
    fn volatile_memory_is_not_taken_for_persistent_memory() {
        let root = tempfile::tempdir().unwrap();
        let device = root
            .path()
            .join("devices/platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0/dax0.0");
        let medium = Medium::in_directory(root.path(), &device);
        assert_eq!(medium.region.as_deref(), Some("region0"));
        assert_eq!(medium.is_persistent_memory, Some(false));
        let disk = Medium::in_directory(root.path(), &root.path().join("devices/pci0/block/vda"));
        assert_eq!(disk.is_persistent_memory, None);
    }

    #[test]
    fn an_ordinary_disk_gets_no_advice() {
        let root = with_disk("block/vda");
        assert_eq!(advice_for_block(root.path(), libc::makedev(259, 0)), None);
        assert_eq!(advice_for_block(root.path(), libc::makedev(259, 1)), None);
    }

    #[test]
    fn a_device_that_is_used_as_memory_gets_the_command_that_brings_it_back() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("bus/dax/devices/dax1.0");
        fs::create_dir_all(&device).unwrap();
        let advice = |name: &str| advice_for_missing(root.path(), Path::new(name));
        assert!(advice("/dev/dax1.0").unwrap().contains("no driver has it"));
        fs::create_dir_all(root.path().join("bus/dax/drivers/kmem")).unwrap();
        symlink(root.path().join("bus/dax/drivers/kmem"), device.join("driver")).unwrap();
        let found = advice("/dev/dax1.0").unwrap();
        assert!(
            found.contains("ordinary memory") && found.ends_with("--mode=devdax dax1.0'"),
            "{found}"
        );
        assert_eq!(advice("/dev/dax2.0"), None);
        assert_eq!(advice("/srv/pool"), None);
    }

    #[test]
    fn the_region_and_the_label_of_a_namespace_are_told() {
        let root = with_disk("pfn0.1/block/pmem0");
        let region = root.path().join("devices/ndbus0/region0");
        fs::write(region.join("pfn0.1/namespace"), "namespace0.0\n").unwrap();
        let named = root.path().join("bus/nd/devices/namespace0.0");
        fs::create_dir_all(&named).unwrap();
        let disk = region.join("pfn0.1/block/pmem0");
        let medium = Medium::in_directory(root.path(), &disk);
        assert_eq!(medium.namespace.as_deref(), Some("namespace0.0"));
        fs::write(named.join("alt_name"), "fast\n").unwrap();
        let medium = Medium::in_directory(root.path(), &disk);
        assert_eq!(medium.namespace.as_deref(), Some("namespace0.0 'fast'"));
        assert_eq!(medium.device.as_deref(), Some("pmem0"));
        assert_eq!(medium.is_persistent_memory, Some(true));
        assert_eq!(medium.region.as_deref(), Some("region0"));
        assert_eq!(medium.persistence_domain.as_deref(), Some("memory_controller"));
    }
}
