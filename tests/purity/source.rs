//! Reads Rust source as far as the rules need: the paths that a module names.

/// The words and signs of a source file, without comments and what stands in quotes.
pub struct Source {
    tokens: Vec<String>,
}

impl Source {
    /// Reads a source file up to its tests, which stand last.
    pub fn without_tests(text: &str) -> Self {
        let tests = ["mod tests {", "pub(super) mod tests {"];
        let end = tests
            .iter()
            .find_map(|tests| text.find(&format!("\n#[cfg(test)]\n{tests}")));
        let end = end.unwrap_or(text.len());
        Self {
            tokens: tokens(&text[..end]),
        }
    }

    /// Every path that is named, `use` trees spread out, and every single word.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = &self.tokens[..];
        while let Some((first, after)) = rest.split_first() {
            // `use<'a>` is a bound and no item.
            let is_item = first == "use" && after.first().is_none_or(|next| next != "<");
            rest = if is_item {
                use_tree(after, "", &mut paths)
            } else if is_word(first) {
                path(rest, &mut paths)
            } else {
                after
            };
        }
        paths
    }
}

/// Takes one `use` tree, and answers what follows it.
fn use_tree<'a>(mut rest: &'a [String], before: &str, paths: &mut Vec<String>) -> &'a [String] {
    let mut path = before.to_owned();
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "{" => {
                rest = after;
                while rest.first().is_some_and(|token| token != "}") {
                    rest = use_tree(rest, &path, paths);
                    if rest.first().is_some_and(|token| token == ",") {
                        rest = &rest[1..];
                    }
                }
                return rest.get(1..).unwrap_or_default();
            }
            "," | "}" | ";" => break,
            // What a name is called here changes nothing about what it is.
            "as" => rest = after.get(1..).unwrap_or_default(),
            part => {
                path.push_str(part);
                rest = after;
            }
        }
    }
    paths.push(path);
    rest
}

/// Takes one path of an expression or a type, and answers what follows it.
fn path<'a>(mut rest: &'a [String], paths: &mut Vec<String>) -> &'a [String] {
    let mut path = String::new();
    while let [word, after @ ..] = rest
        && is_word(word)
    {
        path.push_str(word);
        match after {
            [colons, next, ..] if colons == "::" && is_word(next) => {
                path.push_str(colons);
                rest = &after[1..];
            }
            _ => {
                rest = after;
                break;
            }
        }
    }
    paths.push(path);
    rest
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = quoted(rest) {
            length
        } else if rest.starts_with("::") {
            found.push("::".to_owned());
            2
        } else if word > 0 {
            found.push(rest[..word].to_owned());
            word
        } else {
            if !first.is_whitespace() {
                found.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The length of a comment that may hold further ones.
fn block_comment(text: &str) -> usize {
    let mut open = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => open += 1,
            b"*/" => open -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if open == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of a string or character that begins here.
fn quoted(text: &str) -> Option<usize> {
    let after_prefix = text
        .strip_prefix('b')
        .or_else(|| text.strip_prefix('c'))
        .unwrap_or(text);
    let prefix = text.len() - after_prefix.len();
    if let Some(raw) = after_prefix.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = raw[hashes..].strip_prefix('"')?;
        let begin = text.len() - inside.len();
        return Some(inside.find(&end).map_or(text.len(), |at| begin + at + end.len()));
    }
    let quote = after_prefix.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in after_prefix.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix + at + 1),
            // A lifetime: one character or more, and no quote right behind the first.
            _ if quote == '\'' && at > 1 && !after_prefix[1..at].starts_with('\\') => return None,
            _ => {}
        }
    }
    None
}
