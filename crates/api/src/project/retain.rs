//! Which versions of a dataset are kept: the `retain` key.

use tombolo_core::retention::{BadRules, RULES_MAX, Rules};

use super::fault::Span;
use super::node::{Node, Value};
use super::read::Reader;

impl Reader<'_, '_> {
    /// Rules in one text, or several texts that hold together.
    pub fn retain(&mut self, node: &Node) -> Option<Rules> {
        let Value::List(items) = &node.value else { return self.rules(node) };
        let mut all: Option<Rules> = None;
        for item in items {
            let Some(rules) = self.rules(item) else { continue };
            all = match all {
                None => Some(rules),
                Some(before) => before.and(rules),
            };
            if all.is_none() {
                self.fault(item.span, format!("there are more than {RULES_MAX} rules"), "a few rules are enough");
                return None;
            }
        }
        if items.is_empty() {
            self.fault(node.span, "there is no rule in the list", "leave the key out to keep all versions");
        }
        all
    }

    fn rules(&mut self, node: &Node) -> Option<Rules> {
        let text = self.text(node, "rules such as `last 10, daily for 30 days`")?;
        match text.parse() {
            Ok(rules) => Some(rules),
            Err(bad) => {
                self.fault(within(node.span, &text, &bad), bad.what, bad.hint);
                None
            }
        }
    }
}

/// Where in the file a fault is, if the text stands there as it is, bare or between quotes.
fn within(span: Span, text: &str, bad: &BadRules) -> Span {
    match span.width.checked_sub(text.chars().count()) {
        Some(quotes @ (0 | 2)) => Span { column: span.column + quotes / 2 + bad.at, width: bad.width, ..span },
        _ => span,
    }
}
