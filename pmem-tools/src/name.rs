//! Names, which may hold any bytes but `/` and NUL, as text.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

/// `bytes` with control characters, backslashes and what is not UTF-8 escaped: one line, whatever is in it.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// As [`escaped`], of a path.
pub(crate) fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// A name in JSON: the text, and where it is not UTF-8 also its bytes in hexadecimal, so that nothing is
/// lost.
#[derive(Serialize)]
pub(crate) struct JsonName {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
}

impl JsonName {
    /// The name `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let is_text = std::str::from_utf8(bytes).is_ok();
        Self {
            name: String::from_utf8_lossy(bytes).into_owned(),
            name_hex: (!is_text).then(|| hex(bytes)),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The path of bytes.
pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_one_printable_line() {
        assert_eq!(escaped(b"a\nb\\c\xff\x1b"), "a\\nb\\\\c\\xff\\u{1b}");
        assert_eq!(escaped("größe".as_bytes()), "größe");
    }

    #[test]
    fn json_keeps_bytes_that_are_not_text() {
        let json = serde_json::to_string(&JsonName::new(b"\xff")).unwrap();
        assert!(json.contains("\"name_hex\":\"ff\""), "{json}");
        assert!(
            !serde_json::to_string(&JsonName::new(b"a"))
                .unwrap()
                .contains("hex")
        );
    }
}
