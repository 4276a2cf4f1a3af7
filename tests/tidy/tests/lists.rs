//! Lists that scripts and packages keep of the same things.

use std::collections::BTreeSet;

use udax_test_tidy::Tree;

/// Packages with unsafe code that are in no list: the
/// contest is run by its tests, `udax-test-stress`.
const UNSAFE_BUT_NOT_LISTED: [&str; 1] = ["udax-stress"];

fn tree() -> Tree {
    Tree::read().expect("the source tree can be read")
}

fn text(tree: &Tree, path: &str) -> String {
    let file = tree.file(path).expect("the file is there");
    file.text.clone()
}

/// What stands between `before` and the next `after` in `text`.
fn list<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let (_, rest) = text.split_once(before).expect("where the list begins");
    let (list, _) = rest.split_once(after).expect("where it ends");
    list
}

/// The same, word by word.
fn words<'t>(text: &'t str, before: &str, after: &str) -> BTreeSet<&'t str> {
    let words = list(text, before, after).split_whitespace();
    words.filter(|word| *word != "\\").collect()
}

/// What is in quotation marks there.
fn quoted(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let quoted = list(text, before, after).split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// The names of files or folders directly in `folder`, without what `suffix` cuts off.
fn names(tree: &Tree, folder: &str, suffix: &str) -> BTreeSet<String> {
    let inside = tree
        .files
        .iter()
        .filter_map(|file| file.path.strip_prefix(folder).ok());
    let first = inside.filter_map(|path| path.components().next()?.as_os_str().to_str());
    first
        .map(|name| name.trim_end_matches(suffix).to_owned())
        .collect()
}

#[test]
fn each_fuzz_target_is_known_everywhere() {
    let tree = tree();
    let library = text(&tree, "tests/fuzz/src/lib.rs");
    let targets = quoted(&library, "TARGETS: ", "];");
    assert!(targets.len() > 10, "{targets:?}");

    let script = text(&tree, "ci/fuzz");
    let scripted: BTreeSet<String> = words(&script, "targets=${*:-", "}")
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(scripted, targets, "ci/fuzz");
    let manifest = text(&tree, "tests/fuzz/libfuzzer/Cargo.toml");
    let (_, binaries) = manifest.split_once("[[bin]]").expect("a binary");
    let binaries = binaries.lines().filter_map(|line| line.strip_prefix("name = "));
    let binaries: BTreeSet<String> = binaries.map(|name| name.trim_matches('"').to_owned()).collect();
    assert_eq!(binaries, targets, "tests/fuzz/libfuzzer/Cargo.toml");
    assert_eq!(names(&tree, "tests/fuzz/libfuzzer/fuzz_targets", ".rs"), targets);
    let corpus = tree.root.join("tests/fuzz/corpus");
    let folders = std::fs::read_dir(corpus).expect("the corpus");
    let folders: BTreeSet<String> = folders
        .map(|folder| {
            folder
                .expect("a folder")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(folders, targets, "tests/fuzz/corpus");
}

#[test]
fn each_fault_is_explained_and_no_other() {
    let tree = tree();
    let code = text(&tree, "crates/sync/src/fault.rs");
    let names = quoted(&code, "\nfaults! {", "\n}");
    assert!(names.len() > 20, "{names:?}");
    let mut explained = BTreeSet::new();
    let documents = ["docs/crash-consistency.md", "docs/testing.md"].map(|path| text(&tree, path));
    for document in &documents {
        let mut is_table = false;
        for line in document.lines() {
            is_table = line.starts_with("| fault |") || is_table && line.starts_with('|');
            if is_table && let Some((name, _)) = line.trim_start_matches("| `").split_once('`') {
                assert!(explained.insert(name.to_owned()), "{name} twice");
            }
        }
    }
    assert_eq!(explained, names);
}

#[test]
fn each_package_with_unsafe_code_runs_under_both_sanitizers() {
    let tree = tree();
    let script = text(&tree, "ci/sanitize");
    let (address, thread) = script.split_once("thread)").expect("the thread sanitizer's part");
    for part in [address, thread] {
        let listed = words(part, "|| set -- ", "export");
        for package in names(&tree, "crates", "") {
            let library = text(&tree, &format!("crates/{package}/src/lib.rs"));
            let package = match package.as_str() {
                "udax" => package,
                _ => format!("udax-{package}"),
            };
            let is_safe = library.contains("forbid(unsafe_code)");
            let is_excused = UNSAFE_BUT_NOT_LISTED.contains(&package.as_str());
            assert!(
                is_safe || is_excused || listed.contains(package.as_str()),
                "{package}: {listed:?}"
            );
        }
    }
}
