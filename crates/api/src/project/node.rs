//! A YAML text as a tree in which every key and value knows its place.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};

use super::fault::{Sink, Span, quoted};

/// Most values of a file with every alias counted as often as it is used.
pub const NODES_MAX: usize = 200_000;
/// Deepest nesting, also through aliases. The format itself needs ten.
pub const DEPTH_MAX: usize = 32;

pub(super) struct Node {
    pub span: Span,
    pub value: Value,
    /// How many values it holds with itself, aliases expanded.
    weight: usize,
    depth: usize,
}

pub(super) enum Value {
    Scalar {
        text: String,
        /// Neither quoted nor a block.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Clone)]
pub(super) struct Entry {
    pub key: Key,
    pub node: Rc<Node>,
}

#[derive(Clone)]
pub(super) struct Key {
    pub text: String,
    pub span: Span,
}

impl Node {
    /// A missing value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The value of a key, where this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key.text == key).map(|entry| &*entry.node)
    }

    /// The keys of a mapping.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let entries = if let Value::Map(entries) = &self.value { entries.as_slice() } else { &[] };
        entries.iter().map(|entry| &entry.key)
    }

    /// What stands here, for a message: ``a list``, ``the number `3` ``.
    pub fn found(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => {
                format!("the number {}", quoted(text))
            }
            Value::Scalar { text, plain: true } if text == "true" || text == "false" => format!("`{text}`"),
            Value::Scalar { text, .. } => format!("the text {}", quoted(text)),
        }
    }
}

/// The tree of a text's only document. Duplicate keys, keys that are no text, and unknown tags are put into the
/// sink and passed over; nothing is returned where the text is empty or no tree can be made of it.
pub(super) fn tree(text: &str, sink: &mut Sink) -> Option<Rc<Node>> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: 2 * DEPTH_MAX,
        block_nesting_limit: 2 * DEPTH_MAX,
    };
    let mut builder = Builder { sink, open: Vec::new(), anchors: HashMap::new(), root: None, weight: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                syntax_fault(&error, builder.sink);
                return None;
            }
        };
        let width = if span.start.line() == span.end.line() { span.end.col() - span.start.col() } else { usize::MAX };
        let span = Span { line: span.start.line(), column: span.start.col() + 1, width };
        builder.step(event, span)?;
    }
    builder.root
}

fn syntax_fault(error: &ScanError, sink: &mut Sink) {
    let mark = error.marker();
    let span = Span { line: mark.line(), column: mark.col() + 1, width: 1 };
    // The scanner may notice a tab only when it reaches the next line.
    let tabbed = [mark.line(), mark.line().wrapping_sub(1)].into_iter().find_map(|number| {
        let line = sink.line(number);
        let blank = &line[..line.len() - line.trim_start().len()];
        let column = blank.find('\t')? + 1;
        (!line.trim().is_empty()).then_some(Span { line: number, column, width: 1 })
    });
    if let Some(span) = tabbed {
        return sink.add(span, "YAML does not allow tabs in the indentation", "indent with spaces");
    }
    let hint = match error.kind() {
        ErrorKind::MappingValueNotAllowed => "put text that contains `: ` into quotes, and check the indentation",
        _ if error.info().contains("did not find expected ',' or") => {
            "a bracket before this place is not closed, or a comma is missing"
        }
        ErrorKind::UnclosedQuotedScalar => "close the quote",
        ErrorKind::UnclosedFlowCollection { .. } => "close the bracket",
        ErrorKind::RecursionLimitExceeded => "the format needs ten levels at most",
        _ => "check the indentation, and put text with special characters into quotes",
    };
    sink.add(span, format!("this is not valid YAML: {}", error.info()), hint);
}

enum Frame {
    List {
        span: Span,
        anchor: usize,
        items: Vec<Rc<Node>>,
    },
    Map {
        span: Span,
        anchor: usize,
        entries: Vec<Entry>,
        merged: Vec<Entry>,
        key: Pending,
        seen: HashMap<String, usize>,
    },
}

/// The key of a mapping whose value comes next.
enum Pending {
    None,
    Key(Key, bool),
    /// A key that no text could be made of; its value is passed over.
    Unusable,
}

struct Builder<'s, 't> {
    sink: &'s mut Sink<'t>,
    open: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    /// Of all nodes that were put somewhere, aliases counted each time.
    weight: usize,
}

impl Builder<'_, '_> {
    /// Nothing where reading must stop.
    fn step(&mut self, event: Event, span: Span) -> Option<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(span, anchor, value)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.open.push(Frame::List { span, anchor, items: Vec::new() });
                Some(())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                let (entries, merged) = (Vec::new(), Vec::new());
                self.open.push(Frame::Map { span, anchor, entries, merged, key: Pending::None, seen: HashMap::new() });
                Some(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop()? {
                Frame::List { span, anchor, items } => self.close(span, anchor, Value::List(items)),
                Frame::Map { span, anchor, mut entries, merged, seen, .. } => {
                    let mut seen: std::collections::HashSet<String> = seen.into_keys().collect();
                    entries.extend(merged.into_iter().filter(|entry| seen.insert(entry.key.text.clone())));
                    self.close(span, anchor, Value::Map(entries))
                }
            },
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => self.place(node, span),
                None => {
                    self.sink.add(span, "this alias is inside of what it stands for", "write the value out");
                    None
                }
            },
            Event::UnresolvedAlias(name) => {
                let message = format!("the alias {} has no anchor before it", quoted(&format!("*{name}")));
                self.sink.add(
                    span,
                    message,
                    format!("write `&{name}` before the value that it stands for, or quote it"),
                );
                // As text, so that the place that it is in makes no second fault.
                self.close(span, 0, Value::Scalar { text: format!("*{name}"), plain: false })
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                self.sink.add(span, "a second YAML document begins here", "a project file is one document");
                None
            }
            _ => Some(()),
        }
    }

    fn check_tag(&mut self, tag: Option<&granit_parser::Tag>, span: Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.sink.add(span, format!("the tag {} means nothing here", quoted(&tag.original())), "leave the tag out");
        }
    }

    fn close(&mut self, span: Span, anchor: usize, value: Value) -> Option<()> {
        let children: Box<dyn Iterator<Item = &Rc<Node>>> = match &value {
            Value::Scalar { .. } => Box::new(std::iter::empty()),
            Value::List(items) => Box::new(items.iter()),
            Value::Map(entries) => Box::new(entries.iter().map(|entry| &entry.node)),
        };
        let (weight, depth) =
            children.fold((1, 1), |(w, d): (usize, usize), n| (w.saturating_add(n.weight), d.max(n.depth + 1)));
        if depth > DEPTH_MAX {
            let message = format!("values are nested more than {DEPTH_MAX} deep");
            self.sink.add(span, message, "the format needs ten levels at most");
            return None;
        }
        let node = Rc::new(Node { span, value, weight, depth });
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        // Its children were counted when they were placed.
        self.weight += 1;
        self.put(node, span)
    }

    fn place(&mut self, node: Rc<Node>, span: Span) -> Option<()> {
        self.weight = self.weight.saturating_add(node.weight);
        self.put(node, span)
    }

    fn put(&mut self, node: Rc<Node>, span: Span) -> Option<()> {
        if self.weight > NODES_MAX {
            let message = format!("the file holds more than {NODES_MAX} values, aliases counted each time");
            self.sink.add(span, message, "use fewer aliases of aliases, or split the project");
            return None;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, merged, key, seen, .. }) => match std::mem::replace(key, Pending::None) {
                Pending::None => match &node.value {
                    Value::Scalar { text, plain } => {
                        let text = text.clone();
                        *key = Pending::Key(Key { text, span }, *plain);
                    }
                    _ => {
                        self.sink.add(span, format!("a key must be text, and this is {}", node.found()), "");
                        *key = Pending::Unusable;
                    }
                },
                Pending::Unusable => {}
                Pending::Key(found, true) if found.text == "<<" => merge(&node, &found, merged, self.sink),
                Pending::Key(found, _) => match seen.get(&found.text) {
                    Some(first) => {
                        let message = format!("the key {} is given twice", quoted(&found.text));
                        self.sink.add(
                            found.span,
                            message,
                            format!("the first is at line {first}; leave one of them out"),
                        );
                    }
                    None => {
                        seen.insert(found.text.clone(), found.span.line);
                        entries.push(Entry { node: beside(node, &found), key: found });
                    }
                },
            },
        }
        Some(())
    }
}

/// A missing value has no place of its own: it is told by its key's.
fn beside(node: Rc<Node>, key: &Key) -> Rc<Node> {
    match &node.value {
        Value::Scalar { text, plain: true } if text.is_empty() => {
            let value = Value::Scalar { text: String::new(), plain: true };
            Rc::new(Node { span: key.span, value, weight: 1, depth: 1 })
        }
        _ => node,
    }
}

/// `<<: *base`: the entries of another mapping, or of several, that this one does not have itself.
fn merge(node: &Rc<Node>, key: &Key, merged: &mut Vec<Entry>, sink: &mut Sink) {
    match &node.value {
        Value::Map(entries) => merged.extend(entries.iter().cloned()),
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
            for item in items {
                merge(item, key, merged, sink);
            }
        }
        _ => sink.add(key.span, format!("`<<` takes a mapping, and this is {}", node.found()), "such as `<<: *base`"),
    }
}
