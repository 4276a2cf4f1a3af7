//! Names made, moved and removed at once; inodes and their numbers used again.

use nix::errno::Errno;
use udax::{OpenFlags, RenameMode};

use crate::arena::{
    CREATE, NEW, READ_WRITE, allow, assert_names_agree, at_once, content, explore, filled, open,
};

#[test]
fn names_of_one_directory_are_made_moved_and_removed() {
    explore("names", |fs| {
        drop(filled(fs, "/a", 1, 1));
        at_once(&[
            &|| {
                allow(fs.rename("/a", "/b", RenameMode::Replace), &[Errno::ENOENT]);
                allow(fs.unlink("/b"), &[Errno::ENOENT]);
            },
            &|| {
                let flags = CREATE | OpenFlags::EXCLUSIVE;
                allow(fs.open_file("/b", flags, NEW), &[Errno::EEXIST]);
                allow(fs.link("/b", "/c"), &[Errno::ENOENT, Errno::EEXIST]);
            },
            &|| {
                allow(fs.rename("/b", "/a", RenameMode::Exchange), &[Errno::ENOENT]);
                allow(fs.unlink("/a"), &[Errno::ENOENT]);
                fs.create_dir("/d", NEW).unwrap();
            },
        ]);
        assert_names_agree(fs);
    });
}

#[test]
fn directories_that_move_into_each_other_make_no_circle() {
    explore("directories", |fs| {
        for path in ["/a", "/b", "/a/x", "/b/y"] {
            fs.create_dir(path, NEW).unwrap();
        }
        let refused = [Errno::ENOENT, Errno::EINVAL, Errno::ENOTEMPTY, Errno::EEXIST];
        at_once(&[
            &|| {
                allow(fs.rename("/a", "/b/y/a", RenameMode::Replace), &refused);
            },
            &|| {
                allow(fs.rename("/b", "/a/x/b", RenameMode::Replace), &refused);
            },
            &|| {
                allow(fs.rename("/a/x", "/b/y", RenameMode::Exchange), &refused);
                allow(fs.remove_dir("/b/y"), &refused);
            },
        ]);
        assert_names_agree(fs);
    });
}

#[test]
fn a_number_used_again_is_another_file() {
    explore("numbers", |fs| {
        drop(filled(fs, "/a", 1, b'a'));
        at_once(&[
            &|| {
                if let Some(file) = allow(fs.open_file("/a", OpenFlags::READ, NEW), &[Errno::ENOENT]) {
                    let bytes = content(&file);
                    assert!(bytes == [b'a'; 4096], "another file's bytes");
                    let (first, second) = (file.stat().unwrap(), file.stat().unwrap());
                    assert_eq!(first.generation, second.generation);
                }
            },
            &|| {
                fs.unlink("/a").unwrap();
                let file = open(fs, "/x");
                file.write_at(&[b'x'; 5000], 0).unwrap();
                assert!(content(&file) == [b'x'; 5000]);
            },
            &|| {
                fs.create_dir("/y", NEW).unwrap();
                fs.remove_dir("/y").unwrap();
                drop(filled(fs, "/z", 1, b'z'));
            },
        ]);
        assert!(content(&open(fs, "/z")) == [b'z'; 4096]);
        assert_names_agree(fs);
    });
}

#[test]
fn the_last_close_meets_unlink_open_and_link() {
    explore("close", |fs| {
        let file = filled(fs, "/a", 3, 1);
        let free = fs.stat_filesystem().free_blocks;
        let file = udax_sync::Mutex::new(udax_sync::Rank::Leaf, Some(file));
        at_once(&[
            &|| {
                let taken = file.lock().take();
                drop(taken);
            },
            &|| fs.unlink("/a").unwrap(),
            &|| {
                if let Some(again) = allow(fs.open_file("/a", READ_WRITE, NEW), &[Errno::ENOENT]) {
                    assert!(content(&again) == [1; 3 * 4096]);
                    allow(fs.link_file(&again, "/b"), &[Errno::ENOENT]);
                }
            },
        ]);
        assert_names_agree(fs);
        allow(fs.unlink("/b"), &[Errno::ENOENT]);
        assert!(
            fs.stat_filesystem().free_blocks >= free + 3,
            "blocks of the file are not free"
        );
        assert_eq!(fs.stat_filesystem().inodes, 1);
    });
}
