//! `tombolo token`: who may use the API, and for what.

use clap::{Args, Subcommand};
use tombolo_api::wire::{NewToken, Role, TokenInfo, TokenMade};
use tombolo_core::{Millis, Timestamp};

use crate::failure::Failure;
use crate::logs::span;
use crate::render;
use crate::session::{Global, Output, Session, encode};

const EXAMPLES: &str = "\
Examples:
  tombolo token create ada --role member
  tombolo token create ci --role member --expires 30d
  tombolo token ls
  tombolo token revoke tok-1234

Roles: viewer looks; member also adds data, runs and stops; operator also changes sites, rules, prices and secrets;
admin also makes tokens.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token; it is shown this once
    #[command(after_help = EXAMPLES)]
    Create {
        /// Whose it is
        name: String,
        /// viewer, member, operator or admin
        #[arg(long, default_value = "member")]
        role: Role,
        /// When it ends, from now, such as 30d; 90 days unless given
        #[arg(long, value_parser = span, value_name = "SPAN")]
        expires: Option<Millis>,
    },
    /// List tokens, without themselves
    #[command(after_help = EXAMPLES)]
    Ls,
    /// End a token at once
    #[command(after_help = EXAMPLES)]
    Revoke {
        /// As `tombolo token ls` shows it
        id: String,
    },
}

pub async fn run(global: &Global, args: Token) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Create { name, role, expires } => {
            let body = NewToken { name, role, expires_in_s: expires.map(|span| span.0 / 1000) };
            let made: TokenMade = session.create("/v1/tokens", &body).await?;
            match session.output {
                Output::Text => {
                    eprintln!("token {} is made; it is not shown again", made.id);
                    render::text(&format!("{}\n", made.token));
                }
                Output::Json => render::json(&made),
            }
        }
        Verb::Revoke { id } => {
            let _: serde_json::Value = session.client.delete(&format!("/v1/tokens/{}", encode(&id))).await?;
            eprintln!("token {id} is revoked");
        }
        Verb::Ls => {
            let tokens: Vec<TokenInfo> = session.all("/v1/tokens").await?;
            match session.output {
                Output::Text => render::text(&list(&tokens, render::now())),
                Output::Json => render::json(&tokens),
            }
        }
    }
    Ok(())
}

fn list(tokens: &[TokenInfo], now: Timestamp) -> String {
    let row = |token: &TokenInfo| {
        let state = match (token.revoked, token.expires <= now.0) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => "valid",
        };
        let (created, expires) = (render::date(token.created), render::date(token.expires));
        vec![token.id.clone(), token.name.clone(), token.role.to_string(), state.to_owned(), created, expires]
    };
    render::table(&["id", "name", "role", "state", "created", "expires"], &[], tokens.iter().map(row).collect())
}
