//! pjdfstest: every test passes, or is skipped for want of what Linux does not have.

use std::process::Command;

use udax_test_posix::{Mounted, program, run};

/// Tests that must pass, at least: as many as on tmpfs, which has no limit of links either. The others remount.
const LEAST_PASSED: u32 = 384;

const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The number before `word` in the suite's last line.
fn count(summary: &str, word: &str) -> Option<u32> {
    let words: Vec<&str> = summary
        .split([' ', ',', ';'])
        .filter(|part| !part.is_empty())
        .collect();
    let at = words.iter().position(|part| *part == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

#[test]
fn pjdfstest_passes() {
    let Some(program) = program("pjdfstest") else {
        return;
    };
    let Some(mounted) = Mounted::new(256 << 20, "").unwrap() else {
        return;
    };
    let configuration = mounted.beside().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    // Beside the mount is another filesystem, which some tests need.
    let other = mounted.beside().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut suite = Command::new(program);
    suite
        .arg("-c")
        .arg(&configuration)
        .arg("-p")
        .arg(mounted.path())
        .arg("-s")
        .arg(&other);
    let output = run(&mut suite).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text
        .lines()
        .rev()
        .find(|line| line.contains("passed"))
        .unwrap_or_default();
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("FAILED")).collect();
    eprintln!("{summary}\n{}", failed.join("\n"));
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(count(summary, "failed"), Some(0), "{summary}");
    let passed = count(summary, "passed").unwrap_or(0);
    assert!(passed >= LEAST_PASSED, "{summary}");
    mounted.finish().unwrap();
}
