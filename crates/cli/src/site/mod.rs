//! `tombolo site`: the places where things run.

mod add;
mod drain;
pub mod facts;
mod kubernetes;
mod link;
mod list;
mod revoke;
mod set;
mod show;
mod token;
mod undrain;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::session::{Global, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site add lab --label visibility=private
  tombolo site token --site onprem
  tombolo site ls
  tombolo site set cloud --price cpu_hour=0.05 --price egress_gib=0.09
  tombolo site drain onprem --deadline 10m
  tombolo site link onprem cloud --bandwidth 100MB/s --latency 40ms";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Site {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make this machine, the Slurm cluster that it belongs to, or a Kubernetes cluster a site
    Add(Box<add::Add>),
    /// List sites
    Ls(list::Ls),
    /// Show one site with its links
    Show(show::Show),
    /// Change a site's labels, prices or capacity, or close it to new work
    Set(set::Set),
    /// Say how fast the connection from one site to another is
    Link(link::LinkArgs),
    /// Make a token with which one site may join
    Token(token::Token),
    /// Have everything that is at a site go elsewhere
    Drain(drain::DrainArgs),
    /// Open a site again, and bring home what belongs there
    Undrain(undrain::Undrain),
    /// Shut a site out at once
    Revoke(revoke::Revoke),
}

pub async fn run(global: &Global, args: Site) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Add(args) => add::run(&session, *args).await,
        Verb::Ls(args) => list::run(&session, args).await,
        Verb::Show(args) => show::run(&session, args).await,
        Verb::Set(args) => set::run(&session, args).await,
        Verb::Link(args) => link::run(&session, args).await,
        Verb::Token(args) => token::run(&session, args).await,
        Verb::Drain(args) => drain::run(&session, args).await,
        Verb::Undrain(args) => undrain::run(&session, args).await,
        Verb::Revoke(args) => revoke::run(&session, args).await,
    }
}
