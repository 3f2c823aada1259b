//! `tombolo data verify` and `tombolo data gc`: what sites do with their own stores, on request.

use clap::Args;
use serde_json::Value;
use tombolo_api::wire::{SiteAnswer, SiteView};
use tombolo_core::SiteId;
use tombolo_core::resources::bytes;

use crate::failure::{Exit, Failure};
use crate::session::{Output, Session};
use crate::{progress, render};

/// Files that can't be read any more that are listed for people.
const FILES_SHOWN: usize = 20;

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
    let answers = ask(session, args.site, "verify", verified).await?;
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
    ask(session, args.site, "gc", collected).await.map(drop)
}

/// Asks one site or all that are up, shows what each says, and fails if one can't.
async fn ask(
    session: &Session,
    site: Option<SiteId>,
    what: &str,
    in_words: fn(&Value) -> String,
) -> Result<Vec<SiteAnswer>, Failure> {
    let sites: Vec<String> = match site {
        Some(site) => vec![site.to_string()],
        None => {
            let sites: Vec<SiteView> = session.all("/v1/sites").await?;
            sites.into_iter().filter(|site| site.status == "up").map(|site| site.name).collect()
        }
    };
    if sites.is_empty() {
        eprintln!("no site is up; `tombolo site ls` lists those that there are, `tombolo site token` lets one in");
    }
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
    ["damaged", "manifests_damaged", "files_unreadable"].into_iter().all(|key| items(answer, key).is_empty())
}

/// `read 3 packs (12 MiB): nothing is damaged`; else how much is, and the files that can't be read any more.
fn verified(answer: &Value) -> String {
    let read = format!("read {} ({})", counted(number(answer, "packs"), "pack"), bytes(number(answer, "bytes")));
    if is_clean(answer) {
        return format!("{read}: nothing is damaged");
    }
    let count = |key: &str, what: &str| {
        let count = items(answer, key).len() as u64;
        (count > 0).then(|| counted(count, what))
    };
    let parts = [
        count("damaged", "damaged chunk"),
        count("manifests_damaged", "damaged manifest"),
        count("quarantined", "pack").map(|packs| format!("{packs} set aside")),
    ];
    let mut text = format!("{read}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
    let files = items(answer, "files_unreadable");
    if !files.is_empty() {
        text += &format!("; {} can't be read until fetched again:", counted(files.len() as u64, "file"));
    }
    for file in files.iter().take(FILES_SHOWN) {
        let [version, path] = ["version", "path"].map(|key| file.get(key).and_then(Value::as_str).unwrap_or("-"));
        text += &format!("\n    {path} of {}", version.get(..12).unwrap_or(version));
    }
    if files.len() > FILES_SHOWN {
        text += &format!("\n    and {} more", files.len() - FILES_SHOWN);
    }
    text
}

/// `freed 12 MiB: removed 2 versions and 3 packs, rewrote 1 pack`; of a bucket also what goes with a later gc, and when.
fn collected(answer: &Value) -> String {
    let versions = items(answer, "versions_removed").len() as u64;
    let [removed, rewritten, freed] =
        ["packs_removed", "packs_rewritten", "bytes_freed"].map(|key| number(answer, key));
    let condemned = number(answer, "condemned");
    let later = match condemned {
        0 => String::new(),
        _ => format!(
            "; {condemned} of the bucket's versions and packs go with a gc in {} or later",
            crate::render::span(number(answer, "condemned_for_ms"))
        ),
    };
    if [versions, removed, rewritten, freed] == [0; 4] {
        return format!("nothing to free{}{later}", if condemned > 0 { " yet" } else { "" });
    }
    let [versions, removed, rewritten] =
        [(versions, "version"), (removed, "pack"), (rewritten, "pack")].map(|(count, what)| counted(count, what));
    format!("freed {}: removed {versions} and {removed}, rewrote {rewritten}{later}", bytes(freed))
}

fn items<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(answer: &Value, key: &str) -> u64 {
    answer.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_words() {
        let mut answer = serde_json::json!({ "bytes": 2048, "packs": 1, "damaged": [] });
        assert_eq!(verified(&answer), "read 1 pack (2 KiB): nothing is damaged");
        let lost = serde_json::json!([{ "version": "0123456789abcdef", "path": "a/b" }]);
        (answer["damaged"], answer["files_unreadable"]) = (serde_json::json!([{}, {}]), lost);
        assert!(!is_clean(&answer));
        let words = "read 1 pack (2 KiB): 2 damaged chunks; 1 file can't be read until fetched again:\n    \
                     a/b of 0123456789ab";
        assert_eq!(verified(&answer), words);

        let answer = serde_json::json!({ "versions_removed": ["x"], "packs_removed": 2, "bytes_freed": 1024 });
        assert_eq!(collected(&answer), "freed 1 KiB: removed 1 version and 2 packs, rewrote 0 packs");
        assert_eq!(collected(&serde_json::json!({})), "nothing to free");
        let later = serde_json::json!({ "condemned": 3, "condemned_for_ms": 1_200_000 });
        let words = "nothing to free yet; 3 of the bucket's versions and packs go with a gc in 20 min 0 s or later";
        assert_eq!(collected(&later), words);
    }
}
