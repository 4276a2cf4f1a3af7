//! What other users than root may do, and what changes take away: checked by the kernel with what we tell it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};

use rustix::fs::XattrFlags;

use crate::place::Place;

fn mode(place: &Place, name: &str) -> u32 {
    fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777
}

fn set_mode(place: &Place, name: &str, mode: u32) {
    fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory `d` of user 1000.
fn home(place: &Place) {
    fs::create_dir(place.path("d")).unwrap();
    chown(place.path("d"), Some(1000), Some(1000)).unwrap();
}

#[test]
fn permissions_hold_for_users() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("secret"), b"x").unwrap();
    set_mode(&place, "secret", 0o600);
    assert!(!place.as_user("cat secret"));
    assert!(!place.as_user("touch mine"));
    home(&place);
    assert!(place.as_user("echo mine > d/f && mkdir d/e && ln d/f d/g && mv d/g d/e/ && rm d/f"));
    let metadata = fs::metadata(place.path("d/e/g")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 1000));
    assert!(!place.as_ids((1001, 1001), "rm d/e/g"));
}

#[test]
fn only_the_mounter_sees_a_mount_of_its_own() {
    let Some(place) = Place::with_options("noallow_other", 32 << 20) else {
        return;
    };
    set_mode(&place, "", 0o777);
    fs::write(place.path("f"), b"").unwrap();
    // Not even its root can be a working directory, so the script names it from outside.
    assert!(!place.outside_as_user("ls mnt"));
    assert!(!place.outside_as_user("cat mnt/f"));
    assert!(place.outside_as_user("true"));
}

#[test]
fn the_sticky_bit_keeps_files_of_others() {
    let Some(place) = Place::new() else { return };
    set_mode(&place, "", 0o1777);
    assert!(place.as_user("touch f"));
    assert!(!place.as_ids((1001, 1001), "rm f"));
    assert!(!place.as_ids((1001, 1001), "mv f g"));
    assert!(place.as_user("mv f g && rm g"));
}

#[test]
fn the_umask_and_the_group_of_the_directory_shape_new_inodes() {
    let Some(place) = Place::new() else { return };
    home(&place);
    assert!(place.as_user("umask 027; touch d/f; mkdir d/e; mkfifo d/p"));
    assert_eq!(
        (mode(&place, "d/f"), mode(&place, "d/e"), mode(&place, "d/p")),
        (0o640, 0o750, 0o640)
    );
    chown(place.path("d"), None, Some(2000)).unwrap();
    set_mode(&place, "d", 0o2775);
    assert!(place.as_user("umask 022; touch d/g; mkdir d/h"));
    assert_eq!(fs::metadata(place.path("d/g")).unwrap().gid(), 2000);
    assert_eq!(mode(&place, "d/h"), 0o2755);
}

#[test]
fn a_write_takes_set_id_bits_and_capabilities_away() {
    let Some(place) = Place::new() else { return };
    home(&place);
    for change in [
        "echo x >> d/f",
        "truncate -s 5 d/f",
        "fallocate -l 9000 d/f",
        ": > d/f",
    ] {
        assert!(place.as_user("rm -f d/f; echo start > d/f; chmod 6755 d/f"));
        assert_eq!(mode(&place, "d/f"), 0o6755);
        let capability = b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        rustix::fs::setxattr(
            place.path("d/f"),
            "security.capability",
            capability,
            XattrFlags::empty(),
        )
        .unwrap();
        assert!(place.as_user(change));
        assert_eq!(mode(&place, "d/f"), 0o755, "{change}");
        let left = rustix::fs::getxattr(place.path("d/f"), "security.capability", &mut [0_u8; 64][..]);
        assert_eq!(left, Err(rustix::io::Errno::NODATA), "{change}");
    }
    // Root keeps them, as by other filesystems.
    set_mode(&place, "d/f", 0o6755);
    let file = File::options().write(true).open(place.path("d/f")).unwrap();
    file.write_all_at(b"root", 0).unwrap();
    assert_eq!(mode(&place, "d/f"), 0o6755);
    // But not for another owner.
    chown(place.path("d/f"), Some(1001), None).unwrap();
    assert_eq!(mode(&place, "d/f"), 0o755);
}

#[test]
fn who_is_not_of_the_group_cannot_set_its_bit() {
    let Some(place) = Place::new() else { return };
    home(&place);
    assert!(place.as_user("touch d/f"));
    chown(place.path("d/f"), None, Some(2000)).unwrap();
    assert!(place.as_user("chmod 2755 d/f"));
    assert_eq!(mode(&place, "d/f"), 0o755);
    assert!(!place.as_user("chown 1001 d/f"));
    assert!(!place.as_user("chgrp 2000 d"));
}
