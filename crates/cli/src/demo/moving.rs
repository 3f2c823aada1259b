//! The demo's end: its service goes to another site and back while it is asked all the time.

use std::time::Duration;

use tombolo_api::wire::{EndpointView, MoveRequest};
use tombolo_core::{Name, RunId, WorkloadId};

use super::load::{Load, Phase};
use crate::failure::Failure;
use crate::session::Session;
use crate::{moves, render};

const SERVICE: &str = "predict";
const HOME: &str = "prod";
const AWAY: &str = "onprem";
/// How long it is asked where it stays, before and after each move.
const CALM: Duration = Duration::from_secs(4);

/// The service's address that stays the same, at the gateway of a site.
pub async fn address(session: &Session, run: &RunId, site: &str) -> Result<String, Failure> {
    let name = format!("{}/{SERVICE}", run.project());
    let endpoints: Vec<EndpointView> = session.client.get("/v1/endpoints").await?;
    let endpoint = endpoints.into_iter().find(|endpoint| endpoint.name == name);
    let url = endpoint.and_then(|endpoint| endpoint.urls.into_iter().find(|url| url.site == site));
    let url = url.ok_or_else(|| Failure::system(format!("{name} has no address at {site}")));
    Ok(url.map_err(|failure| failure.hint("`tombolo endpoint ls` lists the endpoints"))?.url)
}

/// Moves the service there and back under load, and tells what its clients saw of that.
pub async fn there_and_back(
    session: &Session,
    run: &RunId,
    url: &str,
    request: &serde_json::Value,
) -> Result<(), Failure> {
    let id = WorkloadId::new(run.clone(), Name::new(SERVICE).expect("a fixed name"));
    eprintln!("\n== {SERVICE} moves from {HOME} to {AWAY} and back, while it is asked at {url}");
    let load = Load::start(url, request, "at prod")?;
    let moved = async {
        tokio::time::sleep(CALM).await;
        for (to, moving, there) in [(AWAY, "moving to onprem", "at onprem"), (HOME, "moving back", "at prod again")] {
            load.phase(moving);
            let why = Some("the demo shows it".to_owned());
            moves::go(session, &id, &MoveRequest { to: to.to_owned(), why, ..MoveRequest::default() }).await?;
            load.phase(there);
            tokio::time::sleep(CALM).await;
        }
        Ok::<_, Failure>(())
    };
    let moved = moved.await;
    let phases = load.end().await;
    eprintln!("\n== what its clients saw");
    render::text(&table(&phases));
    moved?;
    failures(&phases)
}

fn table(phases: &[(&'static str, Phase)]) -> String {
    let took = |phase: &Phase, percent| {
        let took = phase.percentile(percent);
        render::dash(took.map(|took| format!("{:.1} ms", took.as_secs_f64() * 1e3)))
    };
    let row = |(name, phase): &(&'static str, Phase)| {
        let (sent, failed) = (phase.sent().to_string(), phase.failures.len().to_string());
        vec![(*name).to_owned(), sent, failed, took(phase, 50), took(phase, 99)]
    };
    let header = ["while", "requests", "failed", "median", "p99"];
    render::table(&header, &[1, 2, 3, 4], phases.iter().map(row).collect())
}

fn failures(phases: &[(&'static str, Phase)]) -> Result<(), Failure> {
    let failed: usize = phases.iter().map(|(_, phase)| phase.failures.len()).sum();
    let Some((name, why)) = phases.iter().find_map(|(name, phase)| Some((name, phase.failures.first()?))) else {
        return Ok(());
    };
    Err(Failure::system(format!("{failed} requests failed, the first of them {name}")).because(why))
}
