//! The `tombolo` program: every verb is a file, with its arguments, what it does and what it prints.

mod agent;
mod audit;
mod completions;
mod data;
mod demo;
mod endpoint;
mod events;
mod failure;
mod gateways;
mod history;
mod home;
mod inspect;
mod logs;
#[cfg(test)]
mod mentioned;
mod moves;
mod names;
mod notebook;
mod openapi;
mod plan;
mod progress;
mod project;
mod ps;
mod render;
mod retry;
mod run;
mod schema;
mod secret;
mod server;
mod session;
mod shim;
mod site;
mod stop;
mod token;
mod upload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use failure::{Exit, Failure};
use session::Global;

const EXAMPLES: &str = "\
Examples:
  tombolo server                    a control plane on this machine
  tombolo site token                lets a site in, with tombolo agent join
  tombolo plan                      where the project in this directory would run, and why
  tombolo run                       runs it
  tombolo ps                        what runs

Exit codes: 0 done, 1 the workload failed, 2 wrong use, 3 the system failed.
Environment: TOMBOLO_SERVER, TOMBOLO_TOKEN, TOMBOLO_HOME (~/.tombolo), TOMBOLO_LOG (such as info or debug).";

/// What is logged unless TOMBOLO_LOG says otherwise. A certificate that is refused is told as the error that it makes.
const LOG: &str = "warn,rustls_platform_verifier=off";

/// Set by who starts a control plane or agent only for as long as it lives itself, as the demo does.
const DIE_WITH_PARENT: &str = "TOMBOLO_DIE_WITH_PARENT";

/// Runs machine-learning projects across private and public sites as if they were one place
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show it all on this machine: a control plane, three sites, and a project that runs across them
    Demo(demo::Demo),
    /// Start the control plane
    Server(server::Server),
    /// Make this machine a site
    Agent(agent::Agent),
    #[command(hide = true)]
    Shim(shim::Shim),
    /// Show where a project's stages would run, and why
    Plan(plan::Plan),
    /// Run a project and follow it
    Run(run::Run),
    /// Show runs and their stages
    Ps(ps::Ps),
    /// Show what stages and services printed
    Logs(logs::Logs),
    /// Show what happened in a run
    Events(events::Events),
    /// End a run, a stage or a service
    Stop(stop::Stop),
    /// Go on with a run from where it failed
    Retry(retry::Retry),
    /// Move a stage or a service to another site while it runs
    Move(moves::Move),
    /// Start JupyterLab at a site, and show the link that opens it
    Notebook(notebook::Notebook),
    /// Show services' stable addresses, and make tokens for them
    Endpoint(endpoint::Endpoint),
    /// Show where a stage or a service has been, and why it went there
    History(history::History),
    /// Add, show and fetch datasets
    Data(data::Data),
    /// Show and change sites
    Site(Box<site::Site>),
    /// Set and list secrets
    Secret(secret::Secret),
    /// Make and revoke tokens of the API
    Token(token::Token),
    /// Show who did what
    Audit(audit::Audit),
    /// Print the project file's JSON Schema
    Schema(schema::Schema),
    /// Print the HTTP API's OpenAPI description
    Openapi(openapi::OpenApi),
    /// Print a shell's completions
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let Cli { global, verb } = Cli::parse();
    // A shim is a process of its own for each placement: it starts nothing that it does not need.
    if let Verb::Shim(args) = verb {
        return shim::run(args);
    }
    if matches!(verb, Verb::Server(_) | Verb::Agent(_)) && std::env::var_os(DIE_WITH_PARENT).is_some() {
        // Best effort: where it can't be asked for, whoever started this ends it in the usual way.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    }
    let filter = EnvFilter::try_from_env("TOMBOLO_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nobody has installed one before");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(perform(&global, verb));
            // What still blocks, such as a read of a terminal, must not keep the process.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::system("threads can't be started").because(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(match failure.exit {
                Exit::Workload => 1,
                Exit::Usage => 2,
                Exit::System => 3,
            })
        }
    }
}

async fn perform(global: &Global, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Demo(args) => demo::run(global, args).await,
        Verb::Server(args) => server::run(args).await,
        Verb::Agent(args) => agent::run(args).await,
        Verb::Shim(_) => unreachable!("taken before the runtime was started"),
        Verb::Plan(args) => plan::run(global, args).await,
        Verb::Run(args) => run::run(global, args).await,
        Verb::Ps(args) => ps::run(global, args).await,
        Verb::Logs(args) => logs::run(global, args).await,
        Verb::Events(args) => events::run(global, args).await,
        Verb::Stop(args) => stop::run(global, args).await,
        Verb::Retry(args) => retry::run(global, args).await,
        Verb::Move(args) => moves::run(global, args).await,
        Verb::Notebook(args) => notebook::run(global, args).await,
        Verb::Endpoint(args) => endpoint::run(global, args).await,
        Verb::History(args) => history::run(global, args).await,
        Verb::Data(args) => data::run(global, args).await,
        Verb::Site(args) => site::run(global, *args).await,
        Verb::Secret(args) => secret::run(global, args).await,
        Verb::Token(args) => token::run(global, args).await,
        Verb::Audit(args) => audit::run(global, args).await,
        Verb::Schema(args) => schema::run(args),
        Verb::Openapi(args) => openapi::run(args),
        Verb::Completions(args) => completions::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", verb.get_name());
        }
    }
}
