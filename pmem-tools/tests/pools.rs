//! What administrators do with pools: mkfs, info, fsck, dump; and pools that are none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apart;
mod command;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use apart::run_apart;
use command::Place;
use udax::{Filesystem, MountOptions, NewInode};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// Flips a bit of each byte of the pool file from `at`.
fn damage(place: &Place, at: u64, length: usize) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.path("pool"))
        .unwrap();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
    file.write_all_at(&bytes, at).unwrap();
}

#[test]
fn mkfs_makes_what_info_shows() {
    let place = Place::new();
    let made = place
        .run([
            "mkfs", "--size", "32MiB", "--label", "my pool", "--uuid", UUID, "pool",
        ])
        .success();
    assert!(
        made.contains(UUID) && made.contains("my pool") && made.contains("32 MiB"),
        "{made}"
    );
    assert_eq!(fs::metadata(place.path("pool")).unwrap().len(), 32 << 20);
    let json = place.run(["info", "--json", "pool"]).json();
    assert_eq!(json["uuid"], UUID);
    assert_eq!(json["label"], "my pool");
    assert_eq!(json["bytes"], 32 << 20);
    assert_eq!(json["was_clean"], true);
    let text = place.run(["info", "pool"]).success();
    assert!(text.contains(UUID) && text.contains("closed cleanly"), "{text}");
}

#[test]
fn mkfs_takes_all_of_a_file_that_exists() {
    let place = Place::new();
    fs::File::create(place.path("pool"))
        .unwrap()
        .set_len(20 << 20)
        .unwrap();
    place.run(["mkfs", "pool"]).success();
    assert_eq!(place.run(["info", "--json", "pool"]).json()["bytes"], 20 << 20);
}

#[test]
fn mkfs_refuses_what_looks_like_data() {
    let place = Place::new();
    let mut bytes = vec![0; 16 << 20];
    bytes[..16].copy_from_slice(b"somebody's data!");
    fs::write(place.path("data"), &bytes).unwrap();
    let ran = place.run(["mkfs", "data"]);
    ran.fails_with(&["data", "--force"]);
    assert_eq!(fs::read(place.path("data")).unwrap(), bytes);
    place.run(["mkfs", "--force", "data"]).success();
    place.run(["fsck", "-n", "data"]).success();
}

#[test]
fn mkfs_makes_no_file_for_a_device_that_is_not_there() {
    let place = Place::new();
    let device = "/dev/dax99.99";
    for arguments in [vec!["mkfs", device], vec!["mkfs", "--size", "16M", device]] {
        place
            .run(arguments)
            .fails_with(&[device, "ndctl create-namespace"]);
        assert!(!std::path::Path::new(device).exists());
    }
}

#[test]
fn mkfs_refuses_a_pool() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "pool:/kept"]).success();
    place
        .run(["mkfs", "--size", "16M", "pool"])
        .fails_with(&["pool", "--force"]);
    assert!(place.run(["ls", "pool"]).success().contains("kept\n"));
    place.run(["mkfs", "--size", "16M", "--force", "pool"]).success();
    assert!(!place.run(["ls", "pool"]).success().contains("kept\n"));
}

#[test]
fn mkfs_explains_what_it_cannot_do() {
    let place = Place::new();
    place
        .run(["mkfs", "pool"])
        .fails_with(&["pool", "does not exist", "--size"]);
    place
        .run(["mkfs", "--size", "1M", "pool"])
        .fails_with(&["pool", "16 MiB"]);
    let long = "x".repeat(65);
    place
        .run(["mkfs", "--size", "16M", "--label", &long, "pool"])
        .fails_with(&["pool", "64 bytes"]);
    place
        .run(["mkfs", "--size", "16M", "no/such/place"])
        .fails_with(&["no/such/place"]);
    assert!(!place.path("pool").exists());
}

#[test]
fn fsck_of_a_sound_pool_is_clean() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "-p", "pool:/a/b"]).success();
    let before = fs::read(place.path("pool")).unwrap();
    assert!(place.run(["fsck", "pool"]).success().contains("clean"));
    let json = place.run(["fsck", "-n", "--json", "pool"]).json();
    assert_eq!(json["status"], 0);
    assert_eq!(json["problems"].as_array().unwrap().len(), 0);
    assert!(json["directories"].as_u64().unwrap() >= 3);
    assert_eq!(
        before,
        fs::read(place.path("pool")).unwrap(),
        "fsck -n changed the pool"
    );
    place.run(["fsck", "-y", "pool"]).success();
}

/// A pool of which the medium lost a page of `/file` and a free one while `/file` was there, as the library leaves it.
fn pool_with_bad_blocks(place: &Place) {
    let region = udax_pmem::Region::open(&place.path("pool"), udax_pmem::RegionOptions::default()).unwrap();
    region.poison(8 << 20, 4096).unwrap();
    let fs = udax::Filesystem::open_region(region, &udax::MountOptions::default()).unwrap();
    let new = udax::NewInode::with_permissions(0o600);
    let flags = udax::OpenFlags::CREATE | udax::OpenFlags::READ | udax::OpenFlags::WRITE;
    let file = fs.open_file("/file", flags, new).unwrap();
    while file.append(&[7; 1 << 18]).is_ok() {}
    drop(file);
    fs.unlink("/file").unwrap();
    fs.close().unwrap();
}

#[test]
fn fsck_tells_how_many_blocks_are_listed_as_bad_and_reads_all_blocks_when_asked() {
    let place = Place::with_pool("16M");
    pool_with_bad_blocks(&place);
    for arguments in [&["fsck", "pool"][..], &["fsck", "-y", "pool"]] {
        let told = place.run(arguments).success();
        assert!(told.contains("1 block is listed as bad"), "{told}");
    }
    let json = place.run(["fsck", "--json", "pool"]).json();
    assert_eq!(json["bad_bytes"], 4096);
    // The file itself has lost nothing.
    let told = place.run(["fsck", "--badblocks", "pool"]).status(4);
    assert!(told.contains("a block listed as bad can be read"), "{told}");
    let told = place.run(["fsck", "-c", "-y", "pool"]).status(1);
    assert!(told.contains("taken off the list of bad blocks"), "{told}");
    let json = place.run(["fsck", "--json", "--badblocks", "pool"]).json();
    assert_eq!(json["bad_bytes"], 0);
    assert_eq!(json["problems"].as_array().unwrap().len(), 0);
}

#[test]
fn scrub_tells_nothing_of_a_sound_pool_and_where_damage_is_of_another() {
    let place = Place::with_pool("16M");
    fs::write(place.path("file"), vec![7; 100_000]).unwrap();
    place.run(["put", "file", "pool:/"]).success();
    let before = fs::read(place.path("pool")).unwrap();
    let told = place.run(["scrub", "--rate", "1G", "pool"]).success();
    assert!(
        told.contains("nothing is wrong") && told.contains("2 inodes"),
        "{told}"
    );
    assert!(
        fs::read(place.path("pool")).unwrap() == before,
        "scrub changed the pool"
    );
    // The first one is the root directory; journal records come later.
    let mut inodes = before
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| *bytes == b"uINO");
    let (inode, _) = inodes.nth(1).unwrap();
    damage(&place, u64::try_from(inode).unwrap() + 100, 1);
    let told = place.run(["scrub", "pool"]).status(4);
    assert!(told.contains("1 finding;") && told.contains("fsck -y"), "{told}");
    let ran = place.run(["scrub", "--json", "pool"]);
    ran.status(4);
    let json = ran.json();
    assert_eq!(json["findings"].as_array().unwrap().len(), 1);
    assert_eq!(json["findings"][0]["place"], "inode 2");
    place
        .run(["scrub", "--rate", "0", "pool"])
        .fails_with(&["--rate"]);
}

#[test]
fn fsck_finds_damage_mends_it_and_is_clean_then() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "-p", "pool:/a/b"]).success();
    // The first superblock, whose copy is whole.
    damage(&place, 100, 8);
    let json = place.run(["fsck", "-n", "--json", "pool"]).json();
    assert_eq!(json["status"], 4, "{json}");
    assert!(place.run(["fsck", "-n", "pool"]).status(4).contains("byte 0"));
    place.run(["fsck", "-y", "pool"]).status(1);
    place.run(["fsck", "-y", "pool"]).success();
    assert!(place.run(["ls", "pool:/a"]).success().contains("b\n"));
}

#[test]
fn fsck_of_what_is_no_pool_has_status_8() {
    let place = Place::new();
    fs::write(place.path("text"), "not a pool").unwrap();
    fs::write(place.path("zeros"), vec![0; 16 << 20]).unwrap();
    fs::write(place.path("empty"), "").unwrap();
    fs::create_dir(place.path("directory")).unwrap();
    for name in ["text", "zeros", "empty", "directory", "missing"] {
        let ran = place.run(["fsck", "-y", name]);
        ran.status(8);
        let stderr = ran.stderr();
        assert!(stderr.starts_with(&format!("udax: {name}: ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert!(!place.path("missing").exists());
}

#[test]
fn no_command_believes_what_is_no_pool() {
    let place = Place::new();
    fs::write(place.path("text"), "not a pool").unwrap();
    fs::write(place.path("zeros"), vec![0; 16 << 20]).unwrap();
    let random: Vec<u8> = (0_u32..16 << 20)
        .map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()[0])
        .collect();
    fs::write(place.path("random"), random).unwrap();
    for name in ["text", "zeros", "random"] {
        for command in ["info", "ls", "df"] {
            place.run([command, name]).fails_with(&[name]);
        }
        place.run(["put", ".", &format!("{name}:/")]).fails_with(&[name]);
        place.run(["grow", name, "1G"]).fails_with(&[name]);
    }
}

#[test]
fn a_pool_cut_short_says_so_and_what_is_left_can_be_saved() {
    let place = Place::with_pool("16M");
    fs::write(place.path("file"), "content").unwrap();
    place.run(["put", "file", "pool:/"]).success();
    let file = OpenOptions::new().write(true).open(place.path("pool")).unwrap();
    for length in [15 << 20, 4096] {
        file.set_len(length).unwrap();
        let parts = [
            "pool: cannot",
            "the pool has 16777216 bytes",
            &format!("only {length} of them"),
            "truncate -s 16777216",
        ];
        for arguments in [
            ["ls", "pool"].as_slice(),
            &["info", "pool"],
            &["df", "pool"],
            &["put", "file", "pool:/"],
        ] {
            place.run(arguments).fails_with(&parts);
        }
        let ran = place.run(["fsck", "-n", "pool"]);
        ran.status(8);
        assert!(ran.stderr().contains(parts[1]), "{}", ran.stderr());
        place.run(["dump", "pool", "free"]).fails_with(&parts[1..]);
        let ran = place.run(["dump", "pool", "superblock"]);
        assert!(ran.status(1).contains(parts[1]), "{}", ran.stdout());
        if length == 15 << 20 {
            file.set_len(16 << 20).unwrap();
            place.run(["fsck", "-y", "pool"]).success();
            assert_eq!(place.run(["cat", "pool:/file"]).success(), "content");
        }
    }
}

#[test]
fn a_file_too_small_for_a_pool_is_told_the_smallest_size() {
    let place = Place::new();
    for length in [0, 5, 4096, 3 << 20] {
        fs::write(place.path("small"), vec![b'x'; length]).unwrap();
        let parts = [
            &*format!("{length} bytes are too few for a pool"),
            "16 MiB",
            "udax mkfs",
        ];
        for arguments in [
            ["info", "small"].as_slice(),
            &["ls", "small:/"],
            &["cat", "small:/x"],
            &["mkdir", "small:/x"],
            &["grow", "small", "1G"],
            &["dump", "small", "free"],
        ] {
            place.run(arguments).fails_with(&parts);
        }
        let ran = place.run(["fsck", "small"]);
        ran.status(8);
        assert!(
            parts.iter().all(|part| ran.stderr().contains(part)),
            "{}",
            ran.stderr()
        );
        let shown = place.run(["dump", "small", "superblock"]).status(1);
        assert!(!shown.contains("outside the mapping"), "{shown}");
    }
}

#[test]
fn who_lost_both_superblocks_is_not_sent_in_a_circle() {
    let place = Place::with_pool("16M");
    let first = fs::read(place.path("pool")).unwrap()[..4096].to_vec();
    damage(&place, 100, 8);
    damage(&place, 511 * 4096 + 100, 8);
    for arguments in [
        ["ls", "pool"].as_slice(),
        &["fsck", "-y", "pool"],
        &["dump", "pool", "free"],
    ] {
        let ran = place.run(arguments);
        let stderr = ran.stderr();
        assert!(
            stderr.contains("both copies") && stderr.contains("restore"),
            "{stderr}"
        );
        assert!(
            !stderr.contains("run fsck") && !stderr.contains("'udax mkfs'"),
            "{stderr}"
        );
    }
    // The advice is good.
    let file = OpenOptions::new().write(true).open(place.path("pool")).unwrap();
    file.write_all_at(&first, 0).unwrap();
    place.run(["fsck", "-y", "pool"]).status(1);
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn an_open_pool_is_refused_with_who_holds_it() {
    // The hidden writer of the demo keeps the pool open until its reader goes away: the pipe is full before the pool.
    let place = Place::with_pool("256M");
    let mut writer = place
        .command()
        .args(["demo-writer", "pool"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = writer.stdout.take().unwrap();
    std::io::Read::read_exact(&mut pipe, &mut [0; 1]).unwrap();
    let ran = place.run(["mkdir", "pool:/x"]);
    let id = writer.id().to_string();
    writer.kill().unwrap();
    writer.wait().unwrap();
    ran.fails_with(&["pool", "in use", &id]);
    // And after its death the pool is recovered.
    let ran = place.run(["mkdir", "pool:/x"]);
    ran.success();
    assert!(ran.stderr().contains("not closed cleanly"), "{}", ran.stderr());
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn dump_shows_every_structure() {
    let place = Place::with_pool("16M");
    fs::write(place.path("file"), vec![7; 10_000]).unwrap();
    place.run(["mkdir", "-p", "pool:/a/b"]).success();
    place.run(["put", "file", "pool:/a"]).success();

    let text = place.run(["dump", "pool", "superblock"]).success();
    assert_eq!(text.matches("\nsuperblock").count() + 1, 2, "{text}");
    assert!(text.contains("counts               true"), "{text}");
    let text = place.run(["dump", "pool", "journal"]).success();
    assert!(text.contains("clean true"), "{text}");
    let text = place.run(["dump", "pool", "inode", "1"]).success();
    assert!(text.contains("directory"), "{text}");
    let text = place.run(["dump", "pool", "tree", "/a"]).success();
    assert!(text.contains("name b") && text.contains("name file"), "{text}");
    let inode = place.run(["stat", "--json", "pool:/a/file"]).json()["inode"].to_string();
    let text = place.run(["dump", "pool", "inode", &inode]).success();
    assert!(text.contains("extent") && text.contains("10000"), "{text}");
    let text = place.run(["dump", "pool", "free"]).success();
    let free = place.run(["df", "--json", "pool"]).json()[0]["free_bytes"]
        .as_u64()
        .unwrap()
        / 4096;
    assert!(text.contains(&format!("total  free {free} ")), "{free}: {text}");
}

#[test]
fn dump_is_valid_json_of_every_structure() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "pool:/a"]).success();
    for what in [
        ["superblock"].as_slice(),
        &["journal"],
        &["inode", "1"],
        &["tree", "/"],
        &["free"],
    ] {
        let ran = place.run(["dump", "--json", "pool"].iter().chain(what));
        ran.success();
        let json = ran.json();
        let records = json.as_array().unwrap();
        assert!(!records.is_empty(), "{what:?}");
        assert!(
            records.iter().all(|record| record["record"].is_string()),
            "{json}"
        );
        let after = place.run(["dump", "pool"].iter().chain(what).chain(&["--json"]));
        assert_eq!(after.json(), json, "{what:?}");
    }
}

#[test]
fn dump_tells_what_is_damaged_and_goes_on() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "-p", "pool:/a/b"]).success();
    damage(&place, 100, 8);
    let text = place.run(["dump", "pool", "superblock"]).status(1);
    assert!(
        text.contains("! superblock at block 0 (byte 0): checksum"),
        "{text}"
    );
    assert!(text.contains("counts               true"), "{text}");
    place.run(["dump", "pool", "tree", "/a"]).success();
    // The roots block: what follows is still found.
    damage(&place, 2 * 4096 + 200, 1);
    let text = place.run(["dump", "pool", "tree", "/a"]).status(1);
    assert!(text.contains("! roots block at block 2"), "{text}");
    assert!(text.contains("name b"), "{text}");
    place
        .run(["dump", "pool", "inode", "12345678"])
        .fails_with(&["pool", "inode 12345678"]);
    // Both superblocks: nothing can be found, and that is said.
    damage(&place, 511 * 4096 + 100, 8);
    place
        .run(["dump", "pool", "free"])
        .fails_with(&["pool", "no superblock can be believed"]);
}

#[test]
fn ls_to_a_reader_that_goes_away_is_no_error() {
    let place = Place::with_pool("32M");
    fs::create_dir(place.path("d")).unwrap();
    for number in 0..2000 {
        fs::write(
            place.path(format!(
                "d/a rather long name, so that no pipe holds all of them {number}"
            )),
            "",
        )
        .unwrap();
    }
    place.run(["put", "d", "pool:/"]).success();
    let mut child = place
        .command()
        .args(["ls", "-l", "pool:/d"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn mkfs_does_not_advise_mkfs_where_the_directory_is_missing() {
    let place = Place::new();
    let ran = place.run(["mkfs", "--size", "16M", "no/pool"]);
    ran.fails_with(&["no/pool", "its directory does not exist"]);
    assert!(!ran.stderr().contains("udax mkfs"), "{}", ran.stderr());
}

#[test]
fn fsck_says_that_damage_may_hide_more() {
    let help = Place::new().run(["fsck", "--help"]).success();
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains("-y may find more than -n"), "{help}");
}

#[test]
fn bench_bounds_its_batches() {
    for batches in ["0", "1000001"] {
        let ran = Place::new().run(["bench", "--batches", batches]);
        ran.status(2);
        assert!(ran.stderr().contains("1..=1000000"), "{}", ran.stderr());
    }
}

#[test]
fn mkfs_names_the_smallest_size() {
    let place = Place::new();
    place
        .run(["mkfs", "--size", "15M", "q"])
        .fails_with(&["q: 15 MiB is too small", "--size 16M"]);
    assert!(!place.path("q").exists());
    fs::write(place.path("empty"), "").unwrap();
    place
        .run(["mkfs", "empty"])
        .fails_with(&["too small", "--size 16M"]);
    place.run(["mkfs", "--size", "16M", "empty"]).success();
}

/// A pool whose writer was killed.
fn unclean_pool() -> Place {
    let place = Place::with_pool("64M");
    let mut writer = place
        .command()
        .args(["demo-writer", "pool"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = writer.stdout.take().unwrap();
    std::io::Read::read_exact(&mut pipe, &mut [0; 1]).unwrap();
    writer.kill().unwrap();
    writer.wait().unwrap();
    place
}

const READERS: [&[&str]; 6] = [
    &["info", "pool"],
    &["ls", "-l", "pool:/"],
    &["tree", "pool:/"],
    &["df", "pool"],
    &["stat", "pool:/"],
    &["get", "pool:/", "out"],
];

#[test]
fn reading_commands_change_no_byte_of_an_unclean_pool() {
    let place = unclean_pool();
    let before = fs::read(place.path("pool")).unwrap();
    for arguments in READERS {
        let ran = place.run(arguments);
        ran.success();
        assert!(ran.stderr().contains("replayed in memory"), "{}", ran.stderr());
        assert!(before == fs::read(place.path("pool")).unwrap(), "{arguments:?}");
    }
    let json = place.run(["info", "--json", "pool"]).json();
    assert_eq!(json["was_clean"], false, "{json}");
    // What is read is what recovery makes of it.
    let listed = place.run(["tree", "pool:/"]).success();
    place.run(["mkdir", "-p", "pool:/"]).success();
    assert_eq!(place.run(["tree", "pool:/"]).success(), listed);
    assert_eq!(place.run(["info", "--json", "pool"]).json()["was_clean"], true);
}

#[test]
fn reading_commands_read_a_file_that_they_may_not_write() {
    let place = unclean_pool();
    fs::set_permissions(place.path("pool"), PermissionsExt::from_mode(0o444)).unwrap();
    fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let program = place.path("udax");
    fs::copy(env!("CARGO_BIN_EXE_udax"), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).current_dir(place.path(""));
        if is_root {
            // Root may write everything.
            command.uid(65534).gid(65534);
        }
        command.output().unwrap()
    };
    for _ in 0..2 {
        for arguments in &READERS[..5] {
            let ran = run(arguments);
            let stderr = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{arguments:?}: {stderr}");
        }
        // The second time a clean one.
        fs::set_permissions(place.path("pool"), PermissionsExt::from_mode(0o644)).unwrap();
        place.run(["fsck", "-y", "pool"]).success();
        fs::set_permissions(place.path("pool"), PermissionsExt::from_mode(0o444)).unwrap();
    }
    let ran = run(&["mkdir", "pool:/x"]);
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(stderr.contains("run as a user who may"), "{stderr}");
}

#[test]
fn a_lost_copy_is_warned_of_until_it_is_restored() {
    // A superblock; a line of a checkpoint block.
    // A crash while a checkpoint is published may leave a torn one: mending that is no correction of an error.
    for (at, status) in [(511 * 4096 + 100, 1), (4096 + 20, 0), (510 * 4096 + 64 + 20, 0)] {
        let place = Place::with_pool("16M");
        place.run(["mkdir", "pool:/a"]).success();
        place.run(["mkdir", "pool:/b"]).success();
        damage(&place, at, 4);
        for arguments in [["info", "pool"].as_slice(), &["ls", "pool"], &["df", "pool"]] {
            let ran = place.run(arguments);
            ran.success();
            let stderr = ran.stderr();
            assert!(stderr.contains("one of two copies is lost"), "{at}: {stderr}");
            assert!(stderr.contains("udax fsck -y"), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        let json = place.run(["info", "--json", "pool"]).json();
        assert_eq!(json["damaged_copies"].as_array().unwrap().len(), 1, "{json}");
        place.run(["fsck", "-y", "pool"]).status(status);
        let ran = place.run(["info", "--json", "pool"]);
        assert_eq!(ran.json()["damaged_copies"].as_array().unwrap().len(), 0);
        assert_eq!(ran.stderr(), "");
    }
}

#[test]
fn a_pool_may_grow_beyond_what_is_reserved_by_default() {
    let place = Place::with_pool("16M");
    // The limit on the size of files comes after that on addresses, and is told as what it is.
    let script = "trap '' XFSZ; ulimit -f 1000000; exec \"$0\" grow pool 100G";
    let ran = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_udax")])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(stderr.contains("File too large"), "{stderr}");
    assert!(!stderr.contains("has 68719476736 bytes"), "{stderr}");
    assert_eq!(fs::metadata(place.path("pool")).unwrap().len(), 16 << 20);
}

#[test]
fn commands_that_write_take_msync_and_explain_it() {
    let place = Place::new();
    fs::write(place.path("f"), "content").unwrap();
    for arguments in [
        ["mkfs", "--size", "16M", "pool"].as_slice(),
        &["put", "f", "pool:/"],
        &["mkdir", "pool:/d"],
        &["mv", "pool:/f", "pool:/d"],
        &["rm", "pool:/d/f"],
        &["grow", "pool", "32M"],
        &["fsck", "-y", "pool"],
    ] {
        let (command, rest) = arguments.split_first().unwrap();
        place.run([command, &"--msync"].into_iter().chain(rest)).success();
        let help = place.run([command, "--help"]).success();
        assert!(
            help.contains("--msync") && help.contains("power failure"),
            "{help}"
        );
    }
    assert_eq!(place.run(["ls", "pool:/"]).success(), "d\n");
}

#[test]
fn one_is_told_as_one() {
    let place = Place::with_pool("16M");
    fs::write(place.path("f"), "content").unwrap();
    let put = place.run(["put", "f", "pool:/"]).success();
    assert!(
        put.starts_with("1 file, 0 directories, 0 links, 0 others"),
        "{put}"
    );
    let fsck = place.run(["fsck", "-n", "pool"]).success();
    assert!(fsck.contains("2 inodes, 1 directory,"), "{fsck}");
    assert!(place.run(["info", "pool"]).success().contains("in 1 segment\n"));
    damage(&place, 100, 8);
    let fsck = place.run(["fsck", "-n", "pool"]).status(4);
    assert!(fsck.contains(": 1 error, and"), "{fsck}");
}

#[test]
fn fsck_ends_with_the_paths_of_what_is_damaged() {
    let place = Place::with_pool("16M");
    place.run(["mkdir", "-p", "pool:/a/b c"]).success();
    fs::write(place.path("file"), vec![7; 10_000]).unwrap();
    place.run(["put", "file", "pool:/a/b c/odd\nname"]).success();
    place.run(["put", "file", "pool:/sound"]).success();
    let damage_inode = |path: &str| {
        let ino = place.run(["stat", "--json", path]).json()["inode"].to_string();
        let json = place.run(["dump", "--json", "pool", "inode", &ino]).json();
        damage(&place, json[0]["byte"].as_u64().unwrap() + 200, 1);
        ino
    };
    let file = damage_inode("pool:/a/b c/odd\nname");
    let report = place.run(["fsck", "-n", "pool"]).status(4);
    let end = format!("\npool: inode {file} is /a/b c/odd\\nname\npool: ");
    let (_, verdict) = report.split_once(&end).unwrap_or_else(|| panic!("{report}"));
    assert!(verdict.contains("errors, and damage may hide more"), "{report}");
    assert!(
        report.contains(" is /a/b c\n"),
        "of the directory that names it: {report}"
    );
    assert!(!report.contains("sound"), "{report}");
    let json = place.run(["fsck", "-n", "--json", "pool"]).json();
    let problems = json["problems"].as_array().unwrap();
    let of_file = problems
        .iter()
        .find(|problem| problem["inode"].as_u64() == file.parse().ok());
    assert_eq!(of_file.unwrap()["path"]["name"], "/a/b c/odd\nname");
    // Also when the path is mended away.
    let mended = place.run(["fsck", "-y", "pool"]).status(1);
    assert!(mended.contains(&end), "{mended}");
    place.run(["fsck", "-n", "pool"]).success();

    let directory = damage_inode("pool:/a/b c");
    let report = place.run(["fsck", "-n", "pool"]).status(4);
    assert!(
        report.contains(&format!("pool: inode {directory} is /a/b c\n")),
        "{report}"
    );
}

/// A pool with records to replay, where there is no space for what they change, and then space again; 77 where no such
/// place can be made.
const WITHOUT_SPACE: &str = r#"
set -eu
mkdir small
mount -t tmpfs -o size=24m small small || exit 77
cp --sparse=always crashed small/pool
dd if=/dev/zero of=small/filler bs=4k 2>/dev/null || true
for options in -y '-y --badblocks' '-n --badblocks'; do
    status=0
    "$0" fsck $options small/pool >out 2>&1 || status=$?
    cat out
    [ $status = 8 ]
    grep -q 'make room there' out
done
! "$0" mkdir small/pool:/other
rm small/filler
"$0" fsck -n small/pool | grep 'to replay'
"$0" fsck -y small/pool
[ "$("$0" ls small/pool:/late | wc -l)" = 100 ]
"#;

#[test]
fn a_repair_without_space_on_the_filesystem_throws_nothing_away() {
    let place = Place::with_pool("32M");
    let pool = place.path("pool");
    let fs = Filesystem::open(&pool, &MountOptions::default()).unwrap();
    fs.create_dir("late", NewInode::with_permissions(0o755)).unwrap();
    fs.sync().unwrap();
    // As after a power failure: what came after the checkpoint is in the journal only.
    let journal = fs.superblock().journal_blocks();
    let range = [journal.start, journal.end()].map(|block| usize::try_from(block.offset().raw()).unwrap());
    let mut crashed = fs::read(&pool).unwrap();
    for number in 0..100 {
        let path = format!("late/{number}");
        fs.create_dir(path, NewInode::with_permissions(0o755)).unwrap();
    }
    crashed[range[0]..range[1]].copy_from_slice(&fs::read(&pool).unwrap()[range[0]..range[1]]);
    fs.close().unwrap();
    fs::write(place.path("crashed"), &crashed).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_udax"));
    let Some(output) = run_apart(&place, program, WITHOUT_SPACE) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_name_in_dev_that_is_no_device_makes_no_file_and_a_pool_that_cannot_be_made_leaves_none() {
    let place = Place::new();
    place
        .run(["mkfs", "--size", "32M", "/dev/udax-test-no-device"])
        .fails_with(&["/dev/udax-test-no-device", "no such device"]);
    assert!(!Path::new("/dev/udax-test-no-device").exists());
    let limited = |blocks: u32, arguments: &[&str]| {
        let line = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .arg(place.command().get_program())
            .args(arguments);
        place.run_command(command.current_dir(place.path("")))
    };
    limited(1000, &["mkfs", "--size", "32M", "pool"]).fails_with(&["File too large"]);
    assert!(!place.path("pool").exists());
    place.run(["mkfs", "--size", "16M", "pool"]).success();
    limited(20_000, &["grow", "pool", "64M"]).fails_with(&["File too large"]);
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn a_data_device_is_shown_and_where_there_is_none_nothing_is_moved_to_it() {
    let place = Place::with_pool("32M");
    fs::write(place.path("file"), [7; 5000]).unwrap();
    place.run(["put", "file", "pool:/"]).success();
    place
        .run(["tier", "--to", "data", "pool:/file"])
        .fails_with(&["pool:/file", "no data device"]);
    place.run(["tier", "--to", "dax", "pool:/file"]).success();

    fs::write(place.path("device"), vec![9; 64 << 20]).unwrap();
    place
        .run(["mkfs", "--size", "32M", "--data", "device", "tiered"])
        .fails_with(&["device holds data", "--force"]);
    assert!(!place.path("tiered").exists());
    place
        .run(["mkfs", "--force", "--size", "32M", "--data", "device", "tiered"])
        .success();
    let usages = place.run(["df", "--json", "tiered", "pool"]).json();
    assert_eq!(usages[0]["device_total_bytes"], 64 << 20);
    assert!(usages[0]["device_free_bytes"].as_u64().unwrap() < 64 << 20);
    assert!(usages[1]["device_total_bytes"].is_null());
    let table = place.run(["df", "tiered"]).success();
    assert!(table.contains("tiered, data device"), "{table}");
    for (pool, is_told) in [("tiered", true), ("pool", false)] {
        let stats = place.run(["stats", pool]).success();
        assert_eq!(stats.contains("Data device"), is_told, "{stats}");
    }
}

#[test]
fn where_no_thread_is_to_be_had_the_first_one_does_all_the_work() {
    /// Root has no such limit, and others may have processes here.
    const USER: u32 = 65_432;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs to become another user");
        return;
    }
    let place = Place::with_pool("16M");
    let top = place.path("");
    fs::create_dir(place.path("tree")).unwrap();
    for number in 0..40 {
        fs::write(place.path("tree").join(number.to_string()), [7; 5000]).unwrap();
    }
    fs::set_permissions(&top, PermissionsExt::from_mode(0o777)).unwrap();
    chown(place.path("pool"), Some(USER), Some(USER)).unwrap();
    let program = place.command().get_program().to_owned();
    let reached = Command::new(&program).arg("--version").uid(USER).output();
    if !reached.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: other users cannot reach the program");
        return;
    }
    let limited = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -u 1; exec \"$0\" \"$@\""])
            .arg(&program)
            .args(arguments)
            .current_dir(&top)
            .uid(USER)
            .gid(USER);
        place.run_command(&mut command)
    };
    limited(&["put", "tree", "pool:/"]).success();
    limited(&["scrub", "pool"]).success();
    limited(&["fsck", "-n", "--badblocks", "pool"]).success();
    limited(&["fsck", "-y", "pool"]).success();
    limited(&["get", "pool:/tree", "back"]).success();
    assert_eq!(fs::read_dir(place.path("back")).unwrap().count(), 40);
}
