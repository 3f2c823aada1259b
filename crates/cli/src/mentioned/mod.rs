//! Every command that the documents, the help and the hints name is one that the program takes.

mod find;
mod literals;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use regex::Regex;

use crate::Cli;

/// What reads like a command and is none, and why.
const NO_COMMANDS: [(&str, &str); 2] = [
    ("tombolo run token 1\\0", "a word of cryptography, by which tokens of runs differ from all others"),
    ("tombolo journal 1", "the words that an agent's journal begins with"),
];

/// What is put in for something else -> what is typed in its place.
const STANDS_FOR: [(&str, &str); 5] = [
    (r"(?i)^\W*(n|number|lines)\W*$", "3"),
    (r"(?i)^\W*span\W*$", "10m"),
    (r"(?i)^\W*rules\W*$", "last 3"),
    (r"(?i)^\W*tag\W*$", "prod"),
    (r"(?i)^\W*address\W*$", "127.0.0.1:7070"),
];

/// All others are names: this fits whatever is a name, a run, a version or a path.
const ANY: &str = "raw-1";

/// `<name>`, `{name}` in a format string, and NAME.
static PUT_IN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<[^<>]*>|\{[^{}]*\}|\b[A-Z]+\b").unwrap());
/// A word may have blanks within quotes and within what is put in.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"("[^"]*"|<[^<>]*>|\{[^{}]*\}|\S)+"#).unwrap());
static BEGINS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)(^|[\s`(])tombolo (-|[a-z])").unwrap());
static INNER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$\(([^()]*)\)").unwrap());

/// A command as it is written, and the file that names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    file: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn mentions() -> BTreeSet<Mention> {
    let starts = ["tombolo ", "cargo run -- "];
    let mut found = BTreeSet::new();
    let mut add = |file: &str, texts: Vec<String>| {
        found.extend(texts.into_iter().map(|text| Mention { file: file.to_owned(), text }));
    };
    for (file, text) in find::files(root(), &["README.md", "ARCHITECTURE.md", "docs", "examples"], "md") {
        add(&file, find::in_markdown(&text, &starts));
    }
    for (file, text) in find::files(root(), &["crates"], "rs") {
        if file.contains("/src/") && !file.contains("/mentioned/") {
            let (literals, comments) = literals::literals_and_docs(&text);
            add(&file, literals.iter().flat_map(|literal| in_words(literal)).collect());
            add(&file, find::in_backticks(&comments, &starts));
        }
    }
    found
}

/// Commands within what is told to people: up to where the sentence goes on.
fn in_words(text: &str) -> Vec<String> {
    let mut found: Vec<String> = INNER.captures_iter(text).map(|inner| inner[1].to_owned()).collect();
    let text = INNER.replace_all(text, ANY);
    for begin in BEGINS.find_iter(&text) {
        let at = begin.start() + begin.as_str().find("tombolo").unwrap();
        let rest = &text[at..];
        let (mut end, mut quoted) = (rest.len(), false);
        for (place, letter) in rest.char_indices() {
            quoted ^= letter == '"';
            let ends = ["`", "\n", "  ", "; ", ", ", ". ", " | ", " > ", " < ", ": ", ")", " ("];
            if !quoted && ends.iter().any(|end| rest[place..].starts_with(end)) {
                end = place;
                break;
            }
        }
        found.push(rest[..end].trim_end_matches(['.', ',', ';', ':']).to_owned());
    }
    found.retain(|command| command.starts_with("tombolo "));
    found
}

/// The words of a command, with plausible ones where others are to be put in.
fn typed(text: &str) -> Vec<String> {
    let text = text.replacen("cargo run -- ", "tombolo ", 1).replace(['[', ']'], "");
    let to_file = [" | ", " > ", " < "].iter().filter_map(|sign| text.find(sign)).min().unwrap_or(text.len());
    let words = WORD.find_iter(&text[..to_file]).map(|word| word.as_str()).filter(|word| *word != "...");
    let stands = |put_in: &regex::Captures| {
        let known = STANDS_FOR.iter().find(|(form, _)| Regex::new(form).unwrap().is_match(&put_in[0]));
        known.map_or(ANY, |(_, typed)| typed).to_owned()
    };
    words.map(|word| PUT_IN.replace_all(&word.replace('"', ""), stands).into_owned()).collect()
}

/// Nothing where the program takes it. A verb alone may be named without what it needs.
fn fault(text: &str) -> Option<String> {
    let words = typed(text);
    let error = Cli::try_parse_from(&words).err()?;
    let mut verb = Some(Cli::command());
    for word in &words[1..] {
        verb = verb.and_then(|verb| verb.find_subcommand(word).cloned());
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if verb.is_some() => {
            None
        }
        _ => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

#[test]
fn every_command_that_is_named_is_one_that_is_taken() {
    let mentions = mentions();
    // So many that a search that finds nothing any more is seen.
    assert!(mentions.len() > 150, "only {} were found", mentions.len());
    let is_none = |text: &str| NO_COMMANDS.iter().any(|(none, _)| text.starts_with(none));
    let faults = mentions.iter().filter(|mention| !is_none(&mention.text)).filter_map(|mention| {
        let fault = fault(&mention.text)?;
        Some(format!("{}: {}\n    {fault}", mention.file, mention.text))
    });
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), mentions.len(), faults.join("\n"));
    for (none, why) in NO_COMMANDS {
        assert!(mentions.iter().any(|mention| mention.text.starts_with(none)), "nobody says {none:?} any more: {why}");
    }
}

#[test]
fn what_is_taken_and_what_is_not() {
    for good in [
        "tombolo ps",
        "cargo run -- demo",
        "tombolo data add",
        "tombolo data tag NAME[@VERSION] TAG [--move]",
        "tombolo logs <run>/<stage> --site-dir <dir>",
        "tombolo data prune {name} --keep \"last 10, daily for 30 days\"",
        "tombolo events flights --output json | jq .state",
        "tombolo secret set db-password < file",
        "tombolo site set --help",
    ] {
        assert_eq!(fault(good), None, "{good}");
    }
    for bad in
        ["tombolo pss", "tombolo data add raw", "tombolo ps --every", "tombolo data ad", "tombolo logs --tail few"]
    {
        assert!(fault(bad).is_some(), "{bad}");
    }
}

#[test]
fn commands_are_found_where_they_stand() {
    let markdown = "See `tombolo ps`, `ps`, and\n`tombolo data\nls`.\n```sh\n$ tombolo plan   # why\ntombolo agent join a \\\n  \
                    --token $(tombolo site token --site a)\n```\n";
    let found = find::in_markdown(markdown, &["tombolo "]);
    let expected = [
        "tombolo plan",
        "tombolo site token --site a",
        "tombolo agent join a    --token x",
        "tombolo ps",
        "tombolo data ls",
    ];
    assert_eq!(found, expected);
    let words = "start one: tombolo run; then `tombolo ps`, or tombolo data prune raw --keep \"last 1, tagged\".";
    assert_eq!(in_words(words), ["tombolo run", "tombolo ps", "tombolo data prune raw --keep \"last 1, tagged\""]);
    let source =
        "/// As `tombolo ps` shows\nlet x = '\"'; // \"no\"\nf(\"one \\\"two\\\"\\n\\\n   three\", r#\"four\"#, 'a');";
    let (literals, docs) = literals::literals_and_docs(source);
    assert_eq!(literals, ["one \"two\"\nthree", "four"]);
    assert_eq!(docs, " As `tombolo ps` shows\n");
}
