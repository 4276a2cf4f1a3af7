//! The little of `Cargo.toml` that the rules need, read by hand: a TOML parser would be the largest dependency here.

/// A package's manifest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Name of the package.
    pub name: String,
    /// `[package.metadata] layer`.
    pub layer: Option<u32>,
    /// Packages of this workspace that it depends on, other than for its tests.
    pub dependencies: Vec<String>,
    /// Those for its tests.
    pub dev_dependencies: Vec<String>,
    /// Whether it takes the workspace's lints.
    pub has_workspace_lints: bool,
}

impl Manifest {
    /// Reads a manifest in which a key and its value stand on one line.
    pub fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']').trim().to_owned();
                // `[dependencies.name]` is the long form of `name = { .. }`.
                if let Some((table, name)) = section.rsplit_once('.') {
                    manifest.depend(table, name);
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            match (section.as_str(), key) {
                ("package", "name") => manifest.name = value.trim_matches('"').to_owned(),
                ("package.metadata", "layer") => manifest.layer = value.parse().ok(),
                ("lints", "workspace") => manifest.has_workspace_lints = value == "true",
                (table, _) => manifest.depend(table, key.split('.').next().unwrap_or(key)),
            }
        }
        manifest
    }

    fn depend(&mut self, table: &str, name: &str) {
        if name != "udax" && !name.starts_with("udax-") {
            return;
        }
        if table.ends_with("dev-dependencies") {
            self.dev_dependencies.push(name.to_owned());
        } else if table.ends_with("dependencies") {
            self.dependencies.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_dependency_is_seen() {
        let manifest = Manifest::parse(
            "[package]\nname = \"udax-x\"\n[package.metadata]\nlayer = 3\n[lints]\nworkspace = true\n\
             [dependencies]\nudax-sync.workspace = true\n# udax-no = 1\nudax-media = { path = \"..\" }\nlibc = \"1\"\n\
             [target.'cfg(loom)'.dependencies]\nudax-pmem.workspace = true\n[dependencies.udax]\npath = \"..\"\n\
             [dev-dependencies]\nudax-check.workspace = true\n",
        );
        assert_eq!(manifest.name, "udax-x");
        assert_eq!(manifest.layer, Some(3));
        assert!(manifest.has_workspace_lints);
        assert_eq!(
            manifest.dependencies,
            ["udax-sync", "udax-media", "udax-pmem", "udax"]
        );
        assert_eq!(manifest.dev_dependencies, ["udax-check"]);
    }
}
