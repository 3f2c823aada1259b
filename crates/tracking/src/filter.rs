//! The filter language of MLflow's searches: `metrics.rmse < 1 and tags."my key" LIKE 'x%'`, and `order_by`.
//!
//! ```text
//! filter  = clause { AND clause }
//! clause  = field op value | field [NOT] IN ( value {, value} ) | field IS [NOT] NULL
//! field   = [ kind . ] key            key = word | "quoted" | `quoted`
//! op      = = | != | < | <= | > | >= | LIKE | ILIKE
//! ```

use crate::fault::Fault;

/// Longest filter, in bytes, and most clauses: each is a subquery.
const FILTER_BYTES_MAX: usize = 64 << 10;
const CLAUSES_MAX: usize = 64;
const ORDERS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Metric,
    Param,
    Tag,
    Attribute,
    Dataset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub kind: Kind,
    pub key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Like,
    Ilike,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(f64),
    Int(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Compare(Op, Value),
    In { values: Vec<String>, not: bool },
    Null { not: bool },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Clause {
    pub field: Field,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub field: Field,
    pub descending: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// In double quotes or backticks: a key, or in double quotes a value.
    Quoted(String, char),
    Text(String),
    Number(String),
    Op(Op),
    Dot,
    Comma,
    Open,
    Close,
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    end: usize,
}

/// The clauses, all of which must hold.
pub fn parse(filter: &str) -> Result<Vec<Clause>, Fault> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(Fault::invalid(format!("the filter is longer than {FILTER_BYTES_MAX} bytes")));
    }
    let mut parser = Parser::new(filter)?;
    let mut clauses = Vec::new();
    while parser.at < parser.tokens.len() {
        if !clauses.is_empty() {
            parser.keyword("AND", "AND or the end")?;
        }
        clauses.push(parser.clause()?);
        if clauses.len() > CLAUSES_MAX {
            return Err(Fault::invalid(format!("the filter has more than {CLAUSES_MAX} clauses")));
        }
    }
    Ok(clauses)
}

/// `order_by`, each as `field [ASC|DESC]`.
pub fn parse_order(list: &[String]) -> Result<Vec<Order>, Fault> {
    if list.len() > ORDERS_MAX {
        return Err(Fault::invalid(format!("order_by has more than {ORDERS_MAX} fields")));
    }
    let mut orders: Vec<Order> = Vec::new();
    for text in list {
        let mut parser = Parser::new(text)?;
        let field = parser.field()?;
        let descending = match parser.next() {
            None => false,
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("asc") => false,
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("desc") => true,
            Some((at, _)) => return Err(bad(at, "ASC, DESC or the end")),
        };
        if let Some((at, _)) = parser.next() {
            return Err(bad(at, "the end"));
        }
        if orders.iter().any(|order| order.field == field) {
            return Err(Fault::invalid(format!("`order_by` contains duplicate fields: {list:?}")));
        }
        orders.push(Order { field, descending });
    }
    Ok(orders)
}

fn bad(at: usize, expected: &str) -> Fault {
    Fault::invalid(format!("Invalid filter: expected {expected} at position {}", at + 1))
}

impl Parser {
    fn new(text: &str) -> Result<Parser, Fault> {
        Ok(Parser { tokens: tokens(text)?, at: 0, end: text.chars().count() })
    }

    fn next(&mut self) -> Option<(usize, Token)> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    /// Where the next token is, or would be.
    fn position(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(at, _)| *at)
    }

    fn is_keyword(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word))
    }

    fn keyword(&mut self, word: &str, expected: &str) -> Result<(), Fault> {
        if !self.is_keyword(word) {
            return Err(bad(self.position(), expected));
        }
        self.at += 1;
        Ok(())
    }

    fn clause(&mut self) -> Result<Clause, Fault> {
        let field = self.field()?;
        let test = if self.is_keyword("IS") {
            self.at += 1;
            let not = self.is_keyword("NOT");
            self.at += usize::from(not);
            self.keyword("NULL", "NULL")?;
            Test::Null { not }
        } else if self.is_keyword("IN") || self.is_keyword("NOT") {
            let not = self.is_keyword("NOT");
            self.at += usize::from(not);
            self.keyword("IN", "IN")?;
            Test::In { values: self.list()?, not }
        } else {
            let at = self.position();
            let op = match self.next() {
                Some((_, Token::Op(op))) => op,
                Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("LIKE") => Op::Like,
                Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("ILIKE") => Op::Ilike,
                _ => return Err(bad(at, "a comparison such as =, !=, <, LIKE, IN or IS NULL")),
            };
            Test::Compare(op, self.value()?)
        };
        Ok(Clause { field, test })
    }

    fn field(&mut self) -> Result<Field, Fault> {
        let at = self.position();
        let first = match self.next() {
            Some((_, Token::Word(word))) => word,
            Some((_, Token::Quoted(key, _))) => return Ok(Field { kind: Kind::Attribute, key }),
            _ => return Err(bad(at, "a field such as metrics.rmse")),
        };
        // A word takes the dots in it with it, but for one before a quoted key.
        let (kind, key) = match first.split_once('.') {
            Some((kind, key)) => (kind.to_owned(), Some(key.to_owned())),
            None => (first, None),
        };
        if key.is_none() && self.peek() != Some(&Token::Dot) {
            return Ok(Field { kind: Kind::Attribute, key: kind });
        }
        let known = Kind::parse(&kind).ok_or_else(|| {
            Fault::invalid(format!(
                "Invalid entity type '{kind}' at position {}. Valid values are metric, parameter, tag, attribute, dataset",
                at + 1
            ))
        })?;
        if let Some(key) = key {
            return Ok(Field { kind: known, key });
        }
        self.at += 1;
        let at = self.position();
        match self.next() {
            Some((_, Token::Quoted(key, _))) => Ok(Field { kind: known, key }),
            _ => Err(bad(at, "a key")),
        }
    }

    fn value(&mut self) -> Result<Value, Fault> {
        let at = self.position();
        match self.next() {
            Some((_, Token::Text(text) | Token::Quoted(text, '"'))) => Ok(Value::Text(text)),
            Some((_, Token::Number(number))) => match number.parse::<i64>() {
                Ok(int) => Ok(Value::Int(int)),
                Err(_) => number.parse().map(Value::Number).map_err(|_| bad(at, "a number")),
            },
            _ => Err(bad(at, "a number or a value in quotes")),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, Fault> {
        let at = self.position();
        if !matches!(self.next(), Some((_, Token::Open))) {
            return Err(bad(at, "a list in parentheses"));
        }
        let mut values = Vec::new();
        loop {
            let at = self.position();
            match self.value()? {
                Value::Text(text) => values.push(text),
                Value::Number(_) | Value::Int(_) => return Err(bad(at, "a value in quotes")),
            }
            let at = self.position();
            match self.next() {
                Some((_, Token::Comma)) => {}
                Some((_, Token::Close)) => return Ok(values),
                _ => return Err(bad(at, "a comma or a closing parenthesis")),
            }
        }
    }
}

impl Kind {
    fn parse(word: &str) -> Option<Kind> {
        Some(match word {
            "metric" | "metrics" => Kind::Metric,
            "parameter" | "parameters" | "param" | "params" => Kind::Param,
            "tag" | "tags" => Kind::Tag,
            "attribute" | "attributes" | "attr" | "run" => Kind::Attribute,
            "dataset" | "datasets" => Kind::Dataset,
            _ => return None,
        })
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || "_/.-:@#$%?".contains(char)
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let begin = at;
        let next = chars.get(at + 1).copied();
        let (token, length) = match chars[at] {
            char if char.is_whitespace() => {
                at += 1;
                continue;
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Op(Op::Equal), if next == Some('=') { 2 } else { 1 }),
            '!' if next == Some('=') => (Token::Op(Op::NotEqual), 2),
            '<' if next == Some('=') => (Token::Op(Op::LessEqual), 2),
            '<' if next == Some('>') => (Token::Op(Op::NotEqual), 2),
            '<' => (Token::Op(Op::Less), 1),
            '>' if next == Some('=') => (Token::Op(Op::GreaterEqual), 2),
            '>' => (Token::Op(Op::Greater), 1),
            quote @ ('\'' | '"' | '`') => {
                let (inner, length) = quoted(&chars[at..], quote).ok_or_else(|| bad(begin, "a closing quote"))?;
                (if quote == '\'' { Token::Text(inner) } else { Token::Quoted(inner, quote) }, length)
            }
            '.' if matches!(next, Some('"' | '`')) => (Token::Dot, 1),
            char if is_word(char) || char == '+' => {
                let mut length = 1;
                while let Some(char) = chars.get(at + length).filter(|char| is_word(**char) || **char == '+') {
                    if *char == '.' && matches!(chars.get(at + length + 1), Some('"' | '`')) {
                        break;
                    }
                    length += 1;
                }
                let word: String = chars[at..at + length].iter().collect();
                let number = word.starts_with(|char: char| char.is_ascii_digit() || "+-.".contains(char));
                let number = number && word.parse::<f64>().is_ok_and(f64::is_finite);
                (if number { Token::Number(word) } else { Token::Word(word) }, length)
            }
            _ => return Err(bad(begin, "a field, a comparison or a value")),
        };
        tokens.push((begin, token));
        at += length;
    }
    Ok(tokens)
}

/// What is between the quotes, with a doubled quote for one, and how many characters that took.
fn quoted(chars: &[char], quote: char) -> Option<(String, usize)> {
    let mut inner = String::new();
    let mut at = 1;
    loop {
        match chars.get(at)? {
            char if *char == quote && chars.get(at + 1) == Some(&quote) => {
                inner.push(quote);
                at += 2;
            }
            char if *char == quote => return Some((inner, at + 1)),
            char => {
                inner.push(*char);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clause(kind: Kind, key: &str, test: Test) -> Vec<Clause> {
        vec![Clause { field: Field { kind, key: key.to_owned() }, test }]
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn filters_are_understood() {
        use Kind::*;
        use Op::*;
        let cases = [
            ("metrics.rmse < 1", clause(Metric, "rmse", Test::Compare(Less, Value::Int(1)))),
            ("metric.rmse<=1.5e-3", clause(Metric, "rmse", Test::Compare(LessEqual, Value::Number(1.5e-3)))),
            ("metrics.`a b/c` >= -1", clause(Metric, "a b/c", Test::Compare(GreaterEqual, Value::Int(-1)))),
            ("metrics.\"a.b\" != 2", clause(Metric, "a.b", Test::Compare(NotEqual, Value::Int(2)))),
            ("params.lr = '0.1'", clause(Param, "lr", Test::Compare(Equal, text("0.1")))),
            ("param.lr = \"0.1\"", clause(Param, "lr", Test::Compare(Equal, text("0.1")))),
            ("tags.mlflow.source.name like '%x'", clause(Tag, "mlflow.source.name", Test::Compare(Like, text("%x")))),
            ("tag.a ILIKE 'X'", clause(Tag, "a", Test::Compare(Ilike, text("X")))),
            ("tags.a IS NULL", clause(Tag, "a", Test::Null { not: false })),
            ("tags.a is not null", clause(Tag, "a", Test::Null { not: true })),
            ("status = 'it''s'", clause(Attribute, "status", Test::Compare(Equal, text("it's")))),
            ("attributes.start_time > 12", clause(Attribute, "start_time", Test::Compare(Greater, Value::Int(12)))),
            ("`Run name` = 'x'", clause(Attribute, "Run name", Test::Compare(Equal, text("x")))),
            (
                "run_id NOT IN ('a','b')",
                clause(Attribute, "run_id", Test::In { values: vec!["a".into(), "b".into()], not: true }),
            ),
            ("datasets.name IN ('a')", clause(Dataset, "name", Test::In { values: vec!["a".into()], not: false })),
            ("", Vec::new()),
            ("   ", Vec::new()),
        ];
        for (filter, expected) in cases {
            assert_eq!(parse(filter), Ok(expected), "{filter}");
        }
        assert_eq!(parse("metrics.a > 1 AND params.b = 'and' and tags.c != 'd'").unwrap().len(), 3);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (filter, at, expected) in [
            ("metrics.a >", 12, "a number or a value in quotes"),
            ("metrics.a 1", 11, "a comparison"),
            ("metrics.a = 1 OR metrics.b = 2", 15, "AND or the end"),
            ("metrics.a = 1 AND", 18, "a field"),
            ("tags.a = 'x", 10, "a closing quote"),
            ("run_id IN ('a' 'b')", 16, "a comma or a closing parenthesis"),
            ("run_id IN 'a'", 11, "a list in parentheses"),
            ("tags.a IS 'x'", 11, "NULL"),
            ("metrics.a = 1; drop table runs", 14, "a field, a comparison or a value"),
        ] {
            let said = parse(filter).unwrap_err().message;
            assert!(said.contains(expected) && said.ends_with(&format!("position {at}")), "{filter}: {said}");
        }
        assert!(parse("widgets.a = 1").unwrap_err().message.contains("Invalid entity type 'widgets'"));
    }

    #[test]
    fn orders_are_understood() {
        let orders = parse_order(&["metrics.`a b` DESC".to_owned(), "start_time".to_owned()]).unwrap();
        assert_eq!(orders.iter().map(|order| order.descending).collect::<Vec<_>>(), [true, false]);
        assert_eq!(orders[0].field, Field { kind: Kind::Metric, key: "a b".to_owned() });
        for bad in [vec!["a", "a desc"], vec!["a sideways"], vec!["a asc b"], vec![""]] {
            let list: Vec<_> = bad.iter().map(ToString::to_string).collect();
            assert!(parse_order(&list).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(filter in "[a-z.'\"`<>=!(), 0-9IN]{0,60}") {
            let _ = parse(&filter);
            let _ = parse_order(&[filter]);
        }

        /// Whatever a value is, it is the value and no part of the language.
        #[test]
        fn values_are_values(value in "\\PC{0,30}") {
            let filter = format!("tags.a = '{}'", value.replace('\'', "''"));
            prop_assert_eq!(parse(&filter).unwrap()[0].test.clone(), Test::Compare(Op::Equal, Value::Text(value)));
        }
    }
}
