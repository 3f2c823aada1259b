//! The engine over its real database, driven in one process, for `cargo xtask bench`: one line of JSON at the end.
//!
//! ```text
//! bench_engine dispatch <dir> <jobs> <jobs of a run> <sites>    submits jobs until all are placed, and says how long it took
//! bench_engine finish <dir> <runs>                              leaves a server's database with runs that have succeeded
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tombolo_control::engine::Engine;
use tombolo_control::store::Store;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_core::spec::ProjectSpec;
use tombolo_core::sync::{Finish, Observed, Outcome, Phase, Report};
use tombolo_core::world::{Refusal, SiteRecord, Submission, VersionRecord};
use tombolo_core::{Digest, Millis, Name, Residency, RunId, SiteId, Timestamp, VersionId};

type Outcomes<T> = Result<T, Box<dyn Error>>;

/// Those who submit at a time.
const CLIENTS: usize = 64;
/// Runs that are live at a time while a history is made.
const LIVE_MAX: usize = 64;
/// A site that is silent for longer counts as out of reach, so each says something well before.
const HEARTBEAT: Duration = Duration::from_secs(1);
const CODE: VersionId = VersionId(Digest([1; 32]));

fn main() -> Outcomes<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = match args[..] {
        ["dispatch", dir, jobs, stages, sites] => {
            runtime.block_on(dispatch(Path::new(dir), jobs.parse()?, stages.parse()?, sites.parse()?))?
        }
        ["finish", dir, runs] => runtime.block_on(finish(Path::new(dir), runs.parse()?))?,
        _ => {
            return Err(
                "usage: bench_engine dispatch <dir> <jobs> <jobs of a run> <sites> | finish <dir> <runs>".into()
            );
        }
    };
    println!("{report}");
    Ok(())
}

/// All jobs stay where they were placed: none ends meanwhile, so the last decision is made in the fullest world.
async fn dispatch(dir: &Path, jobs: usize, stages: usize, sites: usize) -> Outcomes<Value> {
    let engine = start(dir, sites, 1_000_000).await?;
    let names: Vec<SiteId> = (0..sites).map(site_name).collect::<Result<_, _>>()?;
    let beating = tokio::spawn(beat(engine.clone(), names));
    let runs = jobs / stages;
    let spec = Arc::new(project(stages)?);
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (engine, spec) = (engine.clone(), Arc::clone(&spec));
        clients.spawn(async move {
            for _ in (client..runs).step_by(CLIENTS) {
                submit(&engine, &spec).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    // What was answered is decided and durable; this looks that all of it has a place.
    let placed = engine.look(|world, _| world.workloads.values().filter(|one| one.state.word() == "placed").count());
    let placed = placed.await?;
    let seconds = began.elapsed().as_secs_f64();
    beating.abort();
    if placed != runs * stages {
        return Err(format!("{placed} of {} jobs were placed", runs * stages).into());
    }
    Ok(json!({ "jobs": placed, "seconds": seconds }))
}

async fn beat(engine: Engine, sites: Vec<SiteId>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        for site in sites.clone() {
            let said = engine.change(move |world, now| {
                world.report(&site, &Report::default(), now);
                Ok::<_, std::convert::Infallible>(((), vec![]))
            });
            if said.await.is_err() {
                return;
            }
        }
    }
}

async fn finish(dir: &Path, runs: usize) -> Outcomes<Value> {
    let engine = start(dir, 1, 1_000_000).await?;
    let site = site_name(0)?;
    let spec = project(1)?;
    let began = Instant::now();
    for first in (0..runs).step_by(LIVE_MAX) {
        let count = LIVE_MAX.min(runs - first);
        let submitted = (0..count).map(|_| submit(&engine, &spec));
        futures_util::future::try_join_all(submitted).await?;
        let place = site.clone();
        let ended = engine.change(move |world, now| {
            let observed = world.workloads.values().map(|one| Observed {
                workload: one.id.clone(),
                epoch: one.epoch,
                phase: Phase::Finished(Box::new(Finish {
                    ran: Some(Millis(1_500)),
                    ..Finish::without_running(Outcome::Succeeded, now)
                })),
            });
            let report = Report { observed: observed.collect(), ..Report::default() };
            world.report(&place, &report, now);
            Ok::<_, std::convert::Infallible>(((), vec![]))
        });
        ended.await?.unwrap_or_else(|never| match never {});
    }
    let live = engine.look(|world, _| world.runs.len()).await?;
    if live != 0 {
        return Err(format!("{live} of {runs} runs are not over").into());
    }
    Ok(json!({ "runs": runs, "seconds": began.elapsed().as_secs_f64() }))
}

/// An engine with sites that have room for everything, of which the first has the code.
async fn start(dir: &Path, sites: usize, cpus: u64) -> Outcomes<Engine> {
    let store = SqliteStore::open(&dir.join("tombolo.db")).await?;
    let engine = Engine::start(Arc::new(store) as Arc<dyn Store>).await?;
    let records: Vec<SiteRecord> = (0..sites).map(|site| record(site, cpus)).collect::<Result<_, _>>()?;
    let joined = engine.change(move |world, now| {
        let names: Vec<SiteId> = records.iter().map(|record| record.info.id.clone()).collect();
        for record in records {
            world.join(record)?;
        }
        let replicas = names.iter().cloned().collect();
        let residency = Residency::anywhere();
        let code = VersionRecord {
            bytes: 10_000,
            files: 1,
            residency,
            made_by: None,
            given: Default::default(),
            facts: Default::default(),
            at: Timestamp(0),
            replicas,
        };
        world.add_version(CODE, code, &names[0])?;
        for name in &names {
            world.report(name, &Report::default(), now);
        }
        Ok::<_, Refusal>(((), vec![]))
    });
    joined.await?.map_err(|refusal| refusal.to_string())?;
    Ok(engine)
}

fn site_name(number: usize) -> Result<SiteId, String> {
    SiteId::new(format!("site-{number}")).map_err(|fault| fault.to_string())
}

fn record(number: usize, cpus: u64) -> Outcomes<SiteRecord> {
    let name = site_name(number)?;
    Ok(serde_json::from_value(json!({
        "info": {
            "id": name,
            "capacity": { "cpus_milli": cpus * 1_000, "memory_bytes": 1u64 << 50 },
            "prices": { "cpu_hour": 0.01 * (1 + number % 7) as f64 },
        },
        "key": format!("key-of-{name}"),
        "joined": 5,
    }))?)
}

/// So many jobs of one line, which need nothing of each other.
fn project(stages: usize) -> Outcomes<ProjectSpec> {
    let job = json!({
        "kind": { "job": {} },
        "command": { "run": "echo hello" },
        "resources": { "cpus_milli": 100, "memory_bytes": 64 << 20 },
        "grace": 30_000,
    });
    let workloads: BTreeMap<String, Value> = (0..stages).map(|stage| (format!("job-{stage}"), job.clone())).collect();
    Ok(serde_json::from_value(json!({ "name": "bench", "data": {}, "workloads": workloads }))?)
}

async fn submit(engine: &Engine, spec: &ProjectSpec) -> Outcomes<RunId> {
    let spec = spec.clone();
    let project = Name::new("bench")?;
    let submitted = engine.change(move |world, now| {
        let id = world.next_run(&project);
        let (data, by) = (BTreeMap::new(), "bench".to_owned());
        world.submit(Submission { id: id.clone(), spec, code: CODE, data, by, force: true }, now)?;
        Ok::<_, Refusal>((id, vec![]))
    });
    Ok(submitted.await?.map_err(|refusal| refusal.to_string())?)
}
