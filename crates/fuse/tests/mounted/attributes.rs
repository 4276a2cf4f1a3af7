//! Attributes, times, file flags and extended attributes.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use crate::place::Place;

#[test]
fn times_are_kept_to_the_nanosecond_also_before_the_epoch() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    let cases = [
        (0, 0),
        (1, 999_999_999),
        (-1, 0),
        (-1, 250_000_000),
        (-100_000_000, 1),
        (4_294_967_296, 5),
        (20_000_000_000, 7),
        // The kernel takes the nanoseconds from the first and the last second that there is.
        (i64::MAX, 0),
        (i64::MIN, 0),
    ];
    for (tv_sec, tv_nsec) in cases {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, place.path("f"), &times, rustix::fs::AtFlags::empty()).unwrap();
        let place_again = fs::metadata(place.path("f")).unwrap();
        assert_eq!((place_again.mtime(), place_again.mtime_nsec()), (tv_sec, tv_nsec));
        assert_eq!((place_again.atime(), place_again.atime_nsec()), (tv_sec, tv_nsec));
    }
    let place = place.remount("");
    let after = fs::metadata(place.path("f")).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), cases[cases.len() - 1]);
    // Nor do nanoseconds before the first second end the mount.
    let time = Timespec {
        tv_sec: i64::MIN,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, place.path("f"), &times, rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(fs::metadata(place.path("f")).unwrap().mtime(), i64::MIN);
}

#[test]
fn one_time_is_set_without_the_other() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    let file = File::options().write(true).open(place.path("f")).unwrap();
    let old = UNIX_EPOCH + Duration::new(1000, 1);
    file.set_times(FileTimes::new().set_accessed(old).set_modified(old))
        .unwrap();
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: omit,
        last_modification: Timespec {
            tv_sec: 5,
            tv_nsec: 6,
        },
    };
    rustix::fs::futimens(&file, &times).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.atime(), metadata.atime_nsec()), (1000, 1));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (5, 6));
}

#[test]
fn what_changes_a_file_shows_in_its_times() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d/f"), b"x").unwrap();
    let old = UNIX_EPOCH + Duration::from_secs(1000);
    let file = File::options()
        .write(true)
        .read(true)
        .open(place.path("d/f"))
        .unwrap();
    let set = || {
        file.set_times(FileTimes::new().set_accessed(old).set_modified(old))
            .unwrap()
    };
    set();
    std::os::unix::fs::FileExt::write_all_at(&file, b"y", 0).unwrap();
    assert!(file.metadata().unwrap().mtime() > 1000);
    set();
    file.set_len(0).unwrap();
    assert!(file.metadata().unwrap().mtime() > 1000);
    let directory = File::open(place.path("d")).unwrap();
    directory.set_times(FileTimes::new().set_modified(old)).unwrap();
    fs::write(place.path("d/g"), b"").unwrap();
    assert!(directory.metadata().unwrap().mtime() > 1000);
    directory.set_times(FileTimes::new().set_modified(old)).unwrap();
    fs::remove_file(place.path("d/g")).unwrap();
    assert!(directory.metadata().unwrap().mtime() > 1000);
    let before = file.metadata().unwrap().ctime_nsec();
    std::thread::sleep(Duration::from_millis(20));
    fs::hard_link(place.path("d/f"), place.path("d/h")).unwrap();
    assert_ne!(file.metadata().unwrap().ctime_nsec(), before);
}

#[test]
fn sizes_and_blocks_are_those_of_the_pool() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![1; 10_000]).unwrap();
    let metadata = fs::metadata(place.path("f")).unwrap();
    assert_eq!(
        (metadata.len(), metadata.blocks(), metadata.blksize()),
        (10_000, 24, 4096)
    );
    let space = rustix::fs::statvfs(place.path("")).unwrap();
    let inside = place.filesystem().stat_filesystem();
    assert_eq!(space.f_blocks, inside.total_blocks);
    assert_eq!(space.f_bavail, inside.available_blocks);
    assert_eq!(space.f_namemax, 255);
    let root = fs::metadata(place.path("")).unwrap();
    assert_eq!(root.ino(), 1);
}

#[test]
fn owners_are_shown_and_set_as_the_map_says() {
    let Some(place) = Place::with_options("uidmap=0:0:1,uidmap=5000:1000:10,gidmap=0:0:1", 32 << 20) else {
        return;
    };
    fs::write(place.path("f"), b"").unwrap();
    chown(place.path("f"), Some(1003), None).unwrap();
    assert_eq!(fs::metadata(place.path("f")).unwrap().uid(), 1003);
    assert_eq!(place.filesystem().stat("/f").unwrap().uid, 5003);
    let error = chown(place.path("f"), Some(2000), None).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::OVERFLOW.raw_os_error())
    );
    let place = place.remount("");
    assert_eq!(fs::metadata(place.path("f")).unwrap().uid(), 5003);
}

#[test]
fn what_has_no_owner_on_a_mount_is_nobodys() {
    let Some(place) = Place::with_options("uidmap=0:0:1,gidmap=0:0:1", 32 << 20) else {
        return;
    };
    let filesystem = place.filesystem();
    let flags = udax::OpenFlags::WRITE | udax::OpenFlags::CREATE;
    let file = filesystem
        .open_file("f", flags, udax::NewInode::with_permissions(0o600))
        .unwrap();
    file.append(b"secret").unwrap();
    file.set_attributes(udax::SetAttributes {
        uid: Some(2000),
        gid: Some(2000),
        ..udax::SetAttributes::default()
    })
    .unwrap();
    assert_eq!(fs::metadata(place.path("f")).unwrap().uid(), 65534);
    // Who has the number that it is shown as is not its owner.
    for line in ["cat f", "chmod 666 f", "echo >>f"] {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(place.path(""))
            .uid(65534)
            .gid(65534);
        let output = shell.output().unwrap();
        assert!(!output.status.success(), "{line}: {output:?}");
    }
    assert!(fs::write(place.path("f"), b"by root").is_err());
}

#[test]
fn attributes_of_all_sizes_are_kept() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    let file = place.path("f");
    let large = vec![b'x'; 65_536];
    rustix::fs::setxattr(&file, "user.large", &large, XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(&file, "trusted.small", b"1", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&file, "user.empty", b"", XattrFlags::empty()).unwrap();
    let again = rustix::fs::setxattr(&file, "user.large", b"", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let missing = rustix::fs::setxattr(&file, "user.none", b"", XattrFlags::REPLACE);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA));
    let place = place.remount("");
    let file = place.path("f");
    let mut value = vec![0; 70_000];
    assert_eq!(rustix::fs::getxattr(&file, "user.large", &mut *value), Ok(65_536));
    assert!(value[..65_536].iter().all(|byte| *byte == b'x'));
    assert_eq!(rustix::fs::getxattr(&file, "user.empty", &mut *value), Ok(0));
    let short = rustix::fs::getxattr(&file, "user.large", &mut value[..100]);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let mut names = vec![0; 1000];
    let length = rustix::fs::listxattr(&file, &mut *names).unwrap();
    assert_eq!(length, "user.large\0trusted.small\0user.empty\0".len());
    rustix::fs::removexattr(&file, "user.large").unwrap();
    let gone = rustix::fs::getxattr(&file, "user.large", &mut *value);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
    // Those are root's: a thread of another user does not see them.
    let unprivileged = std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(1000);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut names = vec![0; 1000];
        let length = rustix::fs::listxattr(&file, &mut *names).unwrap();
        names.truncate(length);
        names
    });
    assert_eq!(unprivileged.join().unwrap(), b"user.empty\0");
}

#[test]
fn the_dax_flag_is_told_set_and_inherited() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"").unwrap();
    let file = File::open(place.path("f")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    assert_eq!(flags.bits(), 0);
    let dax = rustix::fs::IFlags::from_bits_retain(0x0200_0000);
    rustix::fs::ioctl_setflags(&file, dax).unwrap();
    assert_eq!(rustix::fs::ioctl_getflags(&file).unwrap(), dax);
    let immutable = rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::IMMUTABLE);
    assert_eq!(immutable, Err(rustix::io::Errno::OPNOTSUPP));
    let directory = File::open(place.path("")).unwrap();
    assert_eq!(rustix::fs::ioctl_getflags(&directory).unwrap().bits(), 0);
    rustix::fs::ioctl_setflags(&directory, dax).unwrap();
    fs::write(place.path("inside"), b"").unwrap();
    let inside = File::open(place.path("inside")).unwrap();
    assert_eq!(rustix::fs::ioctl_getflags(&inside).unwrap(), dax);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), b"content").unwrap();
    let place = place.remount("ro");
    assert_eq!(fs::read(place.path("f")).unwrap(), b"content");
    let refused = [
        fs::write(place.path("f"), b"").unwrap_err(),
        fs::remove_file(place.path("f")).unwrap_err(),
        fs::create_dir(place.path("d")).unwrap_err(),
        fs::set_permissions(place.path("f"), fs::Permissions::from_mode(0o600)).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn listing_a_directory_and_reading_a_link_renew_their_access_times() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    std::os::unix::fs::symlink("t", place.path("l")).unwrap();
    let old = Timestamps {
        last_access: Timespec {
            tv_sec: 1000,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    };
    let accessed = |place: &Place, name: &str| fs::symlink_metadata(place.path(name)).unwrap().atime();
    for name in ["d", "l"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, place.path(name), &old, flags).unwrap();
        assert_eq!(accessed(&place, name), 1000);
    }
    // What the kernel has in memory it does not ask for.
    let place = place.remount("nodiratime");
    assert_eq!(fs::read_dir(place.path("d")).unwrap().count(), 0);
    let place = place.remount("");
    assert_eq!(accessed(&place, "d"), 1000);
    assert_eq!(fs::read_dir(place.path("d")).unwrap().count(), 0);
    fs::read_link(place.path("l")).unwrap();
    let times = ["d", "l"].map(|name| accessed(&place, name));
    assert!(times.iter().all(|time| *time > 1000), "{times:?}");
    // The kernel forgets the inodes before it ends, and with them goes what is not written.
    let place = place.remount("noatime");
    assert_eq!(["d", "l"].map(|name| accessed(&place, name)), times);
}
