//! The live view of a pool in use: `udax stats`, `udax top`, metrics, and the socket they come from.
//!
//! Needs /dev/fuse and root; without them each test of a mount says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod command;
#[expect(dead_code, reason = "other tests use the rest")]
mod mounted;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command::{Place, Ran};
use mounted::Mounts;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A pool and a directory to mount it on, with a directory for sockets.
struct Live {
    mounts: Mounts,
}

impl Live {
    fn new() -> Option<Self> {
        Mounts::new().map(|mounts| Self { mounts })
    }

    fn command(&self) -> Command {
        let mut command = self.mounts.place.command();
        command.env("UDAX_RUNTIME_DIR", self.mounts.place.path("run"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.mounts.place.run_command(self.command().args(arguments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounts.path(name)
    }

    /// The sockets that have their names: somebody listens, or has listened.
    fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.mounts.place.path("run")) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|ending| ending == "sock"))
            .collect()
    }

    /// The daemon as a child, when it answers.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command();
        command
            .args(["mount", "--foreground"])
            .args(arguments)
            .args(["pool", "mnt"]);
        let mut daemon = command.stdout(Stdio::null()).spawn().unwrap();
        until(|| {
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
            !self.sockets().is_empty()
        });
        daemon
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::yield_now();
    }
}

/// Counts of the requests that `stats` tells of.
fn count(stats: &serde_json::Value, operation: &str) -> u64 {
    let operations = stats["operations"].as_array().unwrap();
    let found = operations.iter().find(|found| found["operation"] == operation);
    found.map_or(0, |found| found["count"].as_u64().unwrap())
}

#[test]
fn a_mounted_pool_tells_by_directory_and_by_pool() {
    let Some(live) = Live::new() else { return };
    live.run(&["mount", "pool", "mnt"]).success();
    fs::write(live.path("f"), vec![1; 100_000]).unwrap();
    assert!(fs::metadata(live.path("absent")).is_err());
    // They are counted after they are answered.
    until(|| {
        let stats = live.run(&["stats", "--json", "mnt"]).json();
        count(&stats, "create") == 1 && count(&stats, "write") == 1 && count(&stats, "lookup") >= 2
    });
    let by_directory = live.run(&["stats", "--json", "mnt"]).json();
    let by_pool = live.run(&["stats", "--json", "pool"]).json();
    for stats in [&by_directory, &by_pool] {
        assert_eq!(count(stats, "create"), 1);
        assert!(count(stats, "lookup") >= 2, "{stats}");
        let write = stats["operations"].as_array().unwrap();
        let write = write.iter().find(|found| found["operation"] == "write").unwrap();
        assert_eq!(write["bytes"], 100_000);
        assert!(write["p50_nanoseconds"].as_u64().unwrap() > 0);
        assert!(write["longest_nanoseconds"].as_u64() >= write["p50_nanoseconds"].as_u64());
        assert!(stats["journal"]["records"].as_u64().unwrap() > 0, "{stats}");
        let (free, total) = (&stats["space"]["free_bytes"], &stats["space"]["total_bytes"]);
        assert!(free.as_u64() < total.as_u64() && total.as_u64() == Some(32 << 20));
    }
    // A directory below has the same mount.
    fs::create_dir(live.path("d")).unwrap();
    live.run(&["stats", "mnt/d"]).success();
    let [socket] = live.sockets().try_into().unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let directory = fs::metadata(live.mounts.place.path("run")).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    live.run(&["umount", "mnt"]).success();
    // The daemon ends after its mount.
    until(|| live.sockets().is_empty());
}

#[test]
fn a_pool_that_nobody_has_open_is_read() {
    let place = Place::with_pool("32M");
    let run = |arguments: &[&str]| {
        let mut command = place.command();
        command.env("UDAX_RUNTIME_DIR", place.path("run")).args(arguments);
        place.run_command(&mut command)
    };
    let stats = run(&["stats", "--json", "pool"]).json();
    assert_eq!(stats["process"], serde_json::Value::Null);
    assert_eq!(stats["space"]["total_bytes"], 32 << 20);
    assert!(run(&["stats", "pool"]).success().contains("by nobody"));
    run(&["top", "pool"]).fails_with(&["pool", "nobody has it mounted", "udax mount"]);
    run(&["top", "."]).fails_with(&["no pool is mounted there"]);
    run(&["stats", "missing"]).fails_with(&["missing"]);
}

#[test]
fn the_socket_of_a_killed_daemon_is_replaced() {
    let Some(live) = Live::new() else { return };
    let mut daemon = live.start(&[]);
    let [killed] = live.sockets().try_into().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(killed.exists(), "nobody could remove it");
    live.run(&["umount", "mnt"]).success();
    live.run(&["top", "--once", "pool"])
        .fails_with(&["nobody has it mounted"]);
    let mut daemon = live.start(&[]);
    until(|| !killed.exists());
    live.run(&["stats", "mnt"]).success();
    live.run(&["umount", "mnt"]).success();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(live.sockets(), Vec::<PathBuf>::new());
}

#[test]
fn top_shows_what_happens_while_it_looks() {
    let Some(live) = Live::new() else { return };
    let mut daemon = live.start(&[]);
    fs::write(live.path("old"), b"before").unwrap();
    let mut command = live.command();
    command
        .args(["top", "--interval", "0.5", "mnt"])
        .stdout(Stdio::piped());
    let mut top = command.spawn().unwrap();
    let mut number = 0;
    while top.try_wait().unwrap().is_none() {
        fs::create_dir(live.path(&format!("d{number}"))).unwrap();
        number += 1;
    }
    let mut picture = String::new();
    top.stdout.take().unwrap().read_to_string(&mut picture).unwrap();
    assert!(picture.contains("mkdir"), "{picture}");
    assert!(!picture.contains("create"), "that was before: {picture}");
    for part in [
        "journal",
        "dirty",
        "pins: 0 held",
        "waiting for pins: 0",
        "inodes",
    ] {
        assert!(picture.contains(part), "no '{part}' in {picture}");
    }
    let image = live
        .run(&["top", "--once", "--svg", "--interval", "0.1", "mnt"])
        .success();
    assert!(image.starts_with("<svg "));
    live.run(&["umount", "mnt"]).success();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_client_that_stays_does_not_keep_the_pool() {
    let Some(live) = Live::new() else { return };
    let mut daemon = live.start(&[]);
    let [socket] = live.sockets().try_into().unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(socket).unwrap();
    live.run(&["umount", "mnt"]).success();
    assert!(daemon.wait().unwrap().success(), "it was closed, not left busy");
    let mut line = String::new();
    client.read_to_string(&mut line).unwrap();
    assert!(line.starts_with('{') && line.ends_with("}\n"), "{line}");
    let cat = live.run(&["ls", "pool:/"]);
    cat.success();
    assert!(cat.stderr().is_empty(), "it was closed cleanly: {}", cat.stderr());
}

#[test]
fn metrics_are_a_file_that_goes_with_the_mount() {
    let Some(live) = Live::new() else { return };
    let file = live.mounts.place.path("udax.prom");
    live.run(&["mount", "--metrics", "udax.prom", "pool", "mnt"])
        .success();
    until(|| file.exists());
    let text = fs::read_to_string(&file).unwrap();
    for part in [
        "# TYPE udax_pool_free_bytes gauge",
        "udax_journal_checkpoints_total{pool=\"",
    ] {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    live.run(&["umount", "mnt"]).success();
    until(|| !file.exists());
}

#[test]
fn metrics_take_nobodys_file_and_are_refused_where_they_cannot_be_written() {
    let Some(live) = Live::new() else { return };
    let file = live.mounts.place.path("kept");
    fs::write(&file, b"something else").unwrap();
    let fifo = live.mounts.place.path("fifo");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    for place in ["kept", "fifo", "/sys/kernel/udax.prom"] {
        let ran = live.run(&["mount", "--metrics", place, "pool", "mnt"]);
        live.mounts.fails(&ran, mounted::FAILED, &[place]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"something else");
    // Its own of another time.
    fs::write(&file, b"# HELP udax_pool_info old").unwrap();
    live.run(&["mount", "--metrics", "kept", "pool", "mnt"]).success();
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("udax_pool_free_bytes")
    );
    live.run(&["umount", "mnt"]).success();
    until(|| !file.exists());
}

#[test]
fn a_file_on_a_mount_is_not_moved_to_a_data_device_that_is_not_there() {
    let Some(live) = Live::new() else { return };
    live.run(&["mount", "pool", "mnt"]).success();
    fs::write(live.mounts.path("f"), b"content").unwrap();
    live.run(&["attr", "+dax", "mnt/f", "mnt"]).success();
    live.run(&["attr", "-dax", "mnt/f"]).success();
    live.run(&["attr", "+checksum", "mnt/f"])
        .fails_with(&["mnt/f", "not mounted"]);
    fs::write(live.mounts.path("inherits"), b"").unwrap();
    live.run(&["tier", "--to", "dax", "mnt/f"]).success();
    live.run(&["tier", "--to", "data", "mnt/f"])
        .fails_with(&["mnt/f", "no data device"]);
    let stat = live.run(&["umount", "mnt"]);
    stat.success();
    for file in ["pool:/f", "pool:/inherits", "pool:/"] {
        let stat = live.run(&["stat", "--json", file]).json();
        assert_eq!(stat["dax"], true, "{stat}");
    }
}

#[test]
fn a_mounted_pool_is_scrubbed_by_its_daemon() {
    let Some(live) = Live::new() else { return };
    live.run(&["mkfs", "--force", "--size", "64M", "--data-checksum", "pool"])
        .success();
    live.run(&["mount", "pool", "mnt"]).success();
    let content: Vec<u8> = (0..16_u32 << 20)
        .map(|at| (at / 4096 % 251).to_le_bytes()[0])
        .collect();
    fs::write(live.path("file"), &content).unwrap();
    for place in ["mnt", "pool"] {
        let told = live.run(&["scrub", place]).success();
        assert!(told.contains("nothing is wrong"), "{told}");
    }
    // One at a time; and a stop of the mount ends it.
    let begin = || {
        let mut slow = live.command();
        slow.args(["scrub", "--rate", "256K", "mnt"])
            .stderr(Stdio::null());
        slow.spawn().unwrap()
    };
    let mut slow = begin();
    until(|| {
        // The other one may have been first.
        if slow.try_wait().unwrap().is_some() {
            slow = begin();
        }
        live.run(&["scrub", "mnt"]).stderr().contains("another scrub")
    });
    live.run(&["scrub", "pool"])
        .fails_with(&["pool", "another scrub"]);
    live.run(&["umount", "mnt"]).success();
    assert_eq!(slow.wait().unwrap().code(), Some(1));

    // What the medium changes beneath a mount is found there.
    live.run(&["mount", "pool", "mnt"]).success();
    let pool = live.mounts.place.path("pool");
    let bytes = fs::read(&pool).unwrap();
    let block = bytes
        .chunks(4096)
        .position(|block| *block == content[77 << 12..78 << 12]);
    let file = fs::File::options().write(true).open(&pool).unwrap();
    let at = u64::try_from(block.unwrap()).unwrap() * 4096 + 5;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0], at).unwrap();
    let ran = live.run(&["scrub", "--json", "mnt"]);
    ran.status(4);
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report}");
    assert_eq!(findings[0]["kind"], "wrong_data");
    assert_eq!(findings[0]["path"]["name"], "/file");
    live.run(&["umount", "mnt"]).success();
}

/// A process of a user that answers as the pool's.
const LIAR: &str = "
import os, socket, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print('ready', flush=True)
while True:
    client, _ = listener.accept()
    try:
        client.sendall(sys.argv[2].encode() + b'\\n')
    except OSError:
        pass
";

/// A user's runtime directory, which goes at the end, and its process.
struct Liar {
    directory: PathBuf,
    process: Child,
}

impl Liar {
    /// Says `what` of the pool.
    fn start(what: &str) -> Self {
        const USER: u32 = 64_999;
        let directory = PathBuf::from(format!("/run/user/{USER}"));
        fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(USER), None).unwrap();
        let mut process = Command::new("python3")
            .args(["-c", LIAR, directory.join("udax/1.sock").to_str().unwrap(), what])
            .uid(USER)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        process.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self { directory, process }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn what_a_user_says_of_roots_pools_is_not_believed() {
    let Some(live) = Live::new() else { return };
    let said = live.run(&["stats", "--json", "pool"]).success();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let said = said.to_string().replace(r#""path":""#, r#""path":"LIE"#);
    assert!(said.contains("LIE"), "{said}");
    let _liar = Liar::start(&said);
    let told = live.run(&["stats", "--json", "pool"]).success();
    assert!(!told.contains("LIE"), "{told}");
    let told = live.run(&["scrub", "pool"]).success();
    assert!(told.contains("nothing is wrong"), "{told}");
    // It would be, were it his.
    std::os::unix::fs::chown(live.mounts.place.path("pool"), Some(64_999), None).unwrap();
    let told = live.run(&["stats", "--json", "pool"]).success();
    assert!(told.contains("LIE"), "{told}");
}

#[test]
fn a_mount_that_does_not_answer_is_told_as_such() {
    let Some(live) = Live::new() else { return };
    let mut daemon = live.start(&[]);
    live.run(&["stats", "mnt"]).success();
    let pid = Pid::from_child(&daemon);
    kill_process(pid, Signal::STOP).unwrap();
    // All of its threads.
    waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    live.run(&["stats", "mnt"])
        .fails_with(&["mnt", "does not answer"]);
    kill_process(pid, Signal::CONT).unwrap();
    live.run(&["stats", "mnt"]).success();
    // Without a cursor that can be moved, there is one picture.
    let mut top = live.command();
    let top = live
        .mounts
        .place
        .run_command(top.args(["top", "mnt"]).env("TERM", "dumb"));
    assert!(!top.success().contains('\u{1b}'));
    live.run(&["umount", "mnt"]).success();
    assert!(daemon.wait().unwrap().success());
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_a_page_on_a_loopback_address() {
    let Some(live) = Live::new() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut daemon = live.start(&["-o", &format!("metrics={address}")]);
    fs::write(live.path("f"), vec![1; 5000]).unwrap();
    let mut page = String::new();
    // A request is counted after it is answered.
    until(|| {
        page = get(address, "/metrics");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        let mut lines = page.lines();
        let bytes =
            lines.find(|line| line.starts_with("udax_request_bytes_total") && line.contains("\"write\""));
        bytes.is_some_and(|line| line.ends_with(" 5000"))
    });
    let bucket = "udax_request_duration_seconds_bucket";
    assert!(
        page.lines()
            .any(|line| line.starts_with(bucket) && line.contains("le=\"+Inf\"")),
        "{page}"
    );
    assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
    // Who says nothing keeps neither the next one nor the end of the mount.
    let silent = TcpStream::connect(address).unwrap();
    assert!(get(address, "/metrics").contains("udax_pool_info"));
    live.run(&["umount", "mnt"]).success();
    assert!(daemon.wait().unwrap().success());
    drop(silent);
}

#[test]
fn metrics_for_all_the_world_are_refused() {
    let Some(live) = Live::new() else { return };
    let refused = live.run(&["mount", "--metrics", "0.0.0.0:9180", "pool", "mnt"]);
    refused.status(1);
    assert!(refused.stderr().contains("loopback"), "{}", refused.stderr());
    let refused = live.run(&["mount", "--metrics", "/nowhere/here/f", "pool", "mnt"]);
    refused.status(1);
    assert!(
        refused.stderr().contains("existing directory"),
        "{}",
        refused.stderr()
    );
    assert_eq!(live.sockets(), Vec::<PathBuf>::new());
}

#[test]
fn a_contest_shows_its_pins() {
    let place = Place::with_pool("64M");
    let runtime = place.path("run");
    let mut command = place.command();
    command.env("UDAX_RUNTIME_DIR", &runtime);
    command.args([
        "stress",
        "truncate-dma",
        "--pool",
        "pool",
        "--seconds",
        "10",
        "--seed",
        "7",
    ]);
    let mut contest = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Not before it serves: who looks at the pool itself keeps it from being opened.
    until(|| {
        let serves = fs::read_dir(&runtime).is_ok_and(|mut sockets| sockets.next().is_some());
        serves || contest.try_wait().unwrap().is_some()
    });
    let mut pins = 0;
    until(|| {
        let mut command = place.command();
        command
            .env("UDAX_RUNTIME_DIR", &runtime)
            .args(["stats", "--json", "pool"]);
        let told = place.run_command(&mut command);
        // Nor when it has ended.
        if told.stdout().is_empty() {
            return contest.try_wait().unwrap().is_some();
        }
        let stats = told.json();
        let oldest = stats["pins"]["oldest"].as_array().unwrap();
        pins = pins.max(oldest.len());
        pins > 0 || contest.try_wait().unwrap().is_some()
    });
    assert!(pins > 0, "a contest has pins");
    assert!(contest.wait().unwrap().success());
}
