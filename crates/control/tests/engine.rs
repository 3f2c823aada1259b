//! The engine over a real database: from submission to success, through restarts and crowds.

mod store_fixtures;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use store_fixtures::*;
use tombolo_control::engine::Engine;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Store, Write};
use tombolo_core::sync::{Finish, Observed, Outcome, Phase, Report};
use tombolo_core::world::{Refusal, RunState, Submission, World};
use tombolo_core::{Epoch, Millis, RunId, Timestamp, WorkloadId};

/// Far longer than anything here takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(dir: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&dir.join("t.db")).await.unwrap())
}

async fn engine_with_site(store: &Arc<SqliteStore>) -> Engine {
    let engine = Engine::start(Arc::clone(store) as Arc<dyn Store>).await.unwrap();
    let joined = engine.change(|world, now| {
        world.join(site("a"))?;
        world.add_version(version_id(1), version(&["a"]), &site_id("a"))?;
        world.report(&site_id("a"), &Report::default(), now);
        Ok::<_, Refusal>(((), vec![]))
    });
    joined.await.unwrap().unwrap();
    engine
}

async fn submit(engine: &Engine, force: bool) -> RunId {
    let submitted = engine.change(move |world, now| {
        let id = world.next_run(&name("p"));
        let submission = Submission {
            id: id.clone(),
            spec: project("p"),
            code: version_id(1),
            data: BTreeMap::new(),
            by: "ada".to_owned(),
            force,
        };
        world.submit(submission, now)?;
        Ok::<_, Refusal>((id, vec![]))
    });
    submitted.await.unwrap().unwrap()
}

async fn report(engine: &Engine, observed: Vec<Observed>) {
    let report = Report { observed, ..Report::default() };
    let taken = engine.change(move |world, now| {
        world.report(&site_id("a"), &report, now);
        Ok::<_, Infallible>(((), vec![]))
    });
    taken.await.unwrap().unwrap();
}

fn observed(run: &RunId, stage: &str, epoch: u64, phase: Phase) -> Observed {
    Observed { workload: WorkloadId::new(run.clone(), name(stage)), epoch: Epoch(epoch), phase }
}

fn finished(outcome: Outcome, outputs: &[(&str, u8)]) -> Phase {
    let outputs = outputs.iter().map(|(output, byte)| (name(output), made(*byte))).collect();
    Phase::Finished(Box::new(Finish {
        outputs,
        ran: Some(Millis(1_500)),
        ..Finish::without_running(outcome, Timestamp(1))
    }))
}

async fn state(engine: &Engine, run: &RunId, stage: &str) -> &'static str {
    let id = WorkloadId::new(run.clone(), name(stage));
    let live = engine.look(move |world, _| world.workloads.get(&id).map(|record| record.state.word()));
    live.await.unwrap().unwrap_or("not live")
}

async fn run_to_the_end(engine: &Engine, run: &RunId) {
    report(engine, vec![observed(run, "make", 1, finished(Outcome::Succeeded, &[("make-out", 2)]))]).await;
    report(engine, vec![observed(run, "use", 1, finished(Outcome::Succeeded, &[("use-out", 3)]))]).await;
}

#[tokio::test]
async fn a_run_succeeds_and_the_second_one_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let mut events = engine.events();
    let mut wakes = engine.site_wakes(&site_id("a"));
    let run = submit(&engine, false).await;
    assert!(wakes.has_changed().unwrap(), "placing wakes the site");
    assert_eq!((state(&engine, &run, "make").await, state(&engine, &run, "use").await), ("placed", "waiting"));
    assert_eq!(engine.kept().await.unwrap(), [version_id(1)]);

    report(&engine, vec![observed(&run, "make", 1, Phase::Running { since: Timestamp(1) })]).await;
    assert_eq!(state(&engine, &run, "make").await, "running");
    wakes.mark_unchanged();
    run_to_the_end(&engine, &run).await;
    assert!(wakes.has_changed().unwrap(), "an end wakes the site: it may be settled now");

    // What is over is the store's alone.
    assert_eq!(state(&engine, &run, "use").await, "not live");
    let (record, workloads) = store.run(&run).await.unwrap().unwrap();
    assert_eq!(record.state, RunState::Succeeded);
    assert!(workloads.iter().all(|workload| workload.state.word() == "succeeded"), "{workloads:?}");
    let told = store.events(Some(&run), 0, 100).await.unwrap();
    assert_eq!(told.last().unwrap().state, "succeeded");
    assert_eq!(*events.borrow_and_update(), told.last().unwrap().number);

    // The first stage's outputs lead to the second's key: both are found in one pass.
    let again = submit(&engine, false).await;
    let (record, workloads) = store.run(&again).await.unwrap().unwrap();
    assert_eq!((again.number(), record.state), (2, RunState::Succeeded));
    let words: Vec<_> = workloads.iter().map(|workload| workload.state.word()).collect();
    assert_eq!(words, ["cached", "cached"]);
    assert_eq!(workloads[1].outputs[&name("use-out")], made(3));
    let forced = submit(&engine, true).await;
    assert_eq!(state(&engine, &forced, "make").await, "placed");
}

#[tokio::test]
async fn concurrent_changes_share_transactions() {
    const CHANGES: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let before = store.commits();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..CHANGES {
        let engine = engine.clone();
        asked.spawn(async move {
            let secret = name(&format!("s{number}"));
            let write = Write::Secret { name: secret.clone(), sealed: vec![1], updated: Timestamp(0) };
            engine.change(move |_, _| Ok::<_, Infallible>(((), vec![write]))).await.unwrap().unwrap();
            // Answered means durable.
            assert!(engine.store().secret(&secret).await.unwrap().is_some());
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
    let transactions = store.commits() - before;
    assert!((1..=CHANGES / 10).contains(&transactions), "{transactions} transactions");
}

#[tokio::test]
async fn a_refused_change_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let before = store.commits();
    let refused = engine.change(|world, now| {
        let never = Write::Secret { name: name("never"), sealed: vec![], updated: now };
        world.stop(&run_id("p", 9), now).map(|()| ((), vec![never]))
    });
    assert_eq!(refused.await.unwrap(), Err(Refusal::NoRun(run_id("p", 9))));
    assert_eq!(store.secret(&name("never")).await.unwrap(), None);
    assert_eq!(store.commits(), before);
}

#[tokio::test]
async fn a_new_engine_goes_on_where_the_old_one_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let run = submit(&engine, false).await;
    report(&engine, vec![observed(&run, "make", 1, finished(Outcome::Succeeded, &[("make-out", 2)]))]).await;
    let picture = |world: &World, _: Timestamp| {
        let World { runs, workloads, versions, history, counters, .. } = world;
        (runs.clone(), workloads.clone(), versions.clone(), history.clone(), counters.clone())
    };
    let before = engine.look(picture).await.unwrap();
    let last = *engine.events().borrow();
    drop(engine);
    drop(store);

    let store = open(dir.path()).await;
    let engine = Engine::start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
    assert_eq!(engine.look(picture).await.unwrap(), before);
    assert_eq!(*engine.events().borrow(), last);
    assert_eq!(state(&engine, &run, "use").await, "placed");
    report(&engine, vec![observed(&run, "use", 1, finished(Outcome::Succeeded, &[("use-out", 3)]))]).await;
    assert_eq!(store.run(&run).await.unwrap().unwrap().0.state, RunState::Succeeded);
    assert_eq!(submit(&engine, true).await.number(), 2, "a number is given out once");
}

#[tokio::test]
async fn a_run_that_is_over_can_be_retried_and_its_placements_are_settled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let run = submit(&engine, false).await;
    let failed = observed(&run, "make", 1, finished(Outcome::Failed { code: 3 }, &[]));
    report(&engine, vec![failed.clone()]).await;
    assert_eq!(state(&engine, &run, "make").await, "not live");

    // The agent has not heard that it was recorded, and reports it again.
    let newer = Observed { epoch: Epoch(2), ..failed.clone() };
    let strange = observed(&run_id("q", 1), "make", 1, Phase::Preparing);
    let reported = [failed.clone(), newer, strange];
    let past = engine.settle_past(&site_id("a"), &reported).await;
    assert_eq!(past, [(failed.workload.clone(), Epoch(1))]);

    let asked = run.clone();
    let retried = engine.change_reviving(&run, move |world, now| world.retry(&asked, now).map(|()| ((), vec![])));
    retried.await.unwrap().unwrap();
    assert_eq!(state(&engine, &run, "make").await, "placed");
    assert_eq!(engine.settle_past(&site_id("a"), &reported).await, [], "the world itself knows them now");
    run_to_the_end_from(&engine, &run, 2).await;
    let asked = run.clone();
    let again = engine.change_reviving(&run, move |world, now| world.retry(&asked, now).map(|()| ((), vec![])));
    assert_eq!(again.await.unwrap(), Err(Refusal::NothingToRetry(run.clone())));
    assert_eq!(state(&engine, &run, "make").await, "not live", "what was looked at in vain is retired again");
}

async fn run_to_the_end_from(engine: &Engine, run: &RunId, epoch: u64) {
    report(engine, vec![observed(run, "make", epoch, finished(Outcome::Succeeded, &[("make-out", 2)]))]).await;
    report(engine, vec![observed(run, "use", 1, finished(Outcome::Succeeded, &[("use-out", 3)]))]).await;
}

#[tokio::test]
async fn time_alone_wakes_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let mut events = engine.events();
    let run = submit(&engine, false).await;
    report(&engine, vec![observed(&run, "make", 1, finished(Outcome::Lost { why: "gone".into() }, &[]))]).await;
    assert_eq!(state(&engine, &run, "make").await, "backoff");
    // Nobody says anything; the back-off of a second ends, and it is placed again.
    let placed_again = async {
        while state(&engine, &run, "make").await != "placed" {
            events.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, placed_again).await.unwrap();
}

#[tokio::test]
async fn releases_are_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let submitted = engine.change(|world, now| {
        let mut spec = project("p");
        let tombolo_core::spec::Kind::Job(job) = &mut spec.workloads.get_mut(&name("make")).unwrap().kind else {
            unreachable!("the project has jobs only")
        };
        job.release.insert(name("make-out"));
        let home =
            tombolo_core::Residency(std::collections::BTreeSet::from([tombolo_core::Selector::site(site_id("a"))]));
        let mut code = version(&["a"]);
        code.residency = home;
        world.add_version(version_id(9), code, &site_id("a"))?;
        let id = world.next_run(&name("p"));
        let (code, data, by) = (version_id(9), BTreeMap::new(), "ada".to_owned());
        world.submit(Submission { id: id.clone(), spec, code, data, by, force: false }, now)?;
        Ok::<_, Refusal>((id, vec![]))
    });
    let run = submitted.await.unwrap().unwrap();
    report(&engine, vec![observed(&run, "make", 1, finished(Outcome::Succeeded, &[("make-out", 2)]))]).await;
    let audit = store.audit(&page(10, None)).await.unwrap().items;
    let [entry] = audit.as_slice() else { panic!("{audit:?}") };
    assert_eq!((entry.who.as_str(), entry.what.as_str(), entry.outcome.as_str()), ("ada", "release", "done"));
    assert!(entry.on.starts_with("p-1/make make-out 0202"), "{}", entry.on);
}

#[tokio::test]
async fn a_sites_heartbeats_are_not_all_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let engine = engine_with_site(&store).await;
    let before = store.commits();
    for _ in 0..50 {
        report(&engine, vec![]).await;
    }
    assert_eq!(store.commits(), before);
    let heard = engine.look(|world, now| now.since(world.sites[&site_id("a")].heard.unwrap())).await.unwrap();
    assert!(heard < Millis(10_000), "but they are known: {heard:?}");
}
