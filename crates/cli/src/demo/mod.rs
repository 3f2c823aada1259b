//! `tombolo demo`: a control plane and three sites on this machine, and a project that runs across them.

mod example;
mod load;
mod moving;
mod processes;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tombolo_api::wire::{RunView, SiteView};
use tombolo_core::RunId;

use crate::failure::Failure;
use crate::home::Home;
use crate::project::Project;
use crate::run::{FollowOptions, SubmitOptions, SubmittedRun, follow, submit, summary, verdict};
use crate::session::{Global, Session};
use crate::{gateways, plan, render};

use processes::Processes;

const EXAMPLES: &str = "\
Examples:
  tombolo demo                      runs examples/flights and leaves everything running until Ctrl-C
  tombolo demo --once               stops at the end
  tombolo demo --full               all 3 million flights instead of a sample

While it runs, in a second terminal: tombolo ps, tombolo logs train, tombolo data ls, tombolo site ls.";

/// How long the sites may take to be up, and a service to answer.
const UP_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The site whose gateway is asked for predictions.
const ASKED_AT: &str = "onprem";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Demo {
    /// Stop everything at the end
    #[arg(long)]
    once: bool,
    /// Run on the whole data set, which is fetched from the npm registry (13 MB)
    #[arg(long)]
    full: bool,
    /// Where the demo keeps everything; ~/.tombolo/demo unless given
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub async fn run(global: &Global, args: Demo) -> Result<(), Failure> {
    let home = Home::find()?;
    let dir = args.dir.clone().unwrap_or_else(|| home.0.join("demo"));
    let before = home.context()?;
    if global.server.is_some() {
        eprintln!("the demo starts a control plane of its own; --server and $TOMBOLO_SERVER are not used");
    }
    let mut processes = Processes::start(&home, &dir).await?;
    let session = processes.session()?;
    let played = tokio::select! {
        played = play(&session, &args, &dir) => played,
        interrupted = interrupted() => interrupted,
    };
    if played.is_ok() && !args.once {
        eprintln!("\nEverything keeps running until Ctrl-C. In a second terminal try:");
        eprintln!("  {0} ps\n  {0} logs train\n  {0} data ls\n  {0} site ls", processes.program());
        if global.server.is_some() {
            eprintln!("  with $TOMBOLO_SERVER and $TOMBOLO_TOKEN unset, that they find the demo");
        }
        tokio::select! {
            _ = interrupted() => {}
            dead = processes.watch() => eprintln!("{dead} has ended by itself; stopping the rest"),
        }
    }
    eprintln!("stopping");
    let own = processes.context().cloned();
    processes.stop().await;
    // Unless another control plane has been started meanwhile, commands find again what they found before.
    if home.context()? == own {
        match before {
            Some(before) => home.write_context(&before)?,
            None => home.remove_context()?,
        }
    }
    played
}

async fn interrupted() -> Result<(), Failure> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::system("signals can't be waited for").because(error))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn play(session: &Session, args: &Demo, dir: &std::path::Path) -> Result<(), Failure> {
    wait_for_sites(session).await?;
    let project_dir = example::lay_out(&dir.join("flights"), args.full).await?;
    let project = Project::load(&project_dir)?;

    eprintln!("\n== the plan of {}", project_dir.display());
    eprint!("{}", plan::text(&plan::of_project(session, &project, None, &Default::default()).await?));
    eprintln!("\n== submitting");
    let SubmittedRun { id, .. } = submit(session, &project, &SubmitOptions::default()).await?;
    eprintln!("\n== the run");
    let mut view = follow(session, &id, &FollowOptions::default()).await?;
    gateways::own_first(&session.home, &mut view)?;
    eprintln!("\n== what ran where");
    render::text(&summary(&view));
    verdict(&view)?;
    let request = request(&project_dir.join("request.json"))?;
    let url = predict(session, &id, &request).await?;
    moving::there_and_back(session, &id, &url, &request).await
}

async fn wait_for_sites(session: &Session) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + UP_MAX;
    loop {
        let sites: Vec<SiteView> = session.all("/v1/sites").await?;
        let up = sites.iter().filter(|site| site.status == "up").count();
        if up == example::SITES.len() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Failure::system(format!("{up} of {} sites are up after a minute", example::SITES.len()))
                .hint("see the sites' own words in the demo's directory: <site>.log"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn request(file: &std::path::Path) -> Result<serde_json::Value, Failure> {
    let text = std::fs::read(file)
        .map_err(|error| Failure::system(format!("{} can't be read", file.display())).because(error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Failure::system(format!("{} is no JSON", file.display())).because(error))
}

/// Asks the service that the run has left at `prod`, as an application at another site would: by the address that stays
/// the same. Answers that.
async fn predict(session: &Session, run: &RunId, request: &serde_json::Value) -> Result<String, Failure> {
    let view: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
    let service = view.workloads.iter().find(|workload| workload.name == "predict" && workload.state == "ready");
    let Some(site) = service.and_then(|service| service.site.clone()) else {
        return Err(Failure::system("predict is not ready").hint(format!("see `tombolo logs {run}/predict`")));
    };
    let base = moving::address(session, run, ASKED_AT).await?;
    let url = format!("{base}predict");
    eprintln!("\n== a prediction from {site}, asked for at {ASKED_AT}: POST {url}");
    eprintln!("{request}");
    let client = tombolo_api::client::Client::new(base.trim_end_matches('/'), None);
    let asked = tokio::time::timeout(ANSWER_MAX, client.post::<serde_json::Value>("/predict", "demo", request));
    let answer = asked.await.map_err(|_| Failure::system("predict did not answer in time"))??;
    render::text(&format!("{answer}\n"));
    Ok(url)
}
