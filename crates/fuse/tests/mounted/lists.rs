//! Access lists.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::place::Place;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner rw, user 1000 `user`, group nothing, mask `mask`, others nothing.
fn for_user(user: u16, mask: u16) -> Vec<u8> {
    list(&[
        (1, 6, NO_ID),
        (2, user, 1000),
        (4, 0, NO_ID),
        (16, mask, NO_ID),
        (32, 0, NO_ID),
    ])
}

fn mode(place: &Place, name: &str) -> u32 {
    fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777
}

fn read(place: &Place, name: &str, attribute: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1000];
    let length = rustix::fs::getxattr(place.path(name), attribute, &mut *value)?;
    value.truncate(length);
    Ok(value)
}

#[test]
fn a_list_lets_a_named_user_in_and_shows_in_the_bits() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"x").unwrap();
    fs::set_permissions(place.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!place.as_user("cat f"));
    rustix::fs::setxattr(place.path("f"), ACCESS, &for_user(4, 6), XattrFlags::empty()).unwrap();
    assert!(place.as_user("cat f"));
    assert!(!place.as_user("echo y >> f"));
    assert!(!place.as_ids((1001, 1001), "cat f"));
    assert_eq!(mode(&place, "f"), 0o660);
    let place = place.remount("");
    assert_eq!(read(&place, "f", ACCESS), Ok(for_user(4, 6)));
    assert!(place.as_user("cat f"));
    // chmod changes the mask, and the list follows.
    fs::set_permissions(place.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&place, "f", ACCESS), Ok(for_user(4, 0)));
    assert!(!place.as_user("cat f"));
    rustix::fs::removexattr(place.path("f"), ACCESS).unwrap();
    assert_eq!(read(&place, "f", ACCESS), Err(Errno::NODATA));
}

#[test]
fn a_list_that_is_no_more_than_bits_is_bits() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    rustix::fs::setxattr(place.path("f"), ACCESS, &for_user(4, 6), XattrFlags::empty()).unwrap();
    let minimal = list(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 0, NO_ID)]);
    rustix::fs::setxattr(place.path("f"), ACCESS, &minimal, XattrFlags::empty()).unwrap();
    assert_eq!(mode(&place, "f"), 0o640);
    assert_eq!(read(&place, "f", ACCESS), Err(Errno::NODATA));
    assert!(place.filesystem().list_xattrs("/f").unwrap().is_empty());
}

#[test]
fn new_inodes_take_the_default_list_in_place_of_the_umask() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    chown(place.path("d"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(place.path("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    let default = list(&[
        (1, 7, NO_ID),
        (2, 6, 1001),
        (4, 5, NO_ID),
        (16, 7, NO_ID),
        (32, 1, NO_ID),
    ]);
    rustix::fs::setxattr(place.path("d"), DEFAULT, &default, XattrFlags::empty()).unwrap();
    assert!(place.as_user("umask 077; echo x > d/f; mkdir d/e; mkfifo d/p; ln -s f d/l"));
    assert_eq!(mode(&place, "d/f"), 0o660);
    let expected = list(&[
        (1, 6, NO_ID),
        (2, 6, 1001),
        (4, 5, NO_ID),
        (16, 6, NO_ID),
        (32, 0, NO_ID),
    ]);
    assert_eq!(read(&place, "d/f", ACCESS), Ok(expected.clone()));
    assert_eq!(read(&place, "d/p", ACCESS), Ok(expected));
    assert_eq!(read(&place, "d/f", DEFAULT), Err(Errno::NODATA));
    // A directory hands it on, and its own list is not narrower than asked for.
    assert_eq!(read(&place, "d/e", DEFAULT), Ok(default.clone()));
    assert_eq!(read(&place, "d/e", ACCESS), Ok(default));
    assert_eq!(mode(&place, "d/e"), 0o2771);
    assert!(place.as_ids((1001, 1001), "cat d/f && echo y >> d/f"));
    assert!(!place.as_ids((1002, 1002), "cat d/f"));
}

#[test]
fn what_is_no_list_is_refused() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    let set =
        |name: &str, bytes: &[u8]| rustix::fs::setxattr(place.path("f"), name, bytes, XattrFlags::empty());
    assert_eq!(set(ACCESS, b"nonsense"), Err(Errno::OPNOTSUPP));
    let without_mask = list(&[(1, 7, NO_ID), (2, 7, 5), (4, 7, NO_ID), (32, 0, NO_ID)]);
    assert_eq!(set(ACCESS, &without_mask), Err(Errno::INVAL));
    assert_eq!(set(DEFAULT, &for_user(4, 6)), Err(Errno::ACCESS));
    assert!(place.filesystem().list_xattrs("/f").unwrap().is_empty());
}

#[test]
fn a_list_that_is_not_there_is_removed_without_an_error_and_flags_that_contradict_change_nothing() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    for list in [ACCESS, DEFAULT] {
        rustix::fs::removexattr(place.path("d"), list).unwrap();
    }
    assert_eq!(
        rustix::fs::removexattr(place.path("d"), "user.none"),
        Err(Errno::NODATA)
    );
    let both = XattrFlags::CREATE | XattrFlags::REPLACE;
    let set = |flags| rustix::fs::setxattr(place.path("d"), "user.a", b"x", flags);
    assert_eq!(set(both), Err(Errno::NODATA));
    set(XattrFlags::CREATE).unwrap();
    assert_eq!(set(both), Err(Errno::EXIST));
}
