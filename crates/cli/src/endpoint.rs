//! `tombolo endpoint`: where services answer, whichever site they are at, and who may ask them.

use clap::{Args, Subcommand};
use tombolo_api::wire::{EndpointTokenInfo, EndpointTokenMade, EndpointView, NewEndpointToken};
use tombolo_core::{EndpointId, Millis};

use crate::failure::Failure;
use crate::logs::span;
use crate::render;
use crate::session::{Global, Output, Session, encode};

const EXAMPLES: &str = "\
Examples:
  tombolo endpoint ls
  tombolo endpoint token flights/predict
  tombolo endpoint token flights/predict --expires 30d
  tombolo endpoint tokens flights/predict
  tombolo endpoint revoke e-1234

Every agent serves the endpoints of all sites. A service with `access: public` needs no token.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Endpoint {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List endpoints, and where each can be reached
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Make a token that opens an endpoint; it is shown this once
    #[command(after_help = EXAMPLES)]
    Token {
        /// <project>/<service>
        endpoint: EndpointId,
        /// When it ends, from now, such as 30d; 90 days unless given
        #[arg(long, value_parser = span, value_name = "SPAN")]
        expires: Option<Millis>,
    },
    /// List the tokens of an endpoint, without themselves
    #[command(after_help = EXAMPLES)]
    Tokens {
        /// <project>/<service>
        endpoint: EndpointId,
    },
    /// End a token of an endpoint
    #[command(after_help = EXAMPLES)]
    Revoke {
        /// As `tombolo endpoint tokens` shows it
        id: String,
    },
}

pub async fn run(global: &Global, args: Endpoint) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Ls => {
            let endpoints: Vec<EndpointView> = session.client.get("/v1/endpoints").await?;
            match session.output {
                Output::Text if endpoints.is_empty() => eprintln!("no service runs"),
                Output::Text => render::text(&list(&endpoints)),
                Output::Json => render::json(&endpoints),
            }
        }
        Verb::Token { endpoint, expires } => {
            let body = NewEndpointToken { expires_in_s: expires.map(|span| span.0 / 1000) };
            let made: EndpointTokenMade = session.create(&format!("/v1/endpoints/{endpoint}/tokens"), &body).await?;
            match session.output {
                Output::Text => {
                    eprintln!("token {} opens {endpoint}; it is not shown again", made.id);
                    render::text(&format!("{}\n", made.token));
                }
                Output::Json => render::json(&made),
            }
        }
        Verb::Tokens { endpoint } => {
            let tokens: Vec<EndpointTokenInfo> =
                session.client.get(&format!("/v1/endpoints/{endpoint}/tokens")).await?;
            match session.output {
                Output::Text if tokens.is_empty() => eprintln!("{endpoint} has no token"),
                Output::Text => render::text(&tokens_list(&tokens)),
                Output::Json => render::json(&tokens),
            }
        }
        Verb::Revoke { id } => {
            let _: serde_json::Value = session.client.delete(&format!("/v1/endpoint-tokens/{}", encode(&id))).await?;
            eprintln!("token {id} is revoked");
        }
    }
    Ok(())
}

fn list(endpoints: &[EndpointView]) -> String {
    let row = |endpoint: &EndpointView| {
        let mut sites: Vec<&str> = endpoint.replicas.iter().map(|replica| replica.site.as_str()).collect();
        sites.dedup();
        let answers = match (endpoint.waits, sites.is_empty()) {
            (true, true) => "requests wait".to_owned(),
            (false, true) => endpoint.state.clone(),
            (_, false) => format!("at {}", sites.join(", ")),
        };
        let mut urls = endpoint.urls.iter().map(|at| format!("{} ({})", at.url, at.site));
        let first = vec![endpoint.name.clone(), answers, endpoint.access.clone(), render::dash(urls.next())];
        let more = urls.map(|url| vec![String::new(), String::new(), String::new(), url]);
        std::iter::once(first).chain(more.collect::<Vec<_>>())
    };
    render::table(&["endpoint", "answers", "access", "url"], &[], endpoints.iter().flat_map(row).collect())
}

fn tokens_list(tokens: &[EndpointTokenInfo]) -> String {
    let row = |token: &EndpointTokenInfo| {
        vec![token.id.clone(), token.by.clone(), render::date(token.created), render::date(token.expires)]
    };
    render::table(&["id", "made by", "created", "expires"], &[], tokens.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use tombolo_api::wire::{EndpointUrl, ReplicaView};

    use super::*;

    #[test]
    fn endpoints_in_a_table() {
        let url = |site: &str, port: u16| EndpointUrl {
            site: site.to_owned(),
            url: format!("http://127.0.0.1:{port}/flights/predict/"),
        };
        let replica =
            |site: &str| ReplicaView { workload: "flights-1/predict".to_owned(), site: site.to_owned(), epoch: 1 };
        let one = EndpointView {
            name: "flights/predict".to_owned(),
            access: "public".to_owned(),
            state: "flights-1/predict is ready at prod".to_owned(),
            waits: false,
            replicas: vec![replica("prod")],
            urls: vec![url("onprem", 7000), url("prod", 7001)],
            tokens: 0,
        };
        let waiting = EndpointView {
            name: "flights/notes".to_owned(),
            access: "token".to_owned(),
            waits: true,
            replicas: Vec::new(),
            urls: Vec::new(),
            ..one.clone()
        };
        insta::assert_snapshot!(list(&[one, waiting]), @r"
        ENDPOINT         ANSWERS        ACCESS  URL
        flights/predict  at prod        public  http://127.0.0.1:7000/flights/predict/ (onprem)
                                                http://127.0.0.1:7001/flights/predict/ (prod)
        flights/notes    requests wait  token   -
        ");
    }
}
