//! `tombolo secret`: values that workloads get as environment, and nobody gets back.

use std::io::{IsTerminal, Read, Write};

use clap::{Args, Subcommand};
use nix::sys::termios::{self, LocalFlags, SetArg};
use tombolo_api::wire::{NewSecret, SECRET_BYTES_MAX, SecretInfo};
use tombolo_core::Name;

use crate::failure::Failure;
use crate::render;
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo secret set db-password              asks for the value, without showing it
  tombolo secret set db-password < file       takes it from stdin, less the last line's end
  tombolo secret ls
  tombolo secret rm db-password

A stage with `secrets: [db-password]` gets it as $DB_PASSWORD.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Secret {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set a secret; the value comes from stdin or a prompt
    #[command(after_help = EXAMPLES)]
    Set { name: Name },
    /// List names
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Remove a secret
    #[command(after_help = EXAMPLES)]
    Rm { name: Name },
}

pub async fn run(global: &Global, args: Secret) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Set { name } => {
            let body = NewSecret { value: value(&name)? };
            let _: serde_json::Value = session.client.put(&format!("/v1/secrets/{name}"), &body).await?;
            eprintln!("secret {name} is set");
        }
        Verb::Rm { name } => {
            let _: serde_json::Value = session.client.delete(&format!("/v1/secrets/{name}")).await?;
            eprintln!("secret {name} is removed");
        }
        Verb::Ls => {
            let secrets: Vec<SecretInfo> = session.all("/v1/secrets").await?;
            match session.output {
                Output::Text if secrets.is_empty() => eprintln!("no secret yet; set one: tombolo secret set <name>"),
                Output::Text => render::text(&list(&secrets)),
                Output::Json => render::json(&secrets),
            }
        }
    }
    Ok(())
}

fn list(secrets: &[SecretInfo]) -> String {
    let rows = secrets.iter().map(|secret| vec![secret.name.clone(), render::date(secret.updated)]);
    render::table(&["secret", "updated"], &[], rows.collect())
}

/// Never from the arguments, which others on the machine can see.
fn value(name: &Name) -> Result<String, Failure> {
    let fault = |why: String| Failure::usage(format!("the value of {name} can't be taken")).because(why);
    let stdin = std::io::stdin();
    let value = match stdin.is_terminal() {
        true => prompt(name).map_err(|error| fault(error.to_string()))?,
        false => {
            let mut value = String::new();
            let read = stdin.lock().take(SECRET_BYTES_MAX as u64 + 2).read_to_string(&mut value);
            read.map_err(|error| fault(error.to_string()))?;
            value
        }
    };
    let value = value.strip_suffix('\n').unwrap_or(&value);
    let value = value.strip_suffix('\r').unwrap_or(value);
    match value.len() {
        0 => Err(fault("it is empty".to_owned())),
        1..=SECRET_BYTES_MAX => Ok(value.to_owned()),
        _ => Err(fault(format!("it is longer than {SECRET_BYTES_MAX} bytes"))),
    }
}

fn prompt(name: &Name) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    let before = termios::tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    eprint!("value of {name}: ");
    std::io::stderr().flush()?;
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent)?;
    let mut value = String::new();
    let read = stdin.read_line(&mut value);
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
    eprintln!();
    read.map(|_| value)
}
