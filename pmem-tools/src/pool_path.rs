//! `POOL:/PATH`: a place inside a pool.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::builder::{TypedValueParser, ValueParserFactory};

/// A pool, and a path in it from the root. The argument is split at its first `:/`; without one it is all
/// pool, and the path is the root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PoolPath {
    /// The file or device that holds the pool.
    pub(crate) pool: PathBuf,
    /// The path, absolute.
    pub(crate) path: PathBuf,
    /// The argument, which may be a path of the host.
    pub(crate) argument: PathBuf,
}

impl PoolPath {
    /// Splits an argument.
    pub(crate) fn new(argument: &OsStr) -> Self {
        let bytes = argument.as_bytes();
        let split = bytes.windows(2).position(|pair| pair == b":/");
        let (pool, path) = match split {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes.strip_suffix(b":").unwrap_or(bytes), b"/".as_slice()),
        };
        Self {
            pool: PathBuf::from(OsString::from_vec(pool.to_vec())),
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
            argument: PathBuf::from(argument),
        }
    }

    /// Whether the path is the root.
    pub(crate) fn is_root(&self) -> bool {
        !self
            .path
            .components()
            .any(|part| matches!(part, std::path::Component::Normal(_)))
    }
}

impl fmt::Display for PoolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", in_pool(&self.pool, &self.path))
    }
}

/// `POOL:/PATH`, for messages.
pub(crate) fn in_pool(pool: &Path, path: &Path) -> String {
    let path = crate::name::shown(path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}:{slash}{path}", crate::name::shown(pool))
}

/// Lets clap take a [`PoolPath`], bytes that are not UTF-8 included.
#[derive(Clone)]
pub(crate) struct PoolPathParser;

impl TypedValueParser for PoolPathParser {
    type Value = PoolPath;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<PoolPath, clap::Error> {
        let parsed = PoolPath::new(value);
        if parsed.pool.as_os_str().is_empty() {
            let name = argument.map_or_else(String::new, |argument| argument.get_id().to_string());
            let mut error = clap::Error::new(clap::error::ErrorKind::InvalidValue).with_cmd(command);
            error.insert(
                clap::error::ContextKind::InvalidArg,
                clap::error::ContextValue::String(name),
            );
            error.insert(
                clap::error::ContextKind::InvalidValue,
                clap::error::ContextValue::String(crate::name::escaped(value.as_bytes())),
            );
            return Err(error);
        }
        Ok(parsed)
    }
}

impl ValueParserFactory for PoolPath {
    type Parser = PoolPathParser;

    fn value_parser() -> PoolPathParser {
        PoolPathParser
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(argument: &str) -> (String, String) {
        let parsed = PoolPath::new(OsStr::new(argument));
        (
            parsed.pool.to_str().unwrap().to_owned(),
            parsed.path.to_str().unwrap().to_owned(),
        )
    }

    #[test]
    fn splits_at_the_first_colon_slash() {
        for (argument, pool, path) in [
            ("p:/", "p", "/"),
            ("p:/a/b", "p", "/a/b"),
            ("/mnt/a:b:/c", "/mnt/a:b", "/c"),
            ("p:/a:/b", "p", "/a:/b"),
            ("p", "p", "/"),
            ("p:", "p", "/"),
            ("p:q", "p:q", "/"),
        ] {
            assert_eq!(split(argument), (pool.to_owned(), path.to_owned()), "{argument}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_survive() {
        let parsed = PoolPath::new(OsStr::from_bytes(b"p\xff:/\xfe"));
        assert_eq!(parsed.pool.as_os_str().as_bytes(), b"p\xff");
        assert_eq!(parsed.path.as_os_str().as_bytes(), b"/\xfe");
    }

    #[test]
    fn the_root_is_recognised_however_it_is_written() {
        assert!(PoolPath::new(OsStr::new("p://./")).is_root());
        assert!(!PoolPath::new(OsStr::new("p:/a")).is_root());
    }
}
