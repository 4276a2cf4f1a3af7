//! Commits, checkpoints, growth and what gives space back, at once.

use nix::errno::Errno;
use udax::{Access, AllocateMode, Request, XattrMode};

use crate::arena::{
    BLOCK, NEW, POOL_BYTES, allow, assert_names_agree, at_once, content, explore, fill, filled, open,
};

#[test]
fn syncs_meet_stores_and_removals() {
    explore("sync", |fs| {
        let file = filled(fs, "/f", 3, 1);
        at_once(&[
            &|| {
                let pin = file.pin(0, 2 * BLOCK, Request::new(Access::Write)).unwrap();
                pin.write(0, &[2; 8192]).unwrap();
                file.sync().unwrap();
            },
            &|| {
                fs.unlink("/f").unwrap();
                drop(filled(fs, "/g", 2, 3));
            },
            &|| {
                fs.sync().unwrap();
                fs.sync().unwrap();
            },
        ]);
        assert!(content(&open(fs, "/g")) == [3; 8192]);
        assert!(content(&file)[..8192] == [2; 8192]);
    });
}

#[test]
fn growth_meets_allocations_of_what_is_not_there_yet() {
    explore("grow", |fs| {
        drop(open(fs, "/f"));
        fill(fs, 4);
        let full = [Errno::ENOSPC];
        at_once(&[
            &|| fs.grow(POOL_BYTES + (4 << 20)).unwrap(),
            &|| {
                let file = open(fs, "/f");
                allow(file.allocate(AllocateMode::Allocate, 0, 100 * BLOCK), &full);
            },
            &|| {
                if allow(fs.create_dir("/d", NEW), &full).is_some() {
                    allow(fs.open_file("/d/g", crate::arena::CREATE, NEW), &full);
                }
            },
        ]);
        assert_names_agree(fs);
        open(fs, "/f")
            .allocate(AllocateMode::Allocate, 0, 100 * BLOCK)
            .unwrap();
    });
}

#[test]
fn a_full_pool_is_searched_for_space_by_all_at_once() {
    explore("full", |fs| {
        let kept = filled(fs, "/kept", 8, 1);
        drop(filled(fs, "/gone", 8, 2));
        fill(fs, 2);
        let full = [Errno::ENOSPC];
        at_once(&[
            &|| {
                allow(kept.write_at(&[3; 6 * 4096], 8 * BLOCK), &full);
            },
            &|| fs.unlink("/gone").unwrap(),
            &|| {
                allow(
                    fs.set_xattr("/kept", b"user.a", &[4; 9000], XattrMode::Either),
                    &full,
                );
                allow(fs.create_dir("/d", NEW), &full);
            },
        ]);
        let bytes = content(&kept);
        let (before, after) = bytes.split_at(8 * 4096);
        assert!(before == [1; 8 * 4096] && after.iter().all(|byte| *byte == 3));
        assert_names_agree(fs);
    });
}

/// Who looks at an inode for the first time since the pool was opened may meet somebody who was faster, and changes it.
#[test]
fn first_looks_at_a_directory_meet_its_changes() {
    explore("first-looks", |fs| {
        let work = |path: &str| open(fs, path).append(&[1; 100]).map(drop).unwrap();
        at_once(&[&|| work("/a"), &|| work("/b"), &|| {
            assert!(fs.stat("/").unwrap().nlink == 2);
        }]);
        assert_names_agree(fs);
    });
}

#[test]
fn checkpoints_meet_commits_that_fill_the_lanes() {
    explore("checkpoints", |fs| {
        let work = |name: &str| {
            for number in 0..3 {
                let path = format!("/{name}{number}");
                let file = open(fs, &path);
                fs.set_xattr(&path, b"user.a", &[5; 3000], XattrMode::Either)
                    .unwrap();
                file.append(&[6; 4096]).unwrap();
                if number != 1 {
                    fs.unlink(&path).unwrap();
                }
            }
        };
        at_once(&[&|| work("a"), &|| work("b"), &|| {
            fs.sync().unwrap();
            fs.sync().unwrap();
            fs.sync().unwrap();
        }]);
        for path in ["/a1", "/b1"] {
            assert!(content(&open(fs, path)) == [6; 4096]);
            assert_eq!(fs.xattr(path, b"user.a").unwrap(), [5; 3000]);
        }
        assert_names_agree(fs);
    });
}
