//! Names and what they lead to.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, renameat_with};

use crate::place::Place;

#[test]
fn files_come_and_go_and_keep_their_content() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("a"), b"content").unwrap();
    assert_eq!(fs::read(place.path("a")).unwrap(), b"content");
    fs::create_dir(place.path("d")).unwrap();
    fs::rename(place.path("a"), place.path("d/b")).unwrap();
    assert!(!place.path("a").exists());
    fs::hard_link(place.path("d/b"), place.path("c")).unwrap();
    assert_eq!(fs::metadata(place.path("c")).unwrap().nlink(), 2);
    fs::remove_file(place.path("d/b")).unwrap();
    assert_eq!(fs::metadata(place.path("c")).unwrap().nlink(), 1);
    fs::remove_dir(place.path("d")).unwrap();
    let place = place.remount("");
    assert_eq!(fs::read(place.path("c")).unwrap(), b"content");
}

#[test]
fn names_that_are_not_there_appear_and_disappear_again() {
    let Some(place) = Place::new() else { return };
    for _ in 0..20 {
        assert!(!place.path("x").exists());
        File::create_new(place.path("x")).unwrap();
        assert!(place.path("x").exists());
        fs::rename(place.path("x"), place.path("y")).unwrap();
        assert!(!place.path("x").exists() && place.path("y").exists());
        fs::remove_file(place.path("y")).unwrap();
        assert!(!place.path("y").exists());
    }
}

#[test]
fn links_lead_where_they_say_also_long_ones() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("file"), b"x").unwrap();
    symlink("file", place.path("short")).unwrap();
    let long = format!("{}file", "./".repeat(2000));
    symlink(&long, place.path("long")).unwrap();
    assert_eq!(fs::read(place.path("short")).unwrap(), b"x");
    assert_eq!(fs::read_link(place.path("long")).unwrap().to_str(), Some(&*long));
    assert_eq!(fs::symlink_metadata(place.path("long")).unwrap().len(), 4004);
}

#[test]
fn renames_with_flags_do_what_renameat2_says() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("a"), b"a").unwrap();
    fs::write(place.path("b"), b"b").unwrap();
    let rename = |flags| renameat_with(CWD, place.path("a"), CWD, place.path("b"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(place.path("a")).unwrap(), b"b");
    assert_eq!(rename(RenameFlags::WHITEOUT), Err(rustix::io::Errno::INVAL));
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(place.path("b")).unwrap(), b"b");
    assert!(!place.path("a").exists());
}

#[test]
fn special_files_are_what_they_were_made_as() {
    let Some(place) = Place::new() else { return };
    let device = rustix::fs::makedev(8, 77_777);
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("character", FileType::CharacterDevice, device),
        ("block", FileType::BlockDevice, device),
        ("file", FileType::RegularFile, 0),
    ];
    for (name, kind, device) in kinds {
        rustix::fs::mknodat(CWD, place.path(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
    }
    let place = place.remount("");
    let look = |name| fs::symlink_metadata(place.path(name)).unwrap();
    assert!(look("fifo").file_type().is_fifo());
    assert!(look("socket").file_type().is_socket());
    assert!(look("character").file_type().is_char_device());
    assert_eq!(look("block").rdev(), device);
    assert!(look("file").is_file());
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let Some(place) = Place::new() else { return };
    let before = place.filesystem().stat_filesystem();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(place.path("f"))
        .unwrap();
    let bytes = vec![7; 300_000];
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    fs::remove_file(place.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut back = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 0).unwrap();
    assert_eq!(back, bytes);
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    drop(file);
    // The kernel releases a file after close has returned.
    for _ in 0..1000 {
        if place.filesystem().stat_filesystem().inodes == before.inodes {
            return;
        }
        std::thread::yield_now();
        rustix::fs::sync();
    }
    panic!("the file is never freed");
}

#[test]
fn a_removed_directory_that_somebody_is_in_can_still_be_looked_at() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    let inside = rustix::fs::open(place.path("d"), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    fs::remove_dir(place.path("d")).unwrap();
    // Its number must not become another inode's meanwhile.
    for at in 0..50 {
        fs::write(place.path(format!("f{at}")), b"").unwrap();
    }
    let stat = rustix::fs::statat(&inside, "", rustix::fs::AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(stat.st_nlink, 0);
    assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    assert!(rustix::fs::openat(&inside, "x", rustix::fs::OFlags::CREATE, Mode::empty()).is_err());
}

#[test]
fn a_removed_working_directory_is_empty() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("d")).unwrap();
    let script = "cd d && rmdir ../d && test -z \"$(ls -a)\" && ! touch x && ! mkdir y && cd .. && ls";
    assert!(place.as_ids((0, 0), script));
}

/// As a server of NFS does. Two system calls that no safe function has, so by a program that has any.
const BY_HANDLE: &str = r#"
my ($mnt, $path) = @ARGV;
my $handle = pack("I i", 120, 0) . ("\0" x 120);
my $id = pack("i", 0);
syscall(303, -100, $path, $handle, $id, 0) == 0 or die "name_to_handle_at: $!";
open(my $root, "<", $mnt) or die;
sub forget { open(my $f, ">", "/proc/sys/vm/drop_caches") or die; print $f "2\n"; close($f); }
forget();
my $fd = syscall(304, fileno($root), $handle, 0);
die "open_by_handle_at: $!" if $fd < 0;
open(my $file, "<&=", $fd);
print <$file>;
close($file);
unlink $path;
forget();
for my $i (1 .. 40) { open(my $f, ">", "$mnt/later$i") or die; }
$fd = syscall(304, fileno($root), $handle, 0);
print $fd < 0 ? " then $!" : " then somebody else";
"#;

#[test]
fn a_handle_of_nfs_means_its_inode_and_no_later_one() {
    let Some(place) = Place::new() else { return };
    if !cfg!(target_arch = "x86_64") || std::process::Command::new("perl").arg("-v").output().is_err() {
        eprintln!("skipped: needs perl, and the numbers of system calls of x86-64");
        return;
    }
    fs::create_dir_all(place.path("a/b")).unwrap();
    fs::write(place.path("a/b/f"), b"content").unwrap();
    let output = std::process::Command::new("perl")
        .args(["-e", BY_HANDLE])
        .args([place.path(""), place.path("a/b/f")])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told, "content then Stale file handle", "{output:?}");
}

#[test]
fn a_large_directory_is_listed_completely_while_it_changes() {
    let Some(place) = Place::new() else { return };
    let count = 3000;
    for at in 0..count {
        File::create_new(place.path(format!("a-name-of-some-length-{at}"))).unwrap();
    }
    let list = || {
        let mut names: Vec<String> = fs::read_dir(place.path(""))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert!(entry.metadata().unwrap().is_file());
                entry.file_name().into_string().unwrap()
            })
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(list().len(), count);
    // The second time from the kernel's cache, which the changes must reach.
    assert_eq!(list().len(), count);
    fs::remove_file(place.path("a-name-of-some-length-7")).unwrap();
    File::create_new(place.path("new")).unwrap();
    let names = list();
    assert_eq!(names.len(), count);
    assert!(names.contains(&"new".to_owned()));
    let mut seen = 0;
    for entry in fs::read_dir(place.path("")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, count);
    assert_eq!(list().len(), 0);
}

#[test]
fn many_threads_make_and_remove_names() {
    let Some(place) = Place::new() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let place = &place;
            scope.spawn(move || {
                for round in 0..60 {
                    let own = place.path(format!("t{thread}"));
                    fs::create_dir(&own).unwrap();
                    let file = own.join("f");
                    fs::write(&file, vec![thread; 5000]).unwrap();
                    fs::rename(&file, place.path(format!("shared{}", round % 5))).unwrap();
                    fs::remove_dir(&own).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 5);
    for at in 0..5 {
        let content = fs::read(place.path(format!("shared{at}"))).unwrap();
        assert!(content.len() == 5000 && content.iter().all(|byte| *byte == content[0]));
    }
}
