//! `tombolo run`: submits a project and follows it to its end.

mod follow;
mod pins;
mod submit;
mod summary;

use std::path::PathBuf;

use clap::Args;
use tombolo_api::wire::RunView;
use tombolo_core::spec::Objective;
use tombolo_core::{RunId, SiteId};

pub use follow::{FollowOptions, Followed, follow, follow_or_detach, is_end, is_over, last_event};
pub use pins::pins;
pub use submit::{SubmitOptions, SubmittedRun, submit};
pub use summary::{summary, verdict};

use crate::data::Reference;
use crate::failure::Failure;
use crate::project::objective;
use crate::session::{Global, Output, Session};
use crate::{gateways, plan, render};

const EXAMPLES: &str = "\
Examples:
  tombolo run                       the project in this directory
  tombolo run examples/flights --detach
  tombolo run --force               also what an earlier run has done already
  tombolo run --objective cost
  tombolo run --at raw@v3           with an earlier version of a dataset
  tombolo run --allow-failed        also with data that is not what it is expected to be

Ctrl-C stops following; the run goes on.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// A project's directory or file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print the run's name and don't wait for it
    #[arg(long, short)]
    detach: bool,
    /// Run everything, also what is unchanged since an earlier run
    #[arg(long)]
    force: bool,
    /// Give stages also what fails its expectations; it stays marked
    #[arg(long)]
    allow_failed: bool,
    /// What to minimise: `time`, `cost`, or the weight of time from 0 to 1
    #[arg(long, value_parser = objective)]
    objective: Option<Objective>,
    /// Read this version of a dataset, and not the newest or what its path holds
    #[arg(long, value_name = "NAME@VERSION")]
    at: Vec<Reference>,
    /// The site on this machine that gets the code, and the data that may be there
    #[arg(long)]
    site: Option<SiteId>,
    /// Submit also what no site can run now, to wait for one that can
    #[arg(long)]
    wait_for_site: bool,
}

pub async fn run(global: &Global, args: Run) -> Result<(), Failure> {
    let mut project = crate::project::Project::load(&args.path)?;
    if args.allow_failed {
        project.spec.allow_failed();
    }
    let session = Session::open(global)?;
    let pins = pins(&session, &mut project, args.at).await?;
    let options = SubmitOptions { force: args.force, objective: args.objective, site: args.site, pins };
    // Of the whole project: a run's own plan grows with it, as each stage is decided when its inputs are there.
    let plan = plan::of_project(&session, &project, args.objective, &options.pins).await?;
    eprint!("{}", plan::text(&plan));
    if !args.wait_for_site {
        plan::refuse_hopeless(&plan, &project)?;
    }
    let SubmittedRun { id } = submit(&session, &project, &options).await?;
    eprintln!("run {id}");
    if args.detach {
        match session.output {
            Output::Text => render::text(&format!("{id}\n")),
            Output::Json => render::json(&session.client.get::<RunView>(&format!("/v1/runs/{id}")).await?),
        }
        return Ok(());
    }
    follow_to_end(&session, &id, 0).await
}

/// Follows a run from an event on, shows what it came to, and fails if it failed.
pub async fn follow_to_end(session: &Session, id: &RunId, after: i64) -> Result<(), Failure> {
    match follow_or_detach(session, id, &FollowOptions { after, ..FollowOptions::default() }).await? {
        Followed::Ended(mut view) => {
            gateways::own_first(&session.home, &mut view)?;
            match session.output {
                Output::Text => render::text(&summary(&view)),
                Output::Json => render::json(&view),
            }
            verdict(&view)
        }
        Followed::Detached => {
            eprintln!("{id} goes on. Follow it: tombolo logs -f {id}. Stop it: tombolo stop {id}");
            Ok(())
        }
    }
}
