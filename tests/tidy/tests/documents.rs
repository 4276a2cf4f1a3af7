//! Rules of the documents, and of what code and documents both say.

use udax_test_tidy::source::code_only;
use udax_test_tidy::{Findings, SourceFile, Tree};

/// Columns of a line of prose; tables and links may be longer.
const MAX_PROSE_COLUMNS: usize = 160;

fn tree() -> Tree {
    Tree::read().expect("the source tree can be read")
}

fn file<'t>(tree: &'t Tree, path: &str) -> &'t SourceFile {
    tree.file(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_a_project_needs_is_there() {
    let tree = tree();
    for path in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "deny.toml",
        "ci/test",
        "ci/check",
        ".ci/run",
        ".config/nextest.toml",
        "docs/glossary.md",
        "docs/locking.md",
        "docs/testing.md",
        "docs/decisions/README.md",
    ] {
        assert!(file(&tree, path).text.len() > 20, "{path} is empty");
    }
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let tree = tree();
    let readme = file(&tree, "README.md").text.as_str();
    let shown = readme
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let compiled = &file(&tree, "crates/udax/examples/quick_start.rs").text;
    assert!(
        shown.is_some_and(|code| compiled.ends_with(code)),
        "README.md and quick_start.rs differ"
    );
}

#[test]
fn the_readme_gives_the_two_commands_and_they_exist() {
    let tree = tree();
    let readme = file(&tree, "README.md");
    for command in ["cargo run --release -- demo", "ci/test"] {
        assert!(
            readme.lines().any(|(_, line)| line.trim() == command),
            "README.md does not give `{command}`"
        );
    }
    let tools = file(&tree, "pmem-tools/Cargo.toml");
    assert!(
        tools.text.contains("name = \"udax\""),
        "`cargo run` has no program `udax` to run"
    );
    let workspace = file(&tree, "Cargo.toml");
    assert!(
        workspace.text.contains("default-members = [\"pmem-tools\"]"),
        "`cargo run` does not run the tools"
    );
    for script in ["ci/test", "ci/check", ".ci/run"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(tree.root.join(script)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Findings::default();
    let tree = tree();
    for file in tree.with_extension("md") {
        let directory = tree.root.join(&file.path);
        let directory = directory.parent().expect("a file is in a directory");
        for (number, line) in file.lines() {
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                let target = target.split(['#', ' ']).next().unwrap_or_default();
                let is_external = target.contains("://") || target.starts_with("mailto:");
                if !target.is_empty() && !is_external && !directory.join(target).exists() {
                    findings.add(file, number, format!("link to {target}, which does not exist"));
                }
            }
        }
    }
    findings.assert_none();
}

#[test]
fn prose_is_broken_into_lines() {
    let mut findings = Findings::default();
    for file in tree().with_extension("md") {
        for (number, line) in file.lines() {
            let is_exempt = line.starts_with('|') || line.contains("](") || line.contains("://");
            if !is_exempt && line.chars().count() > MAX_PROSE_COLUMNS {
                findings.add(file, number, format!("more than {MAX_PROSE_COLUMNS} columns"));
            }
        }
    }
    findings.assert_none();
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    // Assembled here, so that this file does not find itself.
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let mut findings = Findings::default();
    for file in &tree().files {
        for (number, line) in file.lines() {
            for place in places.iter().filter(|place| line.contains(**place)) {
                findings.add(file, number, format!("`{place}` exists on one machine"));
            }
        }
    }
    findings.assert_none();
}

/// The variants of `enum Rank`, in order, with their numbers.
fn ranks(tree: &Tree) -> Vec<(String, u32)> {
    let code = code_only(&file(tree, "crates/sync/src/rank.rs").text);
    let body = code
        .split("pub enum Rank {")
        .nth(1)
        .and_then(|rest| rest.split('}').next());
    let ranks: Vec<(String, u32)> = body
        .expect("rank.rs declares Rank")
        .split(',')
        .filter_map(|variant| {
            let (name, number) = variant.trim().split_once('=')?;
            Some((name.trim().to_owned(), number.trim().parse().ok()?))
        })
        .collect();
    assert!(ranks.len() >= 10, "only {} ranks could be read", ranks.len());
    ranks
}

#[test]
fn each_rank_is_in_the_lock_table() {
    let tree = tree();
    let document = file(&tree, "docs/locking.md");
    let mut findings = Findings::default();
    for (name, number) in ranks(&tree) {
        let row = format!("| {number} | `{name}` |");
        if !document.text.contains(&row) {
            findings.add(document, 0, format!("no row `{row}`"));
        }
    }
    for (number, line) in document.lines() {
        let Some(name) = line.split("| `").nth(1).and_then(|rest| rest.split('`').next()) else {
            continue;
        };
        let is_rank_row = line
            .split('|')
            .nth(1)
            .is_some_and(|cell| cell.trim().parse::<u32>().is_ok());
        if is_rank_row && !ranks(&tree).iter().any(|(rank, _)| rank == name) {
            findings.add(document, number, format!("{name} is no rank"));
        }
    }
    findings.assert_none();
}

#[test]
fn each_lock_has_a_declared_rank() {
    let tree = tree();
    let ranks = ranks(&tree);
    let mut findings = Findings::default();
    for file in tree
        .shipped()
        .filter(|file| !file.path.starts_with("crates/sync"))
    {
        let code = code_only(&file.text);
        for (number, line) in (1..).zip(code.lines()) {
            for rest in line.split("Rank::").skip(1) {
                let name: String = rest.chars().take_while(|char| char.is_alphanumeric()).collect();
                if !ranks.iter().any(|(rank, _)| *rank == name) {
                    findings.add(file, number, format!("Rank::{name} is not declared"));
                }
            }
        }
    }
    findings.assert_none();
}

#[test]
fn each_decision_is_in_the_index() {
    let tree = tree();
    let index = file(&tree, "docs/decisions/README.md");
    let mut findings = Findings::default();
    let mut count = 0;
    for decision in tree
        .with_extension("md")
        .filter(|file| file.path.starts_with("docs/decisions"))
    {
        let name = decision
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name == "README.md" {
            continue;
        }
        count += 1;
        if !index.text.contains(&format!("]({name})")) {
            findings.add(index, 0, format!("does not list {name}"));
        }
        for part in ["## Context", "## Decision", "## Consequences"] {
            if !decision.text.contains(part) {
                findings.add(decision, 0, format!("has no part `{part}`"));
            }
        }
    }
    assert!(count >= 7, "only {count} decisions found");
    findings.assert_none();
}
