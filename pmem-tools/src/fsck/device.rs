//! The data device of a pool that is checked: whether it is there and the pool's, by its headers.

use std::path::{Path, PathBuf};

use udax::{DamagedHeader, Error, Filesystem, Region};

use super::finding::Finding;

/// Where the device was found, and what is wrong with it. Its data is not looked at, and no other pool's is touched.
///
/// # Errors
/// A device is named, and the pool has none.
pub(super) fn check(
    region: &Region,
    named: Option<&Path>,
    repair: bool,
) -> udax::Result<(Option<PathBuf>, Vec<Finding>)> {
    match Filesystem::check_data_device(region, named, repair) {
        Ok(None) => Ok((None, Vec::new())),
        Ok(Some(found)) => {
            let shown = crate::name::shown(&found.path);
            let headers = found.damaged_headers.iter();
            let findings = headers.map(|header| of_header(&shown, header)).collect();
            Ok((Some(found.path), findings))
        }
        Err(Error::NotDevice { path, why }) => {
            let place = format!("data device {}", crate::name::shown(&path));
            let what = format!(
                "{why}; the pool cannot be mounted without it; if it is elsewhere, --data-device or a mount with \
                 data=PATH says where"
            );
            Ok((None, vec![Finding::of_device(place, what)]))
        }
        Err(error @ Error::Invalid(_)) => Err(error),
        // What is wrong with the pool itself is in the report.
        Err(_) => Ok((None, Vec::new())),
    }
}

fn of_header(device: &str, header: &DamagedHeader) -> Finding {
    let place = format!("data device {device}, byte {}", header.at);
    let what = format!("one of the device's two headers is damaged: {}", header.why);
    Finding::of_device(place, what).mended(header.is_mended.then(|| "it was written anew".to_owned()))
}
