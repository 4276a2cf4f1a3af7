//! A pool, and a directory that the `udax` command mounts it on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use super::command::{Place, Ran};

/// Exit statuses of mount(8).
pub(super) const FAILED: i32 = 32;
pub(super) const USAGE: i32 = 1;

/// A place with a pool and a directory, whatever is mounted on which goes at the end.
pub(super) struct Mounts {
    pub(super) place: Place,
}

impl Mounts {
    pub(super) fn new() -> Option<Self> {
        let has_device = Path::new("/dev/fuse").exists();
        let is_root = rustix::process::geteuid().is_root();
        if !has_device || !is_root {
            eprintln!("skipped: needs /dev/fuse ({has_device}) and root ({is_root})");
            return None;
        }
        let place = Place::with_pool("32M");
        fs::create_dir(place.path("mnt")).unwrap();
        Some(Self { place })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path("mnt").join(name)
    }

    pub(super) fn mount(&self, options: &str) -> Ran {
        self.place.run(["mount", "-o", options, "pool", "mnt"])
    }

    pub(super) fn umount(&self) -> Ran {
        self.place.run(["umount", "mnt"])
    }

    /// The daemon as a child, when its mount is there.
    pub(super) fn start(&self) -> Child {
        let mut command = self.place.command();
        command.args(["mount", "--foreground", "pool", "mnt"]);
        self.begin(command.stdout(Stdio::null()))
    }

    /// The child of a command that mounts in the foreground, when the mount is there.
    pub(super) fn begin(&self, command: &mut Command) -> Child {
        let mut daemon = command.spawn().unwrap();
        while self.line().is_none() {
            assert!(
                daemon.try_wait().unwrap().is_none(),
                "the daemon ended before it mounted"
            );
            std::thread::yield_now();
        }
        daemon
    }

    /// The line of the mount in the kernel's list.
    pub(super) fn line(&self) -> Option<String> {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = self.place.path("mnt");
        let directory = directory.to_str().unwrap();
        list.lines()
            .find(|line| line.split(' ').nth(4) == Some(directory))
            .map(str::to_owned)
    }

    #[track_caller]
    pub(super) fn fails(&self, ran: &Ran, status: i32, parts: &[&str]) {
        ran.status(status);
        let told = ran.stderr();
        assert_eq!(told.lines().count(), 1, "{told}");
        for part in parts {
            assert!(told.contains(part), "no '{part}' in {told}");
        }
        assert_eq!(self.line(), None, "nothing is left mounted");
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        while self.line().is_some() {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
            if unmount(self.place.path("mnt"), flags).is_err() {
                break;
            }
        }
    }
}
