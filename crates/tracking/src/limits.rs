//! What names and values may be, and how many of them come at once: MLflow's limits, enforced here whatever a client
//! has checked.

use crate::fault::Fault;
use crate::wire::{Metric, Pair};

pub const METRICS_MAX: usize = 1_000;
pub const PARAMS_MAX: usize = 100;
pub const TAGS_MAX: usize = 100;
pub const ENTITIES_MAX: usize = 1_000;
/// In characters, as the ones below.
pub const KEY_MAX: usize = 250;
pub const PARAM_VALUE_MAX: usize = 6_000;
pub const TAG_VALUE_MAX: usize = 8_000;
pub const EXPERIMENT_NAME_MAX: usize = 500;
pub const EXPERIMENT_TAG_VALUE_MAX: usize = 20_000;
pub const DATASET_NAME_MAX: usize = 500;
pub const DATASET_DIGEST_MAX: usize = 36;
pub const DATASET_SOURCE_MAX: usize = 65_535;
pub const DATASET_SCHEMA_MAX: usize = 1_048_575;
pub const DATASET_PROFILE_MAX: usize = 16_777_215;
/// Runs, models or points of a metric in one answer.
pub const PAGE_MAX: i64 = 50_000;

/// A metric that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub key: String,
    pub value: f64,
    pub at: i64,
    pub step: i64,
    pub model: String,
    pub dataset: String,
    pub digest: String,
}

pub fn required<T>(value: Option<T>, name: &str) -> Result<T, Fault> {
    value.ok_or_else(|| {
        Fault::invalid(format!(
            "Missing value for required parameter '{name}'. See the API docs for more information about request \
             parameters."
        ))
    })
}

pub fn filled(value: Option<String>, name: &str) -> Result<String, Fault> {
    required(value.filter(|value| !value.is_empty()), name)
}

pub fn point(metric: Metric, path: &str) -> Result<Point, Fault> {
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let key = entity_key(required(metric.key, &at("key"))?, &at("name"))?;
    let value = required(metric.value, &at("value"))?.0;
    let time = required(metric.timestamp, &at("timestamp"))?.0;
    if time < 0 {
        return Err(Fault::invalid(format!(
            "Invalid value {time} for parameter '{}' supplied: metric '{key}'. Timestamp must be a nonnegative long \
             (64-bit integer)",
            at("timestamp")
        )));
    }
    Ok(Point {
        key,
        value,
        at: time,
        step: metric.step.unwrap_or_default().0,
        model: metric.model_id.unwrap_or_default(),
        dataset: metric.dataset_name.unwrap_or_default(),
        digest: metric.dataset_digest.unwrap_or_default(),
    })
}

pub fn points(metrics: Vec<Metric>) -> Result<Vec<Point>, Fault> {
    let each = metrics.into_iter().enumerate();
    each.map(|(index, metric)| point(metric, &format!("metrics[{index}]"))).collect()
}

/// Parameters of one request: each whole, none twice.
pub fn params(pairs: Vec<Pair>) -> Result<Vec<(String, String)>, Fault> {
    let each = pairs.into_iter().enumerate();
    let params: Vec<_> =
        each.map(|(index, pair)| param(pair, &format!("params[{index}]."))).collect::<Result<_, _>>()?;
    let mut keys: Vec<_> = params.iter().map(|(key, _)| key).collect();
    keys.sort();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Fault::invalid(format!("Duplicate parameter keys have been submitted: {}", twice[0]))),
        None => Ok(params),
    }
}

pub fn param(pair: Pair, path: &str) -> Result<(String, String), Fault> {
    Ok((entity_key(pair.key, &format!("{path}key"))?, cut(pair.value.0, PARAM_VALUE_MAX)))
}

pub fn tags(pairs: Vec<Pair>) -> Result<Vec<(String, String)>, Fault> {
    let each = pairs.into_iter().enumerate();
    each.map(|(index, pair)| tag(pair, &format!("tags[{index}]."))).collect()
}

pub fn tag(pair: Pair, path: &str) -> Result<(String, String), Fault> {
    Ok((entity_key(pair.key, &format!("{path}key"))?, cut(pair.value.0, TAG_VALUE_MAX)))
}

pub fn batch(metrics: usize, params: usize, tags: usize) -> Result<(), Fault> {
    let counts = [
        ("metrics", metrics, METRICS_MAX),
        ("params", params, PARAMS_MAX),
        ("tags", tags, TAGS_MAX),
        ("metrics, params, and tags", metrics + params + tags, ENTITIES_MAX),
    ];
    match counts.into_iter().find(|(_, count, limit)| count > limit) {
        Some((what, count, limit)) => Err(Fault::invalid(format!(
            "A batch logging request can contain at most {limit} {what}. Got {count} {what}. Please split up {what} \
             across multiple requests and try again."
        ))),
        None => Ok(()),
    }
}

pub fn experiment_name(name: Option<String>) -> Result<String, Fault> {
    let name = filled(name, "name")?;
    at_most("name", &name, EXPERIMENT_NAME_MAX)?;
    Ok(name)
}

pub fn at_most(what: &str, text: &str, limit: usize) -> Result<(), Fault> {
    match text.chars().nth(limit).is_some() {
        true => Err(Fault::invalid(format!("'{what}' exceeds the maximum length of {limit} characters"))),
        false => Ok(()),
    }
}

/// A metric's, parameter's or tag's key, which clients may take for a file's path.
pub fn entity_key(key: String, path: &str) -> Result<String, Fault> {
    let bad = |why: &str| Fault::invalid(format!("Invalid value {key:?} for parameter '{path}' supplied: {why}"));
    if key.is_empty() {
        return Err(bad("A key name must be provided."));
    }
    if !key.chars().all(|char| char.is_alphanumeric() || "_/.- :".contains(char)) {
        return Err(bad(
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), \
             colon(:) and slashes (/).",
        ));
    }
    if !is_plain_path(&key) {
        return Err(bad("Names may be treated as files in certain cases, and must not resolve to other names when \
             treated as such."));
    }
    at_most(path, &key, KEY_MAX)?;
    Ok(key)
}

/// Whether a path is relative and says each thing in the one way: nothing empty, `.` or `..` in it.
pub fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// MLflow's server cuts what is too long, and so do we.
fn cut(text: String, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_of_one_thing() {
        for good in ["a", "a/b.c-d e:f", "Größe", "..a"] {
            assert_eq!(entity_key(good.to_owned(), "key").as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "a//b", "/a", "a/", "a/../b", "a\nb", "a*", &"k".repeat(KEY_MAX + 1)] {
            assert!(entity_key(bad.to_owned(), "key").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        assert_eq!(cut("äöü".to_owned(), 2), "äö");
        assert_eq!(cut("äö".to_owned(), 2), "äö");
    }

    #[test]
    fn batches_are_counted_each_and_together() {
        assert!(batch(METRICS_MAX, 0, 0).is_ok() && batch(800, 100, 100).is_ok());
        for (metrics, params, tags) in [(1001, 0, 0), (0, 101, 0), (0, 0, 101), (900, 100, 1)] {
            assert!(batch(metrics, params, tags).is_err(), "{metrics} {params} {tags}");
        }
    }
}
