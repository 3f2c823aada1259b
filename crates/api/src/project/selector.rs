//! `site` and `keep_at`: which sites are meant.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::residency::{Selector, Term};
use tombolo_core::{Name, SiteId};

use super::fault::quoted;
use super::node::{Entry, Node, Value};
use super::read::Reader;

/// Most sites and label sets in one selector.
const TERMS_MAX: usize = 100;
/// Most labels in one term.
const LABELS_MAX: usize = 20;
/// Longest key or value of a label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

const EXPECTED: &str = "a site's name, labels such as `{region: eu}`, or a list of these";

impl Reader<'_, '_> {
    pub fn selector(&mut self, node: &Node) -> Option<Selector> {
        let terms: BTreeSet<Term> = match &node.value {
            Value::List(items) if items.is_empty() => {
                self.fault(node.span, "an empty list picks no site", format!("give {EXPECTED}, or leave the key out"));
                return None;
            }
            Value::List(items) if items.len() > TERMS_MAX => {
                self.fault(node.span, format!("more than {TERMS_MAX} sites are listed"), "pick them by a label");
                return None;
            }
            Value::List(items) => items.iter().filter_map(|item| self.term(item)).collect(),
            _ => self.term(node).into_iter().collect(),
        };
        (!terms.is_empty()).then_some(Selector(terms))
    }

    fn term(&mut self, node: &Node) -> Option<Term> {
        match &node.value {
            Value::Map(entries) if entries.is_empty() || entries.len() > LABELS_MAX => {
                self.fault(node.span, format!("expected 1 to {LABELS_MAX} labels"), "such as `{region: eu}`");
                None
            }
            Value::Map(entries) => {
                let labels: BTreeMap<_, _> = entries.iter().filter_map(|entry| self.label(entry)).collect();
                (labels.len() == entries.len()).then_some(Term::Labels(labels))
            }
            Value::Scalar { .. } if !node.is_null() => {
                let name = self.name(node)?;
                Name::new(name).ok().map(|name| Term::Site(SiteId(name)))
            }
            _ => {
                self.wrong_type(node, EXPECTED);
                None
            }
        }
    }

    fn label(&mut self, entry: &Entry) -> Option<(String, String)> {
        let key = &entry.key;
        let fits = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
        if key.text.is_empty() || key.text.len() > LABEL_BYTES_MAX || !key.text.chars().all(fits) {
            let message = format!("{} can't be a label", quoted(&key.text));
            self.fault(
                key.span,
                message,
                format!("use letters, digits, `.`, `_`, `/` and `-`, at most {LABEL_BYTES_MAX}"),
            );
            return None;
        }
        let value = self.scalar(&entry.node, "the label's value")?;
        if value.len() > LABEL_BYTES_MAX {
            self.fault(entry.node.span, format!("a label's value has at most {LABEL_BYTES_MAX} bytes"), "");
            return None;
        }
        Some((key.text.clone(), value))
    }
}
