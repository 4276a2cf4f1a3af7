//! Checks of the source tree that compilers and linters do not make.
//!
//! [`Tree`] reads the files that belong to the project; the tests of this package state the rules. A finding names the
//! file and the line, and the rule says why.
#![forbid(unsafe_code)]

pub mod manifest;
pub mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A text file of the project.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFile {
    /// Its path from the top of the project.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

impl SourceFile {
    /// Whether its name ends with `.extension`.
    pub fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    /// Its lines, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// The text files of the project, without what is built or belongs to version control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// The top of the project.
    pub root: PathBuf,
    /// All text files, sorted by path.
    pub files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the project that this package belongs to.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context("top of the project")?;
        let mut tree = Self {
            root: root.clone(),
            files: Vec::new(),
        };
        tree.read_directory(&root)?;
        tree.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(tree)
    }

    fn read_directory(&mut self, directory: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                // A worktree has `.git` as a file, a clone as a folder; mutants and fuzzing leave their own folders.
                if !matches!(name.as_str(), ".git" | "target" | "node_modules" | "mutants.out") {
                    self.read_directory(&path)?;
                }
            } else if name != ".git"
                && let Ok(text) = String::from_utf8(fs::read(&path).with_context(|| name.clone())?)
            {
                let path = path.strip_prefix(&self.root)?.to_owned();
                self.files.push(SourceFile { path, text });
            }
        }
        Ok(())
    }

    /// The files whose names end with `.extension`.
    pub fn with_extension(&self, extension: &str) -> impl Iterator<Item = &SourceFile> {
        self.files
            .iter()
            .filter(move |file| file.has_extension(extension))
    }

    /// The Rust files of crates and tools: no integration tests, benches or examples.
    pub fn shipped(&self) -> impl Iterator<Item = &SourceFile> {
        self.with_extension("rs").filter(|file| {
            let is_shipped = file.path.starts_with("crates") || file.path.starts_with("pmem-tools");
            is_shipped
                && file
                    .path
                    .components()
                    .any(|component| component.as_os_str() == "src")
        })
    }

    /// The file at `path` from the top.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn file(&self, path: &str) -> anyhow::Result<&SourceFile> {
        let found = self.files.iter().find(|file| file.path == Path::new(path));
        found.with_context(|| format!("{path} does not exist"))
    }
}

/// What breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings(Vec<String>);

impl Findings {
    /// Notes a finding in `file`; line 0 stands for the whole file.
    pub fn add(&mut self, file: &SourceFile, line: usize, what: impl std::fmt::Display) {
        let path = file.path.display();
        self.0.push(if line == 0 {
            format!("{path}: {what}")
        } else {
            format!("{path}:{line}: {what}")
        });
    }

    /// Fails when there are findings.
    ///
    /// # Panics
    /// When there are; the message has them all.
    #[track_caller]
    pub fn assert_none(&self) {
        assert!(
            self.0.is_empty(),
            "{} findings:\n{}",
            self.0.len(),
            self.0.join("\n")
        );
    }
}
