//! `tombolo data verify` and `tombolo data gc`: what sites do with their own stores, on request.

use clap::Args;
use serde_json::Value;
use tombolo_api::wire::{SiteAnswer, SiteView};
use tombolo_core::SiteId;

use crate::failure::{Exit, Failure};
use crate::session::{Output, Session};
use crate::{progress, render};

const VERIFY_EXAMPLES: &str = "\
Examples:
  tombolo data verify               every site that is up
  tombolo data verify --site onprem

What is damaged is set aside, and fetched again from another replica when it is needed.";

const GC_EXAMPLES: &str = "\
Examples:
  tombolo data gc                   every site that is up
  tombolo data gc --site onprem

What a version, a run in progress or a transfer needs stays, and so does what is younger than the site's grace time.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct Verify {
    /// Only this site
    #[arg(long)]
    site: Option<SiteId>,
}

#[derive(Debug, Args)]
#[command(after_help = GC_EXAMPLES)]
pub struct Gc {
    /// Only this site
    #[arg(long)]
    site: Option<SiteId>,
}

pub async fn verify(session: &Session, args: Verify) -> Result<(), Failure> {
    let answers = ask(session, args.site, "verify").await?;
    let damaged: Vec<&str> =
        answers.iter().filter(|answer| !is_clean(&answer.answer)).map(|answer| answer.site.as_str()).collect();
    if damaged.is_empty() {
        return Ok(());
    }
    let failure = Failure::system(format!("stored bytes are damaged at {}", damaged.join(", ")))
        .hint("what was set aside is fetched again when it is needed; look at the site's disk");
    Err(Failure { exit: Exit::System, ..failure })
}

pub async fn gc(session: &Session, args: Gc) -> Result<(), Failure> {
    ask(session, args.site, "gc").await.map(drop)
}

/// Asks one site or all that are up, shows what each says, and fails if one can't.
async fn ask(session: &Session, site: Option<SiteId>, what: &str) -> Result<Vec<SiteAnswer>, Failure> {
    let sites: Vec<String> = match site {
        Some(site) => vec![site.to_string()],
        None => {
            let sites: Vec<SiteView> = session.all("/v1/sites").await?;
            sites.into_iter().filter(|site| site.status == "up").map(|site| site.name).collect()
        }
    };
    let (mut answers, mut failed) = (Vec::new(), None);
    for site in sites {
        let bar = progress::spinner();
        bar.set_message(format!("{what} at {site}"));
        let path = format!("/v1/sites/{site}/{what}");
        let answer = session.create::<SiteAnswer>(&path, &serde_json::json!({})).await;
        bar.finish_and_clear();
        // The others are asked all the same.
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                let failure = Failure::from(failure);
                eprintln!("{site}: {failure}");
                failed.get_or_insert(failure);
                continue;
            }
        };
        if session.output == Output::Text {
            render::text(&format!("{}: {}\n", answer.site, in_words(&answer.answer)));
        }
        answers.push(answer);
    }
    if session.output == Output::Json {
        render::json(&answers);
    }
    if let Some(failure) = failed {
        return Err(failure);
    }
    Ok(answers)
}

/// Lists of damage are all empty.
fn is_clean(answer: &Value) -> bool {
    let is_empty = |key: &str| answer.get(key).and_then(Value::as_array).is_none_or(Vec::is_empty);
    ["damaged", "manifests_damaged", "hits"].into_iter().all(is_empty)
}

/// `packs 3, bytes 12 MiB, damaged none`: numbers as they are, lists by their lengths.
fn in_words(answer: &Value) -> String {
    let Some(fields) = answer.as_object() else { return answer.to_string() };
    let word = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Number(count) if key.starts_with("bytes") => {
                tombolo_core::resources::bytes(count.as_u64().unwrap_or(0))
            }
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => items.len().to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{} {value}", key.replace('_', " "))
    };
    fields.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_words() {
        let answer = serde_json::json!({ "bytes": 2048, "packs": 3, "damaged": [], "hits": [{ "path": "a" }] });
        assert_eq!(in_words(&answer), "bytes 2 KiB, damaged none, hits 1, packs 3");
        assert!(!is_clean(&answer));
        assert!(is_clean(&serde_json::json!({ "damaged": [] })));
    }
}
