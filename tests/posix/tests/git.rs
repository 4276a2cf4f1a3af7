//! git on a mount: this repository is cloned, changed, packed and verified, also after the daemon was killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use udax_test_posix::bounded::succeed;
use udax_test_posix::{Daemon, installed, is_long};

const LIMIT: Duration = Duration::from_secs(240);
/// Commits that a short run clones.
const DEPTH: &str = "20";
/// Commits made on the mount.
const COMMITS: usize = 10;

/// git with a configuration of its own, so that a user's does not matter.
struct Git {
    program: PathBuf,
    configuration: PathBuf,
}

impl Git {
    fn new(program: PathBuf, beside: &Path) -> Self {
        let configuration = beside.join("gitconfig");
        let text = "[user]\nname = Somebody\nemail = somebody@example.com\n[safe]\ndirectory = *\n\
                    [core]\nfsync = all\n[gc]\nauto = 0\n[init]\ndefaultBranch = main\n[advice]\ndetachedHead = false\n";
        std::fs::write(&configuration, text).unwrap();
        Self {
            program,
            configuration,
        }
    }

    /// What git prints when it does `arguments` in `directory`.
    #[track_caller]
    fn run(&self, directory: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command
            .current_dir(directory)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", &self.configuration)
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(variable);
        }
        succeed(&mut command, LIMIT).unwrap()
    }
}

/// The repository of this source tree, or, where it has none, one made of it.
fn source(git: &Git, beside: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if root.join(".git").exists() {
        return root.canonicalize().unwrap();
    }
    let copy = beside.join("source");
    std::fs::create_dir(&copy).unwrap();
    git.run(&copy, &["init", "--quiet"]);
    for (at, folder) in ["crates", "docs"].into_iter().enumerate() {
        let mut command = Command::new("cp");
        command.arg("-r").arg(root.join(folder)).arg(&copy);
        succeed(&mut command, LIMIT).unwrap();
        git.run(&copy, &["add", "."]);
        git.run(&copy, &["commit", "--quiet", "-m", &format!("part {at}")]);
    }
    copy
}

/// Clones, and compares with the source. `HEAD` alone is cloned: others may push to a repository meanwhile.
fn clone(git: &Git, mount: &Path, source: &Path) -> PathBuf {
    let head = git.run(source, &["rev-parse", "HEAD"]);
    let from = format!("file://{}", source.display());
    git.run(mount, &["init", "--quiet", "clone"]);
    let copy = mount.join("clone");
    let depth = format!("--depth={DEPTH}");
    let mut fetch = vec!["fetch", "--quiet", "--no-tags", &from, head.trim()];
    if !is_long() {
        fetch.push(&depth);
    }
    git.run(&copy, &fetch);
    git.run(&copy, &["checkout", "--quiet", "-b", "work", head.trim()]);
    let tree = |directory: &Path| git.run(directory, &["ls-tree", "-r", head.trim()]);
    assert_eq!(tree(&copy), tree(source));
    assert_eq!(
        git.run(&copy, &["status", "--porcelain"]),
        "",
        "what was checked out is as it was committed"
    );
    copy
}

/// Branches, commits, moves files and merges; gives the last commit.
fn change(git: &Git, copy: &Path, name: &str) -> String {
    git.run(copy, &["checkout", "--quiet", "-b", name]);
    for at in 0..COMMITS {
        let text = format!("{name} {at}\n").repeat(at * 500 + 1);
        std::fs::write(copy.join(format!("{name}-{at}")), text).unwrap();
        git.run(copy, &["add", "."]);
        git.run(copy, &["commit", "--quiet", "-m", &format!("{name} {at}")]);
    }
    let moved = format!("{name}-moved");
    git.run(copy, &["mv", "crates", &moved]);
    git.run(copy, &["commit", "--quiet", "-m", "move a folder"]);
    git.run(copy, &["mv", &moved, "crates"]);
    git.run(copy, &["commit", "--quiet", "-m", "and back"]);
    git.run(copy, &["checkout", "--quiet", "work"]);
    git.run(copy, &["merge", "--quiet", "--no-ff", "-m", "merge", name]);
    git.run(copy, &["rev-parse", "HEAD"])
}

fn verify(git: &Git, copy: &Path, head: &str) {
    git.run(copy, &["fsck", "--full", "--strict", "--no-progress"]);
    assert_eq!(git.run(copy, &["rev-parse", "HEAD"]), head);
    assert_eq!(git.run(copy, &["status", "--porcelain"]), "");
}

/// How a daemon ends in the midst of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Nothing that git has answered may be lost.
    Killed,
    /// In a page cache is what git has not synced: it does not sync what it checks out.
    Unmounted,
}

fn exercise(options: &str, end: End) {
    let Some(program) = installed("git") else { return };
    let Some(mut daemon) = Daemon::new("512M", &[], options).unwrap() else {
        return;
    };
    let git = Git::new(program, daemon.beside());
    let source = source(&git, daemon.beside());
    let copy = clone(&git, &daemon.path(), &source);
    let head = change(&git, &copy, "first");
    verify(&git, &copy, &head);

    match end {
        End::Killed => daemon.kill().unwrap(),
        End::Unmounted => daemon.unmount().unwrap(),
    }
    daemon.mount().unwrap();
    verify(&git, &copy, &head);

    git.run(&copy, &["gc", "--quiet", "--prune=now"]);
    verify(&git, &copy, &head);
    let head = change(&git, &copy, "second");
    // Between two places of the mount by links, and then without the first.
    git.run(
        &daemon.path(),
        &["clone", "--quiet", "--local", "clone", "linked"],
    );
    std::fs::remove_dir_all(&copy).unwrap();
    let linked = daemon.path().join("linked");
    verify(&git, &linked, &head);
    git.run(&linked, &["gc", "--quiet", "--aggressive"]);
    verify(&git, &linked, &head);
    daemon.finish().unwrap();
}

#[test]
fn a_repository_is_cloned_changed_packed_and_sound() {
    exercise("", End::Killed);
}

#[test]
fn a_repository_without_dax() {
    exercise("dax=never,cache=16", End::Unmounted);
}
