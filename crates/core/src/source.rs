//! Where an import reads from: the `from:` of a dataset, parsed.

use serde::{Deserialize, Serialize};

/// Brokers that one source may name.
pub const BROKERS_MAX: usize = 32;
pub const KAFKA_PORT: u16 = 9092;
/// Longest topic name, as the broker has it.
const TOPIC_MAX: usize = 249;

/// Something outside of Tombolo that data is brought from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Objects under a prefix, or one: `s3://`, `gs://`, `az://`.
    Objects { url: String },
    /// One file: `https://`, `http://`.
    Web { url: String },
    /// One query's rows, as they are at one moment.
    Postgres { url: String, query: String },
    /// What a topic holds, from where the last import ended.
    Kafka { brokers: Vec<String>, topic: String },
}

impl Source {
    /// Reads `from:` and, of a database, `query:`. The error says what is wrong and what would be right.
    pub fn parse(from: &str, query: Option<&str>) -> Result<Source, String> {
        let (scheme, rest) = from.split_once("://").ok_or_else(|| {
            format!(
                "{from:?} is no source; give s3://, gs://, az://, https://, postgres:// or kafka://, or `path:` for a \
                 file"
            )
        })?;
        let only_databases = |source| match query {
            Some(_) => Err(format!("`query` belongs to postgres://, not to {scheme}://")),
            None => Ok(source),
        };
        match scheme {
            "s3" | "gs" | "az" => {
                let bucket = rest.split('/').next().unwrap_or_default();
                if bucket.is_empty() {
                    return Err(format!("{from:?} names no bucket; write {scheme}://<bucket>/<prefix>"));
                }
                only_databases(Source::Objects { url: from.to_owned() })
            }
            "https" | "http" => {
                let path = rest.split_once('/').map(|(_, path)| path).unwrap_or_default();
                if path.is_empty() || path.ends_with('/') {
                    return Err(format!("{from:?} names no file; write {scheme}://<host>/<path to a file>"));
                }
                only_databases(Source::Web { url: from.to_owned() })
            }
            "postgres" | "postgresql" => postgres(from, rest, query),
            "kafka" => only_databases(kafka(from, rest)?),
            other => Err(format!(
                "there is no connector for {other}://; there are s3, gs, az, https, http, postgres and kafka"
            )),
        }
    }

    /// Whether it is what a project file may say: who speaks to the API may not have read it from one.
    pub fn check(&self) -> Result<(), String> {
        let query = match self {
            Source::Postgres { query, .. } => Some(query.as_str()),
            Source::Objects { .. } | Source::Web { .. } | Source::Kafka { .. } => None,
        };
        match Source::parse(&self.to_string(), query)? == *self {
            true => Ok(()),
            false => Err("the source is not written as a project file has it".to_owned()),
        }
    }

    /// Whether an import goes on where the last one ended, and so reads what that one left.
    pub fn is_incremental(&self) -> bool {
        matches!(self, Source::Kafka { .. })
    }
}

fn postgres(from: &str, rest: &str, query: Option<&str>) -> Result<Source, String> {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.rsplit_once('@').is_some_and(|(who, _)| who.contains(':')) {
        return Err(
            "a password has no place in a project file; give it as a secret: `tombolo secret set pgpassword`, \
                    and `secrets: [pgpassword]` here"
                .to_owned(),
        );
    }
    let query = query.map(|query| query.trim().trim_end_matches(';').trim_end());
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Err("a postgres:// source needs `query`, such as `query: SELECT * FROM orders`".to_owned());
    };
    Ok(Source::Postgres { url: from.to_owned(), query: query.to_owned() })
}

fn kafka(from: &str, rest: &str) -> Result<Source, String> {
    let (hosts, topic) = rest.split_once('/').unwrap_or((rest, ""));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > TOPIC_MAX || !topic.chars().all(legal) {
        return Err(format!("{from:?} names no topic; write kafka://<broker>:{KAFKA_PORT}/<topic>"));
    }
    let mut brokers = Vec::new();
    for host in hosts.split(',') {
        if host.is_empty() || host.contains('@') {
            return Err(format!("{from:?} names no broker; write kafka://<broker>:{KAFKA_PORT}/<topic>"));
        }
        brokers.push(if host.contains(':') { host.to_owned() } else { format!("{host}:{KAFKA_PORT}") });
    }
    if brokers.len() > BROKERS_MAX {
        return Err(format!("{} brokers are named; at most {BROKERS_MAX} may be", brokers.len()));
    }
    Ok(Source::Kafka { brokers, topic: topic.to_owned() })
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Objects { url } | Source::Web { url } | Source::Postgres { url, .. } => f.write_str(url),
            Source::Kafka { brokers, topic } => write!(f, "kafka://{}/{topic}", brokers.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, query: Option<&str>, expected: &str) {
        let found = match Source::parse(from, query) {
            Ok(source) => format!("{source:?}"),
            Err(why) => why,
        };
        assert!(found.contains(expected), "{from}: {found}");
    }

    #[test]
    fn sources_are_read() {
        check("s3://lake/flights/2026", None, r#"Objects { url: "s3://lake/flights/2026" }"#);
        check("https://example.org/a.csv?v=2", None, "Web");
        check("postgres://shop@db/shop", Some("select 1;\n"), r#"query: "select 1""#);
        check("kafka://a,b:9093/clicks", None, r#"brokers: ["a:9092", "b:9093"], topic: "clicks""#);
    }

    #[test]
    fn what_a_project_file_could_not_say_is_refused() {
        for (from, query) in
            [("s3://lake/a", None), ("postgres://shop@db/shop", Some("select 1")), ("kafka://a/b", None)]
        {
            Source::parse(from, query).unwrap().check().unwrap();
        }
        let kafka = |brokers: &[&str], topic: &str| Source::Kafka {
            brokers: brokers.iter().map(|broker| (*broker).to_owned()).collect(),
            topic: topic.to_owned(),
        };
        let with_password = Source::Postgres { url: "postgres://shop:pw@db/shop".into(), query: "select 1".into() };
        let disguised = Source::Web { url: "s3://lake/a".into() };
        for bad in [kafka(&[], "t"), kafka(&["a:9092"], ""), kafka(&["a"], "t"), with_password, disguised] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn faults_say_what_would_be_right() {
        check("data/a.csv", None, "`path:`");
        check("ftp://host/a", None, "no connector for ftp://");
        check("s3:///a", None, "s3://<bucket>/<prefix>");
        check("https://example.org/", None, "names no file");
        check("https://example.org", None, "names no file");
        check("postgres://shop@db/shop", None, "needs `query`");
        check("postgres://shop@db/shop", Some(" ; "), "needs `query`");
        check("postgres://shop:hunter2@db/shop", Some("select 1"), "[pgpassword]");
        check("kafka://a:9092", None, "names no topic");
        check("kafka:///clicks", None, "names no broker");
        check("kafka://a/b c", None, "names no topic");
        check("s3://lake/x", Some("select 1"), "belongs to postgres://");
    }

    #[test]
    fn a_password_is_never_repeated() {
        let why = Source::parse("postgres://shop:hunter2@db/shop", Some("select 1")).expect_err("refused");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
