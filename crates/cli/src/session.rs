//! The connection to the control plane that most verbs need, and how it is found.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_api::client::{Client, ClientError};
use tombolo_api::wire::Page;

use crate::failure::Failure;
use crate::home::Home;

/// Pages of a listing that are fetched at most; the newest come first wherever there may be more.
const PAGES_MAX: usize = 200;
/// Items of a page that is asked for.
const PAGE_ITEMS: usize = 500;

/// Times that a create is sent again when its answer was lost, and the pause before.
const RESENDS_MAX: u32 = 3;
const RESEND_PAUSE: Duration = Duration::from_millis(300);

/// Options that every verb takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The control plane's address
    #[arg(long, global = true, env = "TOMBOLO_SERVER", value_name = "ADDRESS", help_heading = "Control plane")]
    pub server: Option<String>,
    /// A token for it; unless given, that of the server that was started here
    #[arg(
        long,
        global = true,
        env = "TOMBOLO_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Control plane"
    )]
    pub token: Option<String>,
    /// For people or for programs
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub client: Client,
    pub home: Home,
    pub output: Output,
}

impl Session {
    /// Flags and environment go before what the last server or agent on this machine wrote down.
    pub fn open(global: &Global) -> Result<Session, Failure> {
        let home = Home::find()?;
        let context = home.context()?;
        // A variable that is set to nothing says nothing.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let address = match (&given(&global.server), &context) {
            (Some(address), _) => with_scheme(address),
            (None, Some(context)) => with_scheme(&context.address),
            (None, None) => {
                return Err(Failure::usage("no control plane is known")
                    .because(format!(
                        "no --server, no $TOMBOLO_SERVER and no {}",
                        home.0.join("context.json").display()
                    ))
                    .hint("start one with `tombolo server`, or name one with --server"));
            }
        };
        let token = match (&given(&global.token), &context) {
            (Some(token), _) => Some(token.trim().to_owned()),
            // A token is only for the server that it was made by.
            (None, Some(context)) if with_scheme(&context.address) == address => Some(read_token(&context.token_file)?),
            _ => None,
        };
        Ok(Session { client: Client::new(&address, token), home, output: global.output })
    }

    /// A create. Where the answer is lost it is sent again under the same key, so nothing is made twice.
    pub async fn create<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let key = new_key();
        let mut left = RESENDS_MAX;
        loop {
            match self.client.post(path, &key, body).await {
                Err(ClientError::Broken(_) | ClientError::Unreachable { .. }) if left > 0 => left -= 1,
                other => return other,
            }
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }

    /// Every item of a listing.
    pub async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        self.up_to(path, PAGES_MAX * PAGE_ITEMS).await
    }

    /// The first `count` items of a listing, or a few more.
    pub async fn up_to<T: DeserializeOwned>(&self, path: &str, count: usize) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut after = String::new();
        let joint = if path.contains('?') { '&' } else { '?' };
        for _ in 0..PAGES_MAX {
            let limit = count.clamp(1, PAGE_ITEMS);
            let page: Page<T> = self.client.get(&format!("{path}{joint}limit={limit}{after}")).await?;
            items.extend(page.items);
            match page.next {
                Some(next) if items.len() < count => after = format!("&after={}", encode(&next)),
                _ => break,
            }
        }
        Ok(items)
    }

    /// One thing, or nothing where there is none of that name.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        match self.client.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A new idempotency key.
pub fn new_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    data_encoding::HEXLOWER.encode(&bytes)
}

/// A text as one piece of a path or query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// `key=value`, several times.
pub fn pairs(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::usage(format!("{text:?} is no pair")).hint("write it as key=value"));
        };
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

fn with_scheme(address: &str) -> String {
    let address = address.trim().trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

fn read_token(path: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("the token in {} can't be read", path.display()))
            .because(error)
            .hint("only the server's owner can; others give a token of their own with --token or $TOMBOLO_TOKEN")
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_pieces_of_paths() {
        assert_eq!(with_scheme("127.0.0.1:7070"), "http://127.0.0.1:7070");
        assert_eq!(with_scheme(" https://a.example/ "), "https://a.example");
        assert_eq!(encode("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
        assert!(pairs(&["a=b=c".into()]).unwrap()["a"] == "b=c");
        assert!(pairs(&["=b".into()]).is_err() && pairs(&["a".into()]).is_err());
        assert_ne!(new_key(), new_key());
    }
}
