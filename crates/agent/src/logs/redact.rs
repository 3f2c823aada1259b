//! Secrets don't get into logs.

/// What stands in a secret's place.
const MASK: &str = "[redacted]";
/// Shorter values are not looked for, in bytes: they occur by chance, and masking them would only tell where.
pub const SECRET_BYTES_MIN: usize = 4;

/// Replaces secret values, as they were given, by a mask. Encoded forms of them (base64, URL) are not recognised.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// The longest first, so that a secret within another doesn't break it up. None contains a line end: of a
    /// secret of several lines, such as a PEM key, each line is looked for.
    values: Vec<String>,
}

impl Redactor {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Redactor {
        let lines = secrets.into_iter().flat_map(|secret| secret.split(['\n', '\r']));
        let mut values: Vec<String> =
            lines.map(str::trim).filter(|line| line.len() >= SECRET_BYTES_MIN).map(str::to_owned).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Redactor { values }
    }

    /// The text without secrets; as it was where there are none.
    pub fn redact(&self, mut text: String) -> String {
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), MASK);
            }
        }
        text
    }

    /// Redacts the beginning of a text that goes on, up to where a secret may have begun that is not there whole.
    /// Answers what can be shown, and how many bytes of `text` that took.
    pub fn redact_begun(&self, text: &str) -> (String, usize) {
        let mut shown = String::with_capacity(text.len());
        let (mut at, mut copied) = (0, 0);
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            if self.values.iter().any(|value| value.len() > rest.len() && value.as_bytes().starts_with(rest)) {
                break;
            }
            match self.values.iter().find(|value| rest.starts_with(value.as_bytes())) {
                Some(value) => {
                    shown.push_str(&text[copied..at]);
                    shown.push_str(MASK);
                    at += value.len();
                    copied = at;
                }
                None => at += 1,
            }
        }
        // A value begins with a whole character, so that a match never begins within one.
        shown.push_str(&text[copied..at]);
        (shown, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(secrets: &[&str], text: &str, expected: &str) {
        assert_eq!(Redactor::new(secrets.iter().copied()).redact(text.to_owned()), expected);
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        check(&["hunter2!"], "pw=hunter2! again hunter2!", "pw=[redacted] again [redacted]");
        check(&["hunter2!"], "hunter2", "hunter2");
        check(&["abcd", "abcdefgh"], "abcdefgh abcd", "[redacted] [redacted]");
        check(&["abc", ""], "abc", "abc");
        check(&["first line\nsecond line\n"], "-> second line", "-> [redacted]");
    }

    #[test]
    fn a_secret_is_masked_wherever_the_text_is_cut() {
        let redactor = Redactor::new(["secret-value", "aaaa", "secret"]);
        let text = "x secret-value bbb ünï aaaaaaa secret secret-val";
        let whole = redactor.redact(text.to_owned());
        for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let (mut seen, taken) = redactor.redact_begun(&text[..at]);
            seen += &redactor.redact(text[taken..].to_owned());
            assert_eq!(seen, whole, "cut at {at}");
        }
    }
}
