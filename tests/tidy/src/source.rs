//! Rust source without its comments and strings, so that a word in them is not taken for code.

/// `text` with every comment, string and character literal replaced by spaces; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = literal_len(rest).unwrap_or(0);
        if len == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            // A raw string begins within no word: skip to its end, so that `for r"` is not looked at from `r`.
            if first.is_alphanumeric() || first == '_' {
                let word = rest
                    .find(|next: char| !next.is_alphanumeric() && next != '_')
                    .unwrap_or(rest.len());
                code.push_str(&rest[..word]);
                rest = &rest[word..];
            }
            continue;
        }
        let (literal, after) = rest.split_at(len);
        code.extend(literal.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code
}

/// Bytes of the comment, string or character literal that `text` begins with.
fn literal_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment_len(text));
    }
    let unprefixed = ["br", "cr", "b", "c", "r"].into_iter().find_map(|prefix| {
        let rest = text.strip_prefix(prefix)?;
        rest.starts_with(['"', '#', '\'']).then_some((prefix, rest))
    });
    let (prefix, rest) = unprefixed.unwrap_or(("", text));
    if prefix.ends_with('r') {
        return Some(prefix.len() + raw_string_len(rest)?);
    }
    match rest.chars().next()? {
        '"' => Some(prefix.len() + quoted_len(rest, '"')),
        '\'' => Some(prefix.len() + character_len(rest)?),
        _ => None,
    }
}

fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn raw_string_len(text: &str) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let body = &text[hashes + 1..];
    Some(hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()))
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, not a lifetime.
fn character_len(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    let (at, second) = chars.next()?;
    if first == '\\' {
        return Some(quoted_len(text, '\''));
    }
    (second == '\'').then_some(at + 1)
}

/// Whether `word` stands in `code` as a whole word.
pub fn has_word(code: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_literals_are_gone() {
        let text = "a // unsafe\n/* unsafe /* unsafe */ unsafe */ b \"unsafe \\\" unsafe\" r#\"unsafe \" unsafe\"# c";
        let code = code_only(text);
        assert!(!has_word(&code, "unsafe"), "{code}");
        for kept in ["a", "b", "c"] {
            assert!(has_word(&code, kept), "{code}");
        }
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn lifetimes_and_characters_do_not_hide_code() {
        let code = code_only("fn f<'a>(x: &'a u8) { let c = '\"'; let d = '\\''; unsafe { b'\"' } }");
        assert!(has_word(&code, "unsafe"), "{code}");
        assert!(!code.contains('"'), "{code}");
    }

    #[test]
    fn a_part_of_a_word_is_not_the_word() {
        assert!(!has_word("unsafe_code", "unsafe"));
        assert!(has_word("{unsafe{", "unsafe"));
    }
}
