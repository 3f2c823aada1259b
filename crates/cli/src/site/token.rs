//! `tombolo site token`.

use clap::Args;
use tombolo_api::wire::{JoinTokenMade, NewJoinToken};
use tombolo_core::{Millis, SiteId};

use crate::failure::Failure;
use crate::logs::span;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site token
  tombolo site token --site onprem --expires 10m
  tombolo agent join 127.0.0.1:7070 --name onprem --token $(tombolo site token --site onprem)";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Token {
    /// Only a site of this name may use it
    #[arg(long)]
    site: Option<SiteId>,
    /// When it ends, from now; an hour unless given
    #[arg(long, value_parser = span, value_name = "SPAN")]
    expires: Option<Millis>,
}

pub async fn run(session: &Session, args: Token) -> Result<(), Failure> {
    let site = args.site.clone();
    let body = NewJoinToken { site: args.site, expires_in_s: args.expires.map(|span| span.0 / 1000) };
    let made: JoinTokenMade = session.create("/v1/join-tokens", &body).await?;
    match session.output {
        Output::Text => {
            let whom = site.map_or("one site".to_owned(), |site| format!("the site {site}"));
            eprintln!("good for {whom}, once, until {}:", render::date(made.expires));
            render::text(&format!("{}\n", made.token));
        }
        Output::Json => render::json(&made),
    }
    Ok(())
}
