//! Whether what lies in a store is encrypted, and under which key: decided when it is made, remembered in its format.

use std::fmt::Display;

use crate::error::DataError;
use crate::pack::Records;
use crate::seal::{KeyId, SiteKey};

/// Longest format that is read, in bytes.
pub(crate) const FORMAT_BYTES_MAX: u64 = 100;

/// How a store keeps its chunks and manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    /// Sealed under the key of this id.
    Encrypted(KeyId),
}

impl Form {
    pub(crate) fn of(key: Option<&SiteKey>) -> Form {
        key.map_or(Form::Plain, |key| Form::Encrypted(key.id()))
    }

    /// The format of a `kind` of this form. Programs that know nothing of encryption refuse its second version.
    pub(crate) fn text(self, kind: &str) -> String {
        match self {
            Form::Plain => format!("{kind} 1\n"),
            Form::Encrypted(key) => format!("{kind} 2 encrypted {key}\n"),
        }
    }

    /// The error is the text, as it may be shown.
    pub(crate) fn parse(text: &[u8], kind: &str) -> Result<Form, String> {
        let text = String::from_utf8_lossy(text);
        let rest = text.strip_prefix(kind).and_then(|rest| rest.strip_suffix('\n'));
        let form = match rest {
            Some(" 1") => Some(Form::Plain),
            Some(rest) => rest.strip_prefix(" 2 encrypted ").and_then(|id| id.parse().ok()).map(Form::Encrypted),
            None => None,
        };
        form.ok_or_else(|| format!("{:?}", text.chars().take(40).collect::<String>()))
    }

    /// That a store of this form may be opened as one of the other. `at` is where it lies.
    pub(crate) fn expect(self, other: Form, at: impl Display) -> Result<(), DataError> {
        let at = at.to_string();
        match (self, other) {
            (Form::Plain, Form::Plain) => Ok(()),
            (Form::Encrypted(key), Form::Encrypted(given)) if key == given => Ok(()),
            (Form::Encrypted(key), Form::Encrypted(given)) => Err(DataError::WrongKey { at, key, given }),
            (Form::Encrypted(key), Form::Plain) => Err(DataError::NoKey { at, key }),
            (Form::Plain, Form::Encrypted(_)) => Err(DataError::NotEncrypted { at }),
        }
    }

    pub(crate) fn records(self) -> Records {
        match self {
            Form::Plain => Records::Plain,
            Form::Encrypted(_) => Records::Sealed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let [one, two] = [1, 2].map(|byte| Form::of(Some(&SiteKey::new([byte; 32]))));
        for form in [Form::Plain, one, two] {
            assert_eq!(Form::parse(form.text("tombolo-store").as_bytes(), "tombolo-store"), Ok(form));
            for other in [Form::Plain, one, two] {
                assert_eq!(form.expect(other, "here").is_ok(), form == other, "{form:?} {other:?}");
            }
        }
        let id: KeyId = "0123456789abcdef".parse().unwrap();
        for wrong in [
            "",
            "tombolo-store 1",
            "tombolo-store 2\n",
            "tombolo-bucket 1\n",
            &format!("tombolo-store 1 encrypted {id}\n"),
            &format!("tombolo-store 2 encrypted {id}0\n"),
            &format!("tombolo-store 2 encrypted {}\n", id.to_string().to_uppercase()),
            &format!("tombolo-store 3 encrypted {id}\n"),
        ] {
            Form::parse(wrong.as_bytes(), "tombolo-store").expect_err(wrong);
        }
    }
}
