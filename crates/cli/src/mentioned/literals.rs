//! The texts within Rust source: string literals as they are when the program runs, and documentation.

/// String literals in their order, and the text of all `///` and `//!` comments.
pub fn literals_and_docs(source: &str) -> (Vec<String>, String) {
    let (mut literals, mut docs) = (Vec::new(), String::new());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            let line = rest.lines().next().unwrap_or_default();
            if let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
                docs += &format!("{doc}\n");
            }
            rest = &rest[line.len()..];
        } else if let Some((literal, after)) = raw(rest).or_else(|| quoted(rest)) {
            literals.push(literal);
            rest = after;
        } else {
            rest = &rest[letter(rest).unwrap_or(first.len_utf8())..];
        }
    }
    (literals, docs)
}

/// `r"..."`, with any number of `#` around.
fn raw(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('r')?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let inner = inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let (literal, after) = inner.split_once(&end)?;
    Some((literal.to_owned(), after))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let (mut literal, mut letters) = (String::new(), inner.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some((literal, letters.as_str())),
            '\\' => match letters.next()? {
                'n' => literal.push('\n'),
                // What is left out at the line's end goes up to the next word.
                '\n' => letters = letters.as_str().trim_start().chars(),
                '"' => literal.push('"'),
                other => literal.extend(['\\', other]),
            },
            other => literal.push(other),
        }
    }
    None
}

/// The length of a character's literal, which may be a quote. A lifetime has no end of this kind.
fn letter(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let mut letters = inner.char_indices();
    let first = letters.next()?.1;
    if first == '\\' {
        return inner[2..].find('\'').map(|at| at + 4);
    }
    letters.next().filter(|(_, second)| *second == '\'').map(|(at, _)| at + 2)
}
