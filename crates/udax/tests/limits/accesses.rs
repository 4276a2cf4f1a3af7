//! Access times of directories and links, which no handle's close writes.

use udax::{Filesystem, MountOptions, NewInode, OpenFlags, SetAttributes, SetTime, Timestamp};

use crate::pool::{MIB, TestPool};

const OLD: Timestamp = Timestamp {
    seconds: 1000,
    nanoseconds: 0,
};

fn accessed(fs: &Filesystem, path: &str) -> i64 {
    fs.stat_link(path).unwrap().atime.seconds
}

fn make_old(fs: &Filesystem, path: &str) {
    let set = SetAttributes {
        atime: Some(SetTime::To(OLD)),
        ..SetAttributes::default()
    };
    fs.set_attributes(path, set).unwrap();
}

#[test]
fn to_list_a_directory_and_to_read_a_link_renews_their_access_times_for_good() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    for way in ["path", "node", "handle"] {
        fs.create_dir(format!("dir-{way}"), NewInode::with_permissions(0o755))
            .unwrap();
        fs.symlink(
            b"target",
            format!("link-{way}"),
            NewInode::with_permissions(0o777),
        )
        .unwrap();
        make_old(&fs, &format!("dir-{way}"));
        make_old(&fs, &format!("link-{way}"));
    }
    let node = |path: &str| fs.node(fs.stat_link(path).unwrap().ino).unwrap();
    fs.read_dir("dir-path", 0, 10).unwrap();
    fs.read_link("link-path").unwrap();
    node("dir-node").read_dir(0, 10).unwrap();
    node("link-node").read_link().unwrap();
    let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
    let handle = fs
        .open_file("dir-handle", flags, NewInode::with_permissions(0))
        .unwrap();
    handle.read_dir(0, 10).unwrap();
    drop(handle);
    // To go through a link is not to read it.
    assert_eq!(accessed(&fs, "link-handle"), OLD.seconds);
    let renewed = ["dir-path", "link-path", "dir-node", "link-node", "dir-handle"];
    let now: Vec<i64> = renewed.iter().map(|path| accessed(&fs, path)).collect();
    assert!(now.iter().all(|time| *time > OLD.seconds), "{now:?}");
    // Renewed once a day, not with each listing.
    let renewed_at = fs.stat_link("dir-path").unwrap().atime;
    let hours_ago = |hours: i64| {
        Some(SetTime::To(Timestamp {
            seconds: renewed_at.seconds - hours * 3600,
            nanoseconds: 5,
        }))
    };
    for (accessed, is_renewed) in [(1, false), (25, true)] {
        let set = SetAttributes {
            atime: hours_ago(accessed),
            mtime: hours_ago(30),
            ..SetAttributes::default()
        };
        let before = fs.set_attributes("dir-handle", set).unwrap().atime;
        fs.read_dir("dir-handle", 0, 10).unwrap();
        let after = fs.stat_link("dir-handle").unwrap().atime;
        assert_eq!(after != before, is_renewed, "{accessed} hours ago");
    }
    let now: Vec<i64> = renewed.iter().map(|path| accessed(&fs, path)).collect();
    // Written without a sync or a close.
    let crashed = pool.crash_copy("crashed.pool");
    fs.close().unwrap();
    for path in [&crashed, &pool.path] {
        let options = MountOptions {
            no_atime: true,
            private: true,
            ..MountOptions::default()
        };
        let again = Filesystem::open(path, &options).unwrap();
        let then: Vec<i64> = renewed.iter().map(|path| accessed(&again, path)).collect();
        assert_eq!(then, now);
        // Whoever asks for none gets none.
        make_old(&again, "dir-path");
        again.read_dir("dir-path", 0, 10).unwrap();
        assert_eq!(accessed(&again, "dir-path"), OLD.seconds);
    }
}
