//! What is wrong with a project file, where, and what to do about it.

use std::fmt;

/// Most faults that are shown together; further ones are only counted.
pub const FAULTS_MAX: usize = 50;
/// Longest piece of a source line that a fault shows, in characters.
const SNIPPET_CHARS_MAX: usize = 110;
/// Longest piece of a user's text that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// Where a piece of text is. A value that goes on over several lines is told by its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Span {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters; cut at the line's end when it is shown.
    pub width: usize,
}

/// One fault in a project file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What to do about it.
    pub hint: Option<String>,
    width: usize,
    snippet: Option<Snippet>,
}

/// The source line of a fault, or the piece of a long one around it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snippet {
    text: String,
    /// How far in the fault begins, and how much of it is underlined, in characters.
    offset: usize,
    width: usize,
}

/// Every fault that was found in a project file, in the order of their places; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub file_name: String,
    /// At most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
    /// How many more there are than `faults` holds.
    pub more: usize,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            fault.render(&self.file_name, f)?;
        }
        if self.more > 0 {
            let plural = if self.more == 1 { "fault is" } else { "faults are" };
            writeln!(f, "\n{} more {plural} not shown", self.more)?;
        }
        Ok(())
    }
}

impl Fault {
    fn render(&self, file_name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = " ".repeat(self.line.to_string().len());
        writeln!(f, "error: {}", self.message)?;
        writeln!(f, "{gutter}--> {file_name}:{}:{}", self.line, self.column)?;
        if let Some(Snippet { text, offset, width }) = &self.snippet {
            writeln!(f, "{gutter} |")?;
            writeln!(f, "{} | {text}", self.line)?;
            writeln!(f, "{gutter} | {}{}", " ".repeat(*offset), "^".repeat(*width))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

impl Snippet {
    /// Nothing for an empty line.
    fn new(line: &str, column: usize, width: usize) -> Option<Snippet> {
        let chars: Vec<char> = line.trim_end().chars().map(printable).collect();
        if chars.is_empty() {
            return None;
        }
        let at = (column - 1).min(chars.len());
        let from = if chars.len() <= SNIPPET_CHARS_MAX { 0 } else { at.saturating_sub(SNIPPET_CHARS_MAX / 4) };
        let to = chars.len().min(from + SNIPPET_CHARS_MAX);
        let width = width.min(to - at).max(1);
        Some(Snippet { text: chars[from..to].iter().collect(), offset: at - from, width })
    }
}

/// Gathers faults while a project file is read.
pub(super) struct Sink<'t> {
    file_name: &'t str,
    lines: Vec<&'t str>,
    faults: Vec<Fault>,
}

impl<'t> Sink<'t> {
    pub fn new(text: &'t str, file_name: &'t str) -> Sink<'t> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Sink { file_name, lines: text.split('\n').collect(), faults: Vec::new() }
    }

    pub fn line(&self, number: usize) -> &'t str {
        self.lines.get(number.wrapping_sub(1)).copied().unwrap_or_default()
    }

    pub fn add(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        let hint = hint.into();
        self.faults.push(Fault {
            message: message.into(),
            line: span.line.max(1),
            column: span.column.max(1),
            hint: (!hint.is_empty()).then_some(hint),
            width: span.width,
            snippet: None,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether there are so many faults that looking for good hints is no longer worth its time.
    pub fn is_crowded(&self) -> bool {
        self.faults.len() > 10 * FAULTS_MAX
    }

    /// All faults so far.
    pub fn into_faults(mut self) -> Faults {
        self.faults.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        // A faulty value that is used in several places by an alias is one fault, not several.
        self.faults.dedup_by(|b, a| (a.line, a.column, &a.message) == (b.line, b.column, &b.message));
        let more = self.faults.len().saturating_sub(FAULTS_MAX);
        self.faults.truncate(FAULTS_MAX);
        // Only now, as a line of a megabyte can hold very many faults.
        for fault in &mut self.faults {
            let line = self.lines.get(fault.line - 1).copied().unwrap_or_default();
            fault.snippet = Snippet::new(line, fault.column, fault.width);
        }
        Faults { file_name: self.file_name.to_owned(), faults: self.faults, more }
    }
}

/// A user's text in a message: in backquotes, on one line, shortened, without what could drive a terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).map(printable).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

fn printable(c: char) -> char {
    // Bidirectional overrides would show the line in another order than it is read in.
    match c {
        '\t' | '\n' | '\r' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// The known word that `text` most likely was meant to be.
pub fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let known: Vec<&str> = known.into_iter().collect();
    let far = (text.chars().count() / 3).clamp(1, 4);
    let close = known.iter().map(|word| (distance(text, word, far), *word)).filter(|(d, _)| *d <= far);
    let close = close.min_by_key(|(d, _)| *d).map(|(_, word)| word);
    // `retry` is far from `retries` by its letters, and yet nothing else can be meant.
    close.or_else(|| {
        let shared = |word: &str| text.chars().zip(word.chars()).take_while(|(a, b)| a == b).count();
        let alike = known
            .iter()
            .map(|word| (shared(word), *word))
            .filter(|(n, _)| *n >= 4 && n * 3 >= text.chars().count() * 2);
        alike.max_by_key(|(n, _)| *n).map(|(_, word)| word)
    })
}

/// How many insertions, removals, replacements and swaps of neighbours turn one text into the other;
/// anything above `max` when it is more than `max`.
fn distance(a: &str, b: &str, max: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > max {
        return max + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["run", "resources", "retries", "release", "timeout"];
        let check = |text: &str, word: Option<&str>| assert_eq!(nearest(text, known), word, "{text}");
        check("resuorces", Some("resources"));
        check("retires", Some("retries"));
        check("rum", Some("run"));
        check("rn", Some("run"));
        check("retry", Some("retries"));
        check("restart", None);
        check("colour", None);
        check("", None);
    }
}
