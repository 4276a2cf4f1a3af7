//! What users do with the files of a pool: put, get, ls, tree, cat, stat, mkdir, rm, mv, df, grow.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod odd_tree;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use command::Place;

/// `pool:/path`.
fn in_pool(path: &str) -> String {
    format!("pool:{path}")
}

#[test]
fn everything_odd_survives_put_and_get() {
    let place = Place::with_pool("128M");
    odd_tree::make(&place.path("from"));
    place.run(["put", "from", "pool:/"]).success();
    place.run(["fsck", "-n", "pool"]).success();
    place.run(["get", "pool:/from", "to"]).success();
    odd_tree::assert_access_times(&place.path("to"));
    odd_tree::assert_same(
        &odd_tree::snapshot(&place.path("from")),
        &odd_tree::snapshot(&place.path("to")),
    );
}

#[test]
fn a_second_put_replaces_what_is_there() {
    let place = Place::with_pool("128M");
    odd_tree::make(&place.path("from"));
    place.run(["put", "from", "pool:/"]).success();
    place.run(["put", "-j", "1", "from", "pool:/"]).success();
    place.run(["fsck", "-n", "pool"]).success();
    place.run(["get", "-j", "1", "pool:/from", "to"]).success();
    odd_tree::assert_same(
        &odd_tree::snapshot(&place.path("from")),
        &odd_tree::snapshot(&place.path("to")),
    );
}

#[test]
fn sources_land_as_with_cp() {
    let place = Place::with_pool("16M");
    fs::create_dir_all(place.path("a/b")).unwrap();
    fs::write(place.path("a/b/file"), "content").unwrap();
    fs::write(place.path("other"), "other").unwrap();
    let ls = |path: &str| place.run(["ls", &in_pool(path)]).success();

    place.run(["mkdir", "pool:/here"]).success();
    place.run(["put", "a", "other", "pool:/here"]).success();
    assert_eq!(ls("/here"), "a\nother\n");
    place.run(["put", "a/.", "pool:/here"]).success();
    assert_eq!(ls("/here"), "a\nb\nother\n");
    place.run(["put", "other", "pool:/renamed"]).success();
    assert_eq!(place.run(["cat", "pool:/renamed"]).success(), "other");
    place.run(["put", "a", "pool:/new"]).success();
    assert_eq!(ls("/new/b"), "file\n");
    place
        .run(["put", "a", "other", "pool:/missing"])
        .fails_with(&["pool:/missing", "udax mkdir"]);

    fs::create_dir(place.path("to")).unwrap();
    place.run(["get", "pool:/here", "to"]).success();
    assert_eq!(
        fs::read_to_string(place.path("to/here/b/file")).unwrap(),
        "content"
    );
    place.run(["get", "pool:/", "all"]).success();
    assert_eq!(fs::read_to_string(place.path("all/renamed")).unwrap(), "other");
    place.run(["get", "pool:/renamed", "to/file"]).success();
    assert_eq!(fs::read_to_string(place.path("to/file")).unwrap(), "other");
}

#[test]
fn what_can_be_read_is_copied_whatever_size_a_file_tells() {
    let place = Place::with_pool("16M");
    for (source, name) in [
        ("/proc/version", "version"),
        ("/sys/kernel/uevent_seqnum", "uevent_seqnum"),
    ] {
        let Ok(content) = fs::read_to_string(source) else {
            continue;
        };
        place.run(["put", source, "pool:/"]).success();
        let copied = place.run(["cat", &in_pool(&format!("/{name}"))]).success();
        assert_eq!(copied.len(), content.len(), "{source}");
    }
}

#[test]
fn a_failure_is_named_and_the_others_are_copied() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("from")).unwrap();
    fs::write(place.path("from/good"), "good").unwrap();
    let ran = place.run(["put", "from/good", "from/missing", "pool:/"]);
    ran.status(1);
    assert!(ran.stderr().contains("from/missing"), "{}", ran.stderr());
    assert_eq!(place.run(["cat", "pool:/good"]).success(), "good");

    place.run(["mkdir", "pool:/d"]).success();
    fs::write(place.path("d"), "a file").unwrap();
    let ran = place.run(["get", "pool:/", "."]);
    ran.status(1);
    assert!(
        ran.stderr().contains("a file is where a directory must be"),
        "{}",
        ran.stderr()
    );
    assert_eq!(fs::read_to_string(place.path("good")).unwrap(), "good");
}

#[test]
fn a_full_pool_fails_file_by_file_and_stays_sound() {
    let place = Place::with_pool("16M");
    fs::write(place.path("too large"), vec![1; 32 << 20]).unwrap();
    fs::write(place.path("zz small"), "small").unwrap();
    let ran = place.run(["put", "too large", "zz small", "pool:/"]);
    ran.status(1);
    assert!(ran.stderr().contains("udax grow"), "{}", ran.stderr());
    assert_eq!(place.run(["ls", "pool:/"]).success(), "zz small\n");
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn the_pool_is_not_copied_into_itself_nor_overwritten() {
    let place = Place::with_pool("16M");
    let ran = place.run(["put", ".", "pool:/"]);
    ran.status(1);
    assert!(
        ran.stderr().contains("this is the pool itself"),
        "{}",
        ran.stderr()
    );
    fs::write(place.path("file"), "content").unwrap();
    place.run(["put", "file", "pool:/pool"]).success();
    place
        .run(["get", "pool:/pool", "pool"])
        .fails_with(&["is the pool itself"]);
    let ran = place.run(["get", "pool:/pool", "."]);
    ran.status(1);
    assert!(
        ran.stderr().contains("this is the pool itself"),
        "{}",
        ran.stderr()
    );
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn put_and_get_tell_what_they_did_in_json() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("from")).unwrap();
    fs::write(place.path("from/a"), "12345").unwrap();
    symlink("a", place.path("from/link")).unwrap();
    let json = place.run(["put", "--json", "from", "nothing", "pool:/"]).json();
    assert_eq!(json["files"], 1);
    assert_eq!(json["directories"], 1);
    assert_eq!(json["links"], 1);
    assert_eq!(json["bytes"], 5);
    assert_eq!(json["failed"], 1);
    assert_eq!(json["failures"][0]["path"], "nothing");
    assert_eq!(
        place.run(["get", "--json", "pool:/from", "to"]).json()["bytes"],
        5
    );
}

#[test]
fn ls_shows_names_and_with_l_everything() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d/file"), vec![0; 1234]).unwrap();
    fs::write(place.path("d/.hidden"), "").unwrap();
    symlink("file", place.path("d/link")).unwrap();
    fs::set_permissions(
        place.path("d/file"),
        std::os::unix::fs::PermissionsExt::from_mode(0o4751),
    )
    .unwrap();
    place.run(["put", "d", "pool:/"]).success();

    assert_eq!(place.run(["ls", "pool:/d"]).success(), "file\nlink\n");
    assert_eq!(
        place.run(["ls", "-a", "pool:/d"]).success(),
        ".\n..\n.hidden\nfile\nlink\n"
    );
    let long = place.run(["ls", "-l", "pool:/d"]).success();
    assert!(long.contains("-rwsr-x--x   1 "), "{long}");
    assert!(long.contains(" 1234 "), "{long}");
    assert!(long.contains(" link -> file\n"), "{long}");
    assert_eq!(place.run(["ls", "pool:/d/file"]).success(), "/d/file\n");

    let json = place.run(["ls", "--json", "pool:/d"]).json();
    assert_eq!(json[0]["name"], "file");
    assert_eq!(json[0]["mode"], "4751");
    assert_eq!(json[0]["size"], 1234);
    assert_eq!(json[1]["kind"], "symbolic link");
    assert_eq!(json[1]["target"]["name"], "file");
}

#[test]
fn names_that_are_not_text_come_out_as_they_are() {
    let place = Place::with_pool("16M");
    let name = OsStr::from_bytes(b"a\xff\nb");
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d").join(name), "odd").unwrap();
    place.run(["put", "d", "pool:/"]).success();
    let mut path = OsString::from("pool:/d/");
    path.push(name);
    assert_eq!(place.run([OsStr::new("cat"), &path]).success(), "odd");
    let listed = place.command().args(["ls", "pool:/d"]).output().unwrap();
    assert_eq!(
        OsString::from_vec(listed.stdout),
        OsStr::from_bytes(b"a\xff\nb\n")
    );
    let json = place.run(["ls", "--json", "pool:/d"]).json();
    assert_eq!(json[0]["name_hex"], "61ff0a62");
}

#[test]
fn tree_shows_all_levels() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "-p", "pool:/a/b/c", "pool:/a/d"]).success();
    assert_eq!(
        place.run(["tree", "pool:/a"]).success(),
        "pool:/a\n├── b\n│   └── c\n└── d\n"
    );
    let json = place.run(["tree", "--json", "pool:/a"]).json();
    let names: Vec<&str> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["/a", "/a/b", "/a/b/c", "/a/d"]);
}

#[test]
fn stat_tells_everything() {
    let place = Place::with_pool("16M");
    odd_tree::make(&place.path("t"));
    place.run(["put", "t", "pool:/"]).success();
    let json = place.run(["stat", "--json", "pool:/t/times/past 2038"]).json();
    assert_eq!(json["mtime"], "2128-06-11 08:53:20.999999999 UTC");
    assert_eq!(json["atime"], "2128-06-11 08:53:21.999999999 UTC");
    let json = place.run(["stat", "--json", "pool:/t/times/before 1970"]).json();
    assert_eq!(json["mtime"], "1965-03-31 21:20:00.000000001 UTC");
    assert_eq!(place.run(["stat", "--json", "pool:/t/third"]).json()["nlink"], 3);
    let text = place.run(["stat", "pool:/t/links/dangling"]).success();
    assert!(
        text.contains("symbolic link") && text.contains("nowhere/at all"),
        "{text}"
    );
    let sparse = place.run(["stat", "--json", "pool:/t/sparse"]).json();
    assert_eq!(sparse["size"], 16 << 20);
    assert!(sparse["blocks"].as_u64().unwrap() <= 16, "{sparse}");
    let host = fs::metadata(place.path("t/modes/4755")).unwrap();
    let json = place.run(["stat", "--json", "pool:/t/modes/4755"]).json();
    assert_eq!(json["uid"], host.uid());
    assert_eq!(json["gid"], host.gid());
}

#[test]
fn mkdir_mv_and_rm() {
    let place = Place::with_pool("16M");
    place
        .run(["mkdir", "pool:/a/b"])
        .fails_with(&["pool:/a/b", "no such file or directory"]);
    place.run(["mkdir", "-p", "pool:/a/b", "pool:/c"]).success();
    place.run(["mkdir", "-p", "pool:/a/b"]).success();
    place
        .run(["mkdir", "pool:/a"])
        .fails_with(&["pool:/a", "file exists"]);
    fs::write(place.path("file"), "1").unwrap();
    place.run(["put", "file", "pool:/"]).success();
    place
        .run(["mkdir", "-p", "pool:/file/x"])
        .fails_with(&["pool:/file"]);

    place.run(["mv", "pool:/file", "pool:/c"]).success();
    assert_eq!(place.run(["ls", "pool:/c"]).success(), "file\n");
    place.run(["mv", "pool:/c/file", "pool:/c/new"]).success();
    assert_eq!(place.run(["ls", "pool:/c"]).success(), "new\n");
    place.run(["put", "file", "pool:/c/other"]).success();
    place
        .run(["mv", "-n", "pool:/c/new", "pool:/c/other"])
        .fails_with(&["pool:/c/new", "file exists"]);
    place
        .run(["mv", "pool:/a", "pool:/a/b"])
        .fails_with(&["pool:/a", "invalid argument"]);
    place
        .run(["mv", "pool:/a", "elsewhere:/a"])
        .fails_with(&["another pool"]);

    place
        .run(["rm", "pool:/c"])
        .fails_with(&["pool:/c", "is a directory", "-r"]);
    place.run(["rm", "-r", "pool:/a", "pool:/c"]).success();
    place
        .run(["rm", "pool:/a"])
        .fails_with(&["pool:/a", "no such file or directory"]);
    place.run(["rm", "-f", "pool:/a"]).success();
    place.run(["rm", "-r", "pool:/"]).fails_with(&["root directory"]);
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn rm_does_not_follow_links() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("kept")).unwrap();
    fs::write(place.path("kept/file"), "1").unwrap();
    symlink("kept", place.path("link")).unwrap();
    place.run(["put", "kept", "link", "pool:/"]).success();
    place.run(["rm", "-r", "pool:/link"]).success();
    assert_eq!(place.run(["cat", "pool:/kept/file"]).success(), "1");
}

#[test]
fn df_and_grow_agree() {
    let place = Place::with_pool("16M");
    let before = place.run(["df", "--json", "pool"]).json();
    assert_eq!(before[0]["total_bytes"], 16 << 20);
    assert!(place.run(["df", "pool"]).success().contains("16 MiB"));
    assert_eq!(place.run(["grow", "pool", "64M"]).success(), "pool: now 64 MiB\n");
    let after = place.run(["df", "--json", "pool"]).json();
    assert_eq!(after[0]["total_bytes"], 64 << 20);
    assert!(after[0]["available_bytes"].as_u64() > before[0]["available_bytes"].as_u64());
    place.run(["fsck", "-n", "pool"]).success();
    place
        .run(["grow", "pool", "32M"])
        .fails_with(&["pool", "cannot grow"]);
}

#[test]
fn paths_that_do_not_exist_are_named() {
    let place = Place::with_pool("16M");
    for arguments in [
        ["ls", "pool:/no"].as_slice(),
        &["tree", "pool:/no"],
        &["cat", "pool:/no"],
        &["stat", "pool:/no"],
        &["mv", "pool:/no", "pool:/new"],
    ] {
        place
            .run(arguments)
            .fails_with(&["pool:/no", "no such file or directory"]);
    }
    let ran = place.run(["get", "pool:/no", "to"]);
    ran.status(1);
    assert!(
        ran.stderr().contains("/no: no such file or directory"),
        "{}",
        ran.stderr()
    );
    place
        .run(["cat", "pool:/"])
        .fails_with(&["pool:/", "is a directory"]);
    for arguments in [
        ["ls", "missing:/"].as_slice(),
        &["info", "missing"],
        &["put", ".", "missing:/"],
        &["grow", "missing", "1G"],
    ] {
        place.run(arguments).fails_with(&["missing", "udax mkfs"]);
    }
}

#[test]
fn a_pool_whose_name_has_colons_works() {
    let place = Place::new();
    place.run(["mkfs", "--size", "16M", "a:b:c"]).success();
    place.run(["mkdir", "a:b:c:/d"]).success();
    assert!(place.run(["ls", "a:b:c"]).success().contains("d\n"));
}

#[test]
fn what_cannot_be_copied_whole_leaves_the_old_file() {
    let place = Place::with_pool("16M");
    fs::write(place.path("small"), vec![1; 100_000]).unwrap();
    fs::write(place.path("large"), vec![2; 40 << 20]).unwrap();
    place.run(["put", "small", "pool:/f"]).success();
    place
        .run(["put", "large", "pool:/f"])
        .fails_with(&["no space left"]);
    assert_eq!(place.run(["ls", "pool:/"]).success().trim(), "f");
    place.run(["get", "pool:/f", "back"]).success();
    assert_eq!(fs::read(place.path("back")).unwrap(), vec![1; 100_000]);
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn get_replaces_files_but_no_links_fifos_and_devices() {
    let place = Place::with_pool("16M");
    fs::write(place.path("f"), "content").unwrap();
    fs::write(place.path("precious"), "precious").unwrap();
    place.run(["put", "f", "pool:/f"]).success();
    std::os::unix::fs::symlink("precious", place.path("link")).unwrap();
    let fifo = place.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // A hard link is no exception, nor are links and nodes that come.
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d/a"), "two names").unwrap();
    fs::hard_link(place.path("d/a"), place.path("d/fifo")).unwrap();
    std::os::unix::fs::symlink("elsewhere", place.path("d/l")).unwrap();
    place.run(["put", "d/.", "pool:/"]).success();
    place.run(["put", "d/l", "pool:/"]).success();
    place
        .run(["get", "pool:/f", "link"])
        .fails_with(&["link: a symbolic link"]);
    for source in ["pool:/f", "pool:/l"] {
        place
            .run(["get", source, "fifo"])
            .fails_with(&["udax: fifo: a fifo"]);
    }
    place
        .run(["get", "pool:/fifo", "link"])
        .fails_with(&["link: a symbolic link"]);
    assert_eq!(fs::read_link(place.path("link")).unwrap(), Path::new("precious"));
    assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "precious");
    assert!(!fs::symlink_metadata(&fifo).unwrap().is_file());
    place.run(["get", "pool:/f", "precious"]).success();
    assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "content");
}

#[test]
fn commands_go_on_after_an_argument_that_fails() {
    let place = Place::with_pool("16M");
    fs::write(place.path("f"), "content").unwrap();
    place.run(["put", "f", "pool:/f"]).success();
    place
        .run(["mkdir", "pool:/no/x", "pool:/made"])
        .fails_with(&["pool:/no/x"]);
    assert_eq!(place.run(["ls", "pool:/"]).success(), "f\nmade\n");
    let cat = place.run(["cat", "pool:/no", "pool:/f"]);
    cat.fails_with(&["pool:/no"]);
    assert_eq!(cat.stdout(), "content");
    let df = place.run(["df", "--json", "missing", "pool"]);
    df.fails_with(&["missing"]);
    assert_eq!(df.json()[0]["pool"], "pool");
    place.run(["rm", "pool:/no", "pool:/f"]).fails_with(&["pool:/no"]);
    assert_eq!(place.run(["ls", "pool:/"]).success(), "made\n");
}

#[test]
fn mkdir_says_that_a_file_is_no_directory() {
    let place = Place::with_pool("16M");
    fs::write(place.path("b"), "").unwrap();
    place.run(["put", "b", "pool:/"]).success();
    for path in ["pool:/b/y", "pool:/b"] {
        place
            .run(["mkdir", "-p", path])
            .fails_with(&["pool:/b", "not a directory"]);
    }
}

#[test]
fn put_refuses_standard_input() {
    let place = Place::with_pool("16M");
    place.run(["put", "-", "pool:/x"]).fails_with(&["standard input"]);
}

#[test]
fn a_full_standard_output_is_named() {
    let place = Place::with_pool("16M");
    fs::write(place.path("f"), "content").unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = place.command();
    let ran = command
        .args(["put", "f", "pool:/"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(stderr.contains("standard output"), "{stderr}");
}

#[test]
fn get_replaces_what_is_of_the_same_kind() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("d")).unwrap();
    symlink("new", place.path("d/link")).unwrap();
    let make_fifo = |name: &str| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.path(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
    };
    make_fifo("d/fifo");
    // A link may take the place of a file, as with cp -a.
    symlink("new", place.path("d/was a file")).unwrap();
    place.run(["put", "d", "pool:/"]).success();
    fs::create_dir(place.path("to")).unwrap();
    symlink("old", place.path("to/link")).unwrap();
    make_fifo("to/fifo");
    fs::write(place.path("to/was a file"), "old").unwrap();
    place.run(["get", "pool:/d/.", "to"]).success();
    for link in ["to/link", "to/was a file"] {
        assert_eq!(fs::read_link(place.path(link)).unwrap(), Path::new("new"));
    }
    odd_tree::assert_same(
        &odd_tree::snapshot(&place.path("d")),
        &odd_tree::snapshot(&place.path("to")),
    );
}

#[test]
fn another_name_of_what_was_not_copied_is_not_made() {
    let place = Place::with_pool("16M");
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d/first"), "content").unwrap();
    fs::hard_link(place.path("d/first"), place.path("d/second")).unwrap();
    place.run(["put", "d", "pool:/"]).success();
    fs::create_dir(place.path("to")).unwrap();
    symlink("precious", place.path("to/first")).unwrap();
    let ran = place.run(["get", "pool:/d/.", "to"]);
    ran.status(1);
    let stderr = ran.stderr();
    assert!(stderr.contains("to/first: a symbolic link"), "{stderr}");
    assert!(stderr.contains("second: another name"), "{stderr}");
    assert!(fs::symlink_metadata(place.path("to/second")).is_err());
}

#[test]
fn a_missing_destination_is_named_and_not_the_source() {
    let place = Place::with_pool("16M");
    fs::write(place.path("f"), "content").unwrap();
    symlink("f", place.path("l")).unwrap();
    fs::create_dir(place.path("d")).unwrap();
    place.run(["put", "f", "l", "d", "pool:/"]).success();
    for name in ["f", "l", "d"] {
        place
            .run(["put", name, "pool:/no/x"])
            .fails_with(&["udax: pool:/no/x: cannot create: its directory does not exist"]);
        place
            .run(["get", &in_pool(&format!("/{name}")), "no/x"])
            .fails_with(&["udax: no/x: cannot create: its directory does not exist"]);
        place
            .run(["mv", &in_pool(&format!("/{name}")), "pool:/no/x"])
            .fails_with(&[
                "udax: pool:/no/x: cannot be the new name of pool:/",
                "its directory does not exist",
            ]);
    }
    place
        .run(["mv", "pool:/f/x", "pool:/y"])
        .fails_with(&["udax: pool:/f/x: cannot rename"]);
    place
        .run(["mv", "pool:/d", "pool:/f"])
        .fails_with(&["udax: pool:/f: cannot be the new name of pool:/d"]);
    place
        .run(["get", "pool:/no", "x"])
        .fails_with(&["udax: pool:/no: no such file"]);
}

/// Runs `udax` with `arguments` and sends `signal` once it has read some of the data; whether that came too late.
fn interrupt(place: &Place, arguments: &[&str], signal: rustix::process::Signal) -> bool {
    let mut child = place.command();
    let child = child.args(arguments).stdout(std::process::Stdio::null());
    let mut child = child.spawn().unwrap();
    let has_begun = |id: u32| {
        let counts = fs::read_to_string(format!("/proc/{id}/io")).unwrap_or_default();
        let moved = counts.lines().take(2).filter_map(|line| line.split(' ').nth(1));
        moved.filter_map(|bytes| bytes.parse::<u64>().ok()).sum::<u64>() > 4 << 20
    };
    while !has_begun(child.id()) && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
    child.wait().unwrap().success()
}

#[test]
fn a_new_file_has_its_name_only_when_it_is_whole() {
    const TRIES: usize = 50;
    let place = Place::with_pool("256M");
    fs::write(place.path("large"), vec![1; 64 << 20]).unwrap();
    let was_interrupted = |put: &dyn Fn() -> bool| (0..TRIES).any(|_| !put());
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        assert!(was_interrupted(&|| {
            let is_late = interrupt(&place, &["put", "large", "pool:/large"], signal);
            let listed = place.run(["ls", "-a", "pool:/"]).success();
            place.run(["rm", "-f", "pool:/large"]).success();
            assert!(listed == ".\n..\n" || is_late, "{listed}");
            is_late
        }));
        place.run(["fsck", "-n", "pool"]).success();
    }
    place.run(["put", "large", "pool:/large"]).success();
    fs::create_dir(place.path("to")).unwrap();
    assert!(was_interrupted(&|| {
        let get = ["get", "pool:/large", "to/large"];
        let is_late = interrupt(&place, &get, rustix::process::Signal::TERM);
        let left = fs::read_dir(place.path("to")).unwrap().count();
        assert_eq!(left, usize::from(is_late));
        let _ = fs::remove_file(place.path("to/large"));
        is_late
    }));
}
