//! Rules of the source code.

use std::collections::BTreeMap;
use std::path::Path;

use udax_test_tidy::manifest::Manifest;
use udax_test_tidy::source::{code_only, has_word};
use udax_test_tidy::{Findings, SourceFile, Tree};

/// Lines of a file of shipped code, tests apart.
const MAX_FILE_LINES: usize = 800;
/// Columns of a comment. Code has 110: the formatter's limit, which leaves alone only what cannot be broken.
const MAX_COLUMNS: usize = 120;
/// Folders whose code may be unsafe (docs and ARCHITECTURE.md say why).
const UNSAFE_FOLDERS: [&str; 8] = [
    "crates/sync",
    // Gives the kernel addresses of borrowed memory, in `ring`.
    "crates/disk",
    "crates/pmem",
    "crates/xarray",
    "crates/dax",
    "crates/pagecache",
    // Gives the kernel addresses of pinned pages, in `dma_ring`; denied in its other modules.
    "crates/stress",
    // The same, as a program of a user would.
    "crates/udax/examples/io_uring_zero_copy.rs",
];

fn tree() -> Tree {
    Tree::read().expect("the source tree can be read")
}

#[test]
fn each_package_depends_on_lower_layers_only() {
    let tree = tree();
    let mut findings = Findings::default();
    let manifests: Vec<(&SourceFile, Manifest)> = tree
        .with_extension("toml")
        .filter(|file| file.path.ends_with("Cargo.toml") && file.path != Path::new("Cargo.toml"))
        .map(|file| (file, Manifest::parse(&file.text)))
        .collect();
    assert!(manifests.len() >= 7, "only {} packages found", manifests.len());
    let layers: BTreeMap<&str, u32> = manifests
        .iter()
        .filter_map(|(_, manifest)| Some((manifest.name.as_str(), manifest.layer?)))
        .collect();
    for (file, manifest) in &manifests {
        let Some(layer) = manifest.layer else {
            findings.add(file, 0, "no `[package.metadata] layer`");
            continue;
        };
        if file.path.starts_with("tests") != (layer >= 8) {
            findings.add(
                file,
                0,
                format!("layer {layer}: packages in tests/, and only they, have layer 8 or more"),
            );
        }
        if !manifest.has_workspace_lints {
            findings.add(file, 0, "does not take the workspace's lints");
        }
        for dependency in &manifest.dependencies {
            match layers.get(dependency.as_str()) {
                Some(lower) if *lower < layer => {}
                Some(other) => {
                    findings.add(
                        file,
                        0,
                        format!("layer {layer} depends on {dependency} of layer {other}"),
                    );
                }
                None => findings.add(file, 0, format!("depends on {dependency}, which has no layer")),
            }
        }
        for dependency in &manifest.dev_dependencies {
            if layers.get(dependency.as_str()).is_none_or(|other| *other > layer) {
                findings.add(
                    file,
                    0,
                    format!("its tests depend on {dependency} of a higher layer"),
                );
            }
        }
    }
    findings.assert_none();
}

#[test]
fn unsafe_code_is_only_where_it_may_be() {
    let mut findings = Findings::default();
    let tree = tree();
    for file in tree.with_extension("rs") {
        let may_be_unsafe = UNSAFE_FOLDERS.iter().any(|folder| file.path.starts_with(folder));
        let is_root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        // A main.rs beside a lib.rs is a crate of its own.
        let code = code_only(&file.text);
        if !may_be_unsafe && is_root && !code.contains("#![forbid(unsafe_code)]") {
            findings.add(file, 0, "no `#![forbid(unsafe_code)]`");
        }
        // Compile-fail tests show what must not compile.
        let is_refused = file
            .path
            .components()
            .any(|part| part.as_os_str() == "compile_fail");
        if !may_be_unsafe && !is_refused && has_word(&code, "unsafe") {
            findings.add(file, 0, "unsafe code in a crate that forbids it");
        }
    }
    findings.assert_none();
}

#[test]
fn files_and_lines_are_short() {
    let mut findings = Findings::default();
    let tree = tree();
    for file in tree.shipped() {
        let lines = file
            .text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .count();
        if lines > MAX_FILE_LINES {
            findings.add(file, 0, format!("{lines} lines; at most {MAX_FILE_LINES}"));
        }
    }
    for file in tree.with_extension("rs") {
        for (number, line) in file.lines() {
            let columns = line.chars().count();
            // A string that cannot be broken is longer than the formatter wants; two lines' worth is too much.
            let line = line.trim_start();
            let is_comment = line.starts_with("//") && !line.starts_with("//! |");
            if columns > MAX_COLUMNS && (is_comment || columns > 2 * MAX_COLUMNS) {
                findings.add(file, number, format!("{columns} columns; at most {MAX_COLUMNS}"));
            }
        }
    }
    findings.assert_none();
}

#[test]
fn nothing_is_left_for_later() {
    // Assembled here, so that this file does not find itself.
    let words = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let calls = ["todo", "unimplemented", "dbg"];
    let mut findings = Findings::default();
    let tree = tree();
    for file in tree.with_extension("rs") {
        for (number, line) in file.lines() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                findings.add(file, number, format!("`{word}`"));
            }
        }
        let code = code_only(&file.text);
        for (number, line) in (1..).zip(code.lines()) {
            for call in calls.iter().filter(|call| line.contains(&format!("{call}!"))) {
                findings.add(file, number, format!("`{call}!`"));
            }
            // What several test binaries share is unused in some of them: neither `expect` nor nothing is right.
            let is_shared = file.path.components().any(|part| part.as_os_str() == "tests")
                && line.contains("#![allow(dead_code, reason =");
            if (line.contains("#[allow(") || line.contains("#![allow(")) && !is_shared {
                findings.add(file, number, "`allow`: use `expect` with a reason");
            }
        }
    }
    findings.assert_none();
}

#[test]
fn each_module_says_what_it_is_for() {
    let mut findings = Findings::default();
    for file in tree().with_extension("rs") {
        if file
            .path
            .components()
            .any(|part| part.as_os_str() == "compile_fail")
        {
            continue;
        }
        let head = file
            .text
            .lines()
            .find(|line| !line.starts_with("#!") && !line.trim().is_empty());
        if !head.is_some_and(|line| line.starts_with("//! ") && line.len() > 12) {
            findings.add(file, 1, "does not open with `//!`");
        }
        if head.is_some_and(|line| line.contains("(placeholder)")) {
            findings.add(file, 1, "a placeholder");
        }
    }
    findings.assert_none();
}

#[test]
fn modules_have_a_subject() {
    let vague = [
        "util", "utils", "common", "helper", "helpers", "types", "manager", "misc", "context",
    ];
    let mut findings = Findings::default();
    for file in tree().with_extension("rs") {
        let mut names = file
            .path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        if let Some(name) = names.find(|name| vague.contains(&name.trim_end_matches(".rs"))) {
            findings.add(file, 0, format!("`{name}` names no subject"));
        }
    }
    findings.assert_none();
}

#[test]
fn atomics_locks_and_threads_come_from_sync() {
    // In layers 1 to 3, so that loom and shuttle can take their places. Sharing and cells have no stand-in there.
    let foreign = [
        "std::sync::atomic",
        "std::sync::Mutex",
        "std::sync::RwLock",
        "std::sync::Condvar",
        "parking_lot::",
    ];
    let mut findings = Findings::default();
    let tree = tree();
    for file in tree
        .shipped()
        .filter(|file| !file.path.starts_with("crates/sync"))
    {
        let code = code_only(&file.text);
        let shipped = code.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in (1..).zip(shipped.lines()) {
            if file.path.starts_with("crates")
                && let Some(found) = foreign.iter().find(|path| line.contains(**path))
            {
                findings.add(file, number, format!("`{found}`: use udax-sync"));
            }
        }
    }
    findings.assert_none();
}
