//! `udax mount` and `udax umount` as commands: daemon, options, exit statuses, and what is left after a daemon's end.
//!
//! Needs /dev/fuse and root; without them each test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod apart;
#[expect(dead_code, reason = "other tests use the rest")]
mod command;
mod mounted;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apart::run_apart;
use mounted::{FAILED, Mounts, USAGE};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move, unmount,
};
use rustix::process::{Pid, Signal, kill_process};
use udax::{Access, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags, Request};

#[test]
fn a_mounted_pool_is_used_and_closed_cleanly() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount("noatime").success();
    let line = mounts.line().unwrap();
    let pool = mounts.place.path("pool");
    assert!(
        line.contains(&format!(" - fuse.udax {} rw", pool.display())),
        "{line}"
    );
    assert!(line.contains("noatime"), "{line}");
    fs::write(mounts.path("f"), b"content").unwrap();
    mounts.umount().success();
    assert_eq!(mounts.line(), None);
    let cat = mounts.place.run(["cat", "pool:/f"]);
    assert_eq!(cat.success(), "content");
    assert!(cat.stderr().is_empty(), "it was closed cleanly: {}", cat.stderr());
    mounts.mount("ro").success();
    assert_eq!(fs::read(mounts.path("f")).unwrap(), b"content");
    assert!(fs::write(mounts.path("g"), b"").is_err());
    mounts.umount().success();
}

#[test]
fn a_data_device_is_found_from_where_the_command_is_given() {
    let Some(mounts) = Mounts::new() else { return };
    let device = mounts.place.path("device");
    File::create(&device).unwrap().set_len(64 << 20).unwrap();
    let made = mounts.place.run(["mkfs", "--force", "--data", "device", "pool"]);
    made.success();
    fs::rename(&device, mounts.place.path("elsewhere")).unwrap();
    mounts.mount("data=elsewhere").success();
    fs::write(mounts.path("f"), b"content").unwrap();
    mounts.umount().success();
}

#[test]
fn files_move_between_pool_and_data_device_while_they_are_written() {
    const PAGES: u64 = 1024;
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    let device = File::create(place.path("device")).unwrap();
    device.set_len(64 << 20).unwrap();
    place
        .run(["mkfs", "--force", "--data", "device", "pool"])
        .success();
    let on_device = || {
        let usage = &place.run(["df", "--json", "pool"]).json()[0];
        let bytes = |name| usage[name].as_u64().unwrap();
        bytes("device_total_bytes") - bytes("device_free_bytes")
    };
    let empty = on_device();
    fs::write(place.path("file"), vec![0; 4096 << 10]).unwrap();
    place.run(["put", "file", "pool:/"]).success();
    place.run(["tier", "--to", "dax", "pool:/file"]).success();
    assert_eq!(on_device(), empty);
    place.run(["tier", "--to", "data", "pool:/file"]).success();
    assert_eq!(on_device(), empty + PAGES * 4096);

    mounts.mount("").success();
    let is_over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let file = File::options().write(true).open(mounts.path("file")).unwrap();
            let mut round = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                for page in 0..PAGES {
                    file.write_all_at(&(round * PAGES + page).to_le_bytes(), page * 4096)
                        .unwrap();
                }
            }
            round
        });
        for to in ["dax", "data", "dax", "data", "dax"] {
            place.run(["tier", "--to", to, "mnt/file"]).success();
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let found = fs::read(mounts.path("file")).unwrap();
    for (page, bytes) in (0..PAGES).zip(found.chunks(4096)) {
        assert_eq!(bytes[..8], (rounds * PAGES + page).to_le_bytes(), "page {page}");
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
    }
    mounts.umount().success();
    assert_eq!(on_device(), empty);
    let stat = place.run(["stat", "--json", "pool:/file"]).json();
    assert_eq!(stat["dax"], true, "{stat}");
    place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn what_was_mounted_there_before_stays() {
    let Some(mounts) = Mounts::new() else { return };
    let directory = mounts.path("");
    mount("none", &directory, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(mounts.path("below"), b"").unwrap();
    mounts.mount("rw").success();
    assert!(!mounts.path("below").exists());
    mounts.umount().success();
    // The pool is somebody's until the daemon has ended.
    let end = Instant::now() + Duration::from_secs(60);
    while mounts
        .place
        .run(["fsck", "-n", "pool"])
        .stderr()
        .contains("in use")
    {
        assert!(Instant::now() < end, "the daemon does not end");
    }
    assert!(mounts.path("below").exists(), "it was unmounted too");
    unmount(&directory, UnmountFlags::empty()).unwrap();
}

#[test]
fn what_cannot_be_mounted_is_told_in_one_line() {
    let Some(mounts) = Mounts::new() else { return };
    let run = |arguments: &[&str]| mounts.place.run(arguments);
    fs::write(mounts.place.path("text"), "no pool at all\n".repeat(10_000)).unwrap();
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (
            &["mount", "pool", "nowhere"],
            FAILED,
            &["nowhere", "existing directory"],
        ),
        (
            &["mount", "pool", "text"],
            FAILED,
            &["text", "existing directory"],
        ),
        (&["mount", "missing", "mnt"], FAILED, &["missing", "udax mkfs"]),
        (&["mount", "text", "mnt"], FAILED, &["text", "udax mkfs"]),
        (
            &["mount", "-o", "rw,color=red", "pool", "mnt"],
            USAGE,
            &["color", "--help"],
        ),
        (
            &["mount", "-o", "threads=x", "pool", "mnt"],
            USAGE,
            &["threads=x", "1 to 64"],
        ),
        (&["umount", "mnt"], FAILED, &["mnt", "nothing is mounted"]),
    ];
    for (arguments, status, parts) in cases {
        mounts.fails(&run(arguments), status, parts);
    }
    assert!(run(&["mount", "pool"]).stderr().contains("Usage"));
    run(&["mount", "pool"]).status(USAGE);
    // Both superblocks.
    let pool = File::options()
        .write(true)
        .open(mounts.place.path("pool"))
        .unwrap();
    let zeros = vec![0; 32 << 20];
    std::os::unix::fs::FileExt::write_all_at(&pool, &zeros, 0).unwrap();
    mounts.fails(&mounts.mount("rw"), FAILED, &["pool", "superblock"]);
}

#[test]
fn a_pool_that_is_in_use_is_not_mounted_again() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    fs::create_dir(mounts.place.path("other")).unwrap();
    let second = mounts.place.run(["mount", "pool", "other"]);
    second.status(FAILED);
    let told = second.stderr();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&format!("by process {}", daemon.id())), "{told}");
    fs::write(mounts.path("f"), b"the first is not disturbed").unwrap();
    mounts.umount().success();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_promised() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    let mut files = Vec::new();
    for at in 0..200_u8 {
        let mut file = File::create_new(mounts.path(&format!("f{at}"))).unwrap();
        file.write_all(&vec![at; 5000]).unwrap();
        // Neither synced nor closed.
        files.push(file);
    }
    fs::rename(mounts.path("f0"), mounts.path("renamed")).unwrap();
    fs::remove_file(mounts.path("f1")).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let after = fs::metadata(mounts.path("f2")).unwrap_err();
    assert_eq!(
        after.raw_os_error(),
        Some(rustix::io::Errno::NOTCONN.raw_os_error())
    );
    drop(files);
    mounts.umount().success();
    let unclean = mounts.mount("ro");
    mounts.fails(&unclean, FAILED, &["pool", "without 'ro'", "norecovery"]);
    mounts.mount("ro,norecovery").success();
    assert_eq!(fs::read(mounts.path("f199")).unwrap(), vec![199; 5000]);
    mounts.umount().success();
    mounts.mount("rw").success();
    for at in 2..200_u8 {
        assert_eq!(fs::read(mounts.path(&format!("f{at}"))).unwrap(), vec![at; 5000]);
    }
    assert_eq!(fs::read(mounts.path("renamed")).unwrap(), vec![0; 5000]);
    assert!(!mounts.path("f1").exists());
    mounts.umount().success();
    mounts.place.run(["fsck", "pool"]).success();
}

#[test]
fn a_signal_stops_a_mount_also_one_in_use() {
    let Some(mounts) = Mounts::new() else { return };
    let signals = [Signal::TERM, Signal::HUP, Signal::INT];
    for (in_use, signal) in [false, true]
        .into_iter()
        .flat_map(|in_use| signals.map(|signal| (in_use, signal)))
    {
        let mut daemon = mounts.start();
        let name = format!("f{in_use}{}", signal.as_raw());
        let mut file = File::create_new(mounts.path(&name)).unwrap();
        file.write_all(b"kept").unwrap();
        let user = in_use.then_some(file);
        kill_process(Pid::from_child(&daemon), signal).unwrap();
        assert!(daemon.wait().unwrap().success());
        assert_eq!(mounts.line(), None);
        if let Some(mut file) = user {
            assert!(file.write_all(b"lost").is_err());
        }
        let cat = mounts.place.run(["cat", &format!("pool:/{name}")]);
        assert_eq!(cat.success(), "kept");
        assert!(cat.stderr().is_empty(), "it was closed cleanly: {}", cat.stderr());
    }
}

/// Invariant 107 of the kernel: what write-back of memory access met is told by fsync. There it is told once; here a
/// region whose pages may be lost never says again that something is durable.
#[test]
fn inv_107_stores_to_a_file_that_cannot_be_written_back_are_an_error_of_each_later_sync() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    // A pool on a medium that goes away: a file on another pool's mount.
    let inner = mounts.path("inner");
    let format = FormatOptions {
        size: Some(16 << 20),
        msync: true,
        ..FormatOptions::default()
    };
    Filesystem::format(&inner, &format).unwrap();
    let options = MountOptions {
        msync: true,
        ..MountOptions::default()
    };
    let inner = Filesystem::open(&inner, &options).unwrap();
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = inner
        .open_file("f", flags, NewInode::with_permissions(0o644))
        .unwrap();
    file.write_at(&[7; 8192], 0).unwrap();
    let pin = file.pin(0, 8192, Request::new(Access::Write)).unwrap();
    pin.write(0, &[8; 64]).unwrap();
    file.sync().unwrap();
    pin.write(64, &[9; 64]).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for _ in 0..2 {
        let error = file.sync().unwrap_err();
        assert!(error.to_string().contains("msync"), "{error}");
    }
    assert!(pin.persist(0, 8192).is_err());
    drop((pin, file));
    assert!(inner.close().is_err());
    mounts.umount().success();
}

#[test]
fn a_pool_is_mounted_over_the_directory_that_it_lies_in() {
    let Some(mounts) = Mounts::new() else { return };
    fs::rename(mounts.place.path("pool"), mounts.path("pool")).unwrap();
    // What lies below the directory is reached through the mount from then on.
    let run = |metrics| {
        mounts
            .place
            .run(["mount", "mnt/pool", "mnt", "--metrics", metrics])
    };
    mounts.fails(&run("mnt/udax.prom"), FAILED, &["mnt/udax.prom", "on it"]);
    run("udax,ro.prom").success();
    assert!(!mounts.path("pool").exists());
    fs::write(mounts.path("f"), b"content").unwrap();
    let metrics = fs::read_to_string(mounts.place.path("udax,ro.prom")).unwrap();
    assert!(metrics.contains("udax_pool_info"), "{metrics}");
    mounts.umount().success();
    mounts.place.run(["fsck", "-n", "mnt/pool"]).success();
}

#[test]
fn a_bind_mount_is_unmounted_without_waiting_and_a_signal_ends_all_of_them() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    let second = mounts.place.path("second");
    fs::create_dir(&second).unwrap();
    mount_bind(mounts.path(""), &second).unwrap();
    fs::write(second.join("f"), b"content").unwrap();
    let begin = Instant::now();
    mounts.place.run(["umount", "second"]).success();
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(mounts.path("f").exists() && !second.join("f").exists());
    // Bound to itself too, as for a change of its propagation.
    mount_bind(mounts.path(""), &second).unwrap();
    mount_bind(mounts.path(""), mounts.path("")).unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(mounts.line(), None);
    assert!(!second.join("f").exists());
    mounts.place.run(["fsck", "-n", "pool"]).success();
}

#[test]
fn a_daemon_that_dies_before_it_is_ready_leaves_no_mount() {
    let Some(mounts) = Mounts::new() else { return };
    let mut dead = 0;
    // Somewhere in between there is enough for the pool, and too little for what serves it.
    for kib in (200_000..700_000).step_by(25_000) {
        let line = format!("ulimit -v {kib}; exec \"$0\" mount pool mnt");
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .arg(mounts.place.command().get_program())
            .current_dir(mounts.place.path(""))
            // std waits for itself when there is no memory for the backtrace of a lack of memory.
            .env_remove("RUST_BACKTRACE");
        let ran = mounts.place.run_command(&mut command);
        if ran.stderr().contains("before the mount worked") {
            assert_eq!(mounts.line(), None, "{kib} KiB");
            dead += 1;
        }
        // One that was ready may have died since, or be dying: then it may be gone before this asks for it.
        let begin = Instant::now();
        while mounts.line().is_some() {
            let umount = mounts.umount();
            assert!(begin.elapsed() < Duration::from_secs(20), "{}", umount.stderr());
        }
    }
    assert!(dead > 0, "each has worked or said what it lacks");
}

#[test]
fn a_directory_whose_mount_has_lost_its_process_is_told_as_such() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let again = mounts.mount("rw");
    again.status(FAILED);
    assert!(again.stderr().contains("udax umount"), "{}", again.stderr());
    mounts.umount().success();
    mounts.mount("rw").success();
}

#[test]
fn a_signal_stops_a_mount_that_was_remounted() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    let remounted = Command::new("mount")
        .args(["-i", "-o", "remount,ro"])
        .arg(mounts.path(""))
        .status();
    assert!(remounted.unwrap().success());
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(mounts.line(), None);
}

#[test]
fn a_signal_stops_a_mount_that_was_moved() {
    let Some(mounts) = Mounts::new() else { return };
    // What is below a shared mount cannot be moved.
    let around = mounts.place.path("around");
    fs::create_dir(&around).unwrap();
    mount("none", &around, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(&around, MountPropagationFlags::PRIVATE).unwrap();
    let [from, to] = ["from", "to"].map(|name| around.join(name));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    let mut command = mounts.place.command();
    command.args(["mount", "--foreground", "pool"]).arg(&from);
    let mut daemon = command.spawn().unwrap();
    while fs::metadata(&from).unwrap().dev() == fs::metadata(&to).unwrap().dev() {
        assert!(daemon.try_wait().unwrap().is_none(), "it ended before it mounted");
    }
    mount_move(&from, &to).unwrap();
    fs::write(to.join("f"), b"").unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(!to.join("f").exists());
    unmount(&around, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_log_that_nobody_reads_does_not_end_a_mount() {
    let Some(mounts) = Mounts::new() else { return };
    let mut command = mounts.place.command();
    command.args(["mount", "--foreground", "-o", "log=trace", "pool", "mnt"]);
    let (nobody, log) = std::io::pipe().unwrap();
    drop(nobody);
    let mut daemon = mounts.begin(command.stderr(log));
    // In use, which is worth a warning at the end.
    let file = File::create_new(mounts.path("f")).unwrap();
    assert!(fs::metadata(mounts.path("missing")).is_err());
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    drop(file);
    assert_eq!(mounts.line(), None);
}

#[test]
fn what_is_told_to_work_works_however_few_descriptors_there_are() {
    let Some(mounts) = Mounts::new() else { return };
    let mut refused = 0;
    for limit in 8..24 {
        let line = format!("ulimit -n {limit}; exec \"$0\" mount pool mnt");
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .arg(mounts.place.command().get_program());
        let ran = mounts
            .place
            .run_command(command.current_dir(mounts.place.path("")));
        if mounts.line().is_none() {
            assert!(!ran.stderr().is_empty(), "{limit}: nothing is told");
            ran.status(FAILED);
            refused += 1;
            continue;
        }
        ran.success();
        assert!(fs::metadata(mounts.path("")).is_ok(), "{limit}: nobody answers");
        mounts.umount().success();
    }
    assert!(refused > 0, "no limit was too low");
}

#[test]
fn a_daemon_keeps_neither_descriptors_nor_blocked_signals_of_who_started_it() {
    let Some(mounts) = Mounts::new() else { return };
    let mut command = Command::new("env");
    let line = "exec 3>&1 4>lock; flock 4; exec \"$0\" mount pool mnt";
    command
        .args(["--block-signal=TERM", "sh", "-c", line])
        .arg(mounts.place.command().get_program());
    // Ends with the last one who has the pipe.
    mounts
        .place
        .run_command(command.current_dir(mounts.place.path("")))
        .success();
    let lock = Command::new("flock")
        .args(["--nonblock", "lock", "true"])
        .current_dir(mounts.place.path(""))
        .status();
    assert!(lock.unwrap().success(), "the lock is kept");
    let stats = mounts.place.run(["stats", "--json", "mnt"]).json();
    let daemon = i32::try_from(stats["process"].as_u64().unwrap()).unwrap();
    let daemon = Pid::from_raw(daemon).unwrap();
    kill_process(daemon, Signal::TERM).unwrap();
    let begin = Instant::now();
    while mounts.line().is_some() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the signal is blocked");
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_does_not_unmount_what_was_mounted_over_a_pool() {
    let Some(mounts) = Mounts::new() else { return };
    let mut daemon = mounts.start();
    let directory = mounts.path("");
    mount("none", &directory, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(mounts.path("above"), b"").unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(mounts.path("above").exists(), "it was unmounted");
    assert!(
        daemon.try_wait().unwrap().is_none(),
        "the mount below is still there"
    );
    unmount(&directory, UnmountFlags::empty()).unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(mounts.line(), None);
}

#[test]
fn a_mount_in_use_is_unmounted_only_lazily() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount("rw").success();
    let mut file = File::create_new(mounts.path("f")).unwrap();
    let busy = mounts.umount();
    busy.status(FAILED);
    assert!(busy.stderr().contains("--lazy"), "{}", busy.stderr());
    mounts.place.run(["umount", "--lazy", "mnt"]).success();
    assert_eq!(mounts.line(), None);
    file.write_all(b"still").unwrap();
    drop(file);
    // The daemon closes the pool when its last user is gone.
    let pool = File::open(mounts.place.path("pool")).unwrap();
    rustix::fs::flock(&pool, rustix::fs::FlockOperation::LockShared).unwrap();
    rustix::fs::flock(&pool, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(mounts.place.run(["cat", "pool:/f"]).success(), "still");
}

#[test]
fn mount_of_util_linux_finds_what_it_needs() {
    let Some(mounts) = Mounts::new() else { return };
    let helper = mounts.place.path("mount.fuse.udax");
    symlink(env!("CARGO_BIN_EXE_udax"), &helper).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&helper);
        command.current_dir(mounts.place.path("")).args(arguments);
        command.output().unwrap()
    };
    // As mount(8) calls it, with an option that only it knows with -s.
    let output = run(&[
        "pool",
        "mnt",
        "-s",
        "-n",
        "-o",
        "rw,unheardof,nosuid",
        "-t",
        "fuse.udax",
    ]);
    assert!(output.status.success(), "{output:?}");
    assert!(mounts.line().unwrap().contains("nosuid"));
    assert_eq!(fs::metadata(mounts.path("")).unwrap().ino(), 1);
    mounts.umount().success();
    let output = run(&["pool", "mnt", "-o", "unheardof"]);
    assert_eq!(output.status.code(), Some(USAGE), "{output:?}");
    let output = run(&["pool", "mnt", "-f"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mounts.line(), None);
}

/// What mount(8) and fstab do with the links of `udax links` in /usr/sbin; 77 where those cannot be put there.
const MOUNT_OF_UTIL_LINUX: &str = r#"
set -eu
# Or mounts of others would stay as long as this.
umount --all --lazy --types fuse.udax || true
mkdir upper work
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$PWD/upper,workdir=$PWD/work" /usr/sbin || exit 77
ln -s "$0" /usr/sbin/mount.udax
ln -s "$0" /usr/sbin/mount.fuse.udax
closed() {
    umount "$PWD/mnt"
    turns=0
    while "$0" fsck -n pool 2>&1 >/dev/null | grep -q 'in use'; do
        turns=$((turns + 1))
        [ $turns -lt 600 ]
        sleep 0.1
    done
}
printf '%s %s udax noatime,nosuid 0 0\n' "$PWD/pool" "$PWD/mnt" >fstab
mount --fstab "$PWD/fstab" "$PWD/mnt"
grep -q " $PWD/mnt rw,nosuid,noatime .* fuse.udax $PWD/pool" /proc/self/mountinfo
echo content >mnt/f
closed
mount -t fuse.udax -o ro pool mnt
grep -q " $PWD/mnt ro,.* fuse.udax $PWD/pool" /proc/self/mountinfo
[ "$(cat mnt/f)" = content ]
closed
! mount -t udax -o unheardof pool mnt
"#;

#[test]
fn mount_and_fstab_mount_a_pool() {
    let Some(mounts) = Mounts::new() else { return };
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_udax"));
    let Some(output) = run_apart(&mounts.place, program, MOUNT_OF_UTIL_LINUX) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_log_is_written_where_the_options_say() {
    let Some(mounts) = Mounts::new() else { return };
    let log = mounts.place.path("log");
    mounts
        .mount(&format!("log=info,log_file={}", log.display()))
        .success();
    mounts.umount().success();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("mounted") && text.contains("closed"), "{text}");
    mounts.fails(&mounts.mount("log=no[level"), USAGE, &["log=no[level"]);
    mounts.fails(
        &mounts.mount("metrics=192.0.2.1:9180"),
        USAGE,
        &["192.0.2.1:9180", "loopback"],
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    mounts.fails(
        &mounts.mount(&format!("metrics={address}")),
        FAILED,
        &[&address, "cannot listen"],
    );
}
