use std::fmt;
use std::path::PathBuf;

use datafusion::error::DataFusionError;

/// A place in the query's text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("the query is empty")]
    Empty,
    #[error("the query is {0} bytes long; at most {max} are allowed", max = crate::SQL_BYTES_MAX)]
    TooLong(usize),
    #[error("the query has {0} statements; at most {max} are allowed", max = crate::STATEMENTS_MAX)]
    TooMany(usize),
    #[error("{position}: {message}")]
    At { position: Position, message: String },
    #[error("no table {name:?}; known: {}", known.join(", "))]
    UnknownTable { name: String, known: Vec<String> },
    #[error("no column {name:?} in both; known: {}", known.join(", "))]
    UnknownColumn { name: String, known: Vec<String> },
    #[error("refused `{statement}`: {why}")]
    Refused { statement: String, why: &'static str },
    #[error("{path}: {message}")]
    BadTable { path: PathBuf, message: String },
    #[error("the query failed: {0}")]
    Engine(String),
    #[error("can't write {path}: {message}")]
    Write { path: PathBuf, message: String },
}

impl SqlError {
    /// Keeps the position where the engine knows it: as a span, or in the text of the parser's message.
    pub(crate) fn from_engine(error: DataFusionError) -> SqlError {
        if let Some(diagnostic) = error.diagnostic()
            && let Some(span) = diagnostic.span
        {
            let position = Position { line: span.start.line, column: span.start.column };
            return SqlError::At { position, message: diagnostic.message.clone() };
        }
        let text = error.strip_backtrace();
        match position_in(&text) {
            Some((message, position)) => SqlError::At { position, message },
            None => SqlError::Engine(text),
        }
    }
}

/// Splits `... at Line: 3, Column: 14` off the end of a parser's message.
fn position_in(text: &str) -> Option<(String, Position)> {
    let (message, place) = text.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let digits = column.trim_end_matches(|c: char| !c.is_ascii_digit());
    let position = Position { line: line.parse().ok()?, column: digits.parse().ok()? };
    Some((message.trim_start_matches("SQL error: ").trim_start_matches("ParserError(\"").to_owned(), position))
}
