//! What a job can rely on, and how its end is told.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_agent::logs::LogQuery;
use tombolo_core::ids::Epoch;
use tombolo_core::resources::Resources;
use tombolo_core::spec::{Bound, Command, Gate, WorkloadSpec};
use tombolo_core::sync::Outcome;
use tombolo_core::time::{Millis, Timestamp};
use tombolo_data::SiteKey;

use crate::site::{Site, add, job, job_with, name, outputs, workload};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_finds_its_contract_and_its_outputs_are_kept() {
    let mut site = Site::new();
    let script = r#"
        set -e
        test "$PWD" = "$(dirname "$(dirname "$TOMBOLO_INPUT_RAW_DATA")")"
        cat code.txt inputs/raw-data/a.csv > outputs/model/sum.txt
        echo "$TOMBOLO_RUN $TOMBOLO_STAGE $TOMBOLO_SITE $TOMBOLO_EPOCH $OWN" > "$TOMBOLO_OUTPUT_MODEL/names.txt"
        echo to stdout; echo to stderr >&2
        touch "$TOMBOLO_STATE/checkpoint"
        echo ignored > elsewhere.txt
    "#;
    let mut order = site.order(job_with(script, outputs(&["model"])));
    order.spec.env = BTreeMap::from([("OWN".to_owned(), "mine".to_owned())]);
    order.inputs = BTreeMap::from([(name("raw-data"), add(&site.store, &[("a.csv", ", the data")]))]);
    site.start(&order);
    site.running().await;
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    let made = &finish.outputs[&name("model")];
    let expected = [("names.txt", "flights-1 train onprem 1 mine\n"), ("sum.txt", "the code, the data")];
    assert_eq!(site.files(made.version), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!((made.files, made.bytes), (2, 48));
    assert_eq!(finish.state, None);
    assert!(finish.ran.is_some() && finish.cpu.is_some(), "{finish:?}");
    let log = site.all_logs().await;
    assert!(log.contains("stdout: to stdout\n") && log.contains("stderr: to stderr\n"), "{log}");
}

/// The shim finds the key by the path in its order, and the key itself is nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_at_a_site_whose_store_is_encrypted() {
    let temp = tempfile::tempdir().unwrap();
    let key = temp.path().join("store.key");
    SiteKey::create(&key).unwrap();
    let mut site = Site::at_with_key(&temp.path().join("site"), Some(key.clone()));
    let mut order = site.order(job_with("cat code.txt inputs/raw/a.csv > outputs/model/both", outputs(&["model"])));
    order.inputs = BTreeMap::from([(name("raw"), add(&site.store, &[("a.csv", ", the data")]))]);
    site.start(&order);
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    let files = site.files(finish.outputs[&name("model")].version);
    assert_eq!(files, BTreeMap::from([("both".to_owned(), "the code, the data".to_owned())]));
    let (order, secret) = (site.placement().dir().join("order.json"), std::fs::read_to_string(&key).unwrap());
    let order = std::fs::read_to_string(order).unwrap();
    assert!(order.contains("store.key") && !order.contains(secret.trim()), "{order}");

    let mut without = Site::at_with_key(&temp.path().join("without"), Some(key.clone()));
    std::fs::remove_file(&key).unwrap();
    let Outcome::Unprepared { why } = without.run(job("true")).await.outcome else { panic!("its key is gone") };
    assert!(why.contains("store.key"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_told_as_they_were() {
    for (command, expected) in [
        ("exit 3", Outcome::Failed { code: 3 }),
        ("exit 75", Outcome::Failed { code: 75 }),
        ("kill -SEGV $$", Outcome::Signalled { signal: 11 }),
        ("kill -KILL $$", Outcome::Signalled { signal: 9 }),
        ("no-such-program-here", Outcome::Failed { code: 127 }),
    ] {
        let mut site = Site::new();
        assert_eq!(site.run(job(command)).await.outcome, expected, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_not_there_are_named() {
    let mut site = Site::new();
    let finish = site.run(job_with("mkdir outputs/model/empty", outputs(&["model"]))).await;
    let Outcome::BadOutputs { why } = finish.outcome else { panic!("{finish:?}") };
    assert!(why.contains("the output model is empty") && why.contains("$TOMBOLO_OUTPUT_MODEL"), "{why}");

    let mut site = Site::new();
    let command = "rmdir outputs/model; ln -s /etc outputs/model";
    let finish = site.run(job_with(command, outputs(&["model"]))).await;
    let Outcome::BadOutputs { why } = finish.outcome else { panic!("{finish:?}") };
    assert!(why.contains("outputs/model is no directory"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_passes_stops_or_is_missed() {
    let gated = |json: &str| {
        let command = format!("echo '{json}' > outputs/report/m.json");
        job_with(&command, |job| {
            job.outputs = BTreeSet::from([name("report")]);
            let (file, metric) = ("m.json".to_owned(), "auc".to_owned());
            job.gate = Some(Gate { output: name("report"), file, metric, bound: Bound::AtLeast(0.7) });
        })
    };
    let finish = Site::new().run(gated(r#"{"auc": 0.71}"#)).await;
    assert_eq!((finish.outcome, finish.metric, finish.outputs.len()), (Outcome::Succeeded, Some(0.71), 1));
    let finish = Site::new().run(gated(r#"{"auc": 0.69}"#)).await;
    let failed = Outcome::GateFailed { metric: "auc".into(), value: 0.69, bound: Bound::AtLeast(0.7) };
    assert_eq!((finish.outcome, finish.metric, finish.outputs.len()), (failed, Some(0.69), 0));
    for (json, reason) in [(r#"{"accuracy": 1}"#, "has no auc"), (r#"{"auc": NaN}"#, "is no number")] {
        let finish = Site::new().run(gated(json)).await;
        let Outcome::BadOutputs { why } = finish.outcome else { panic!("{finish:?}") };
        assert!(why.contains(reason), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_command_and_nothing_else() {
    let mut site = Site::new();
    let script = "printf %s \"$API_KEY\" | cut -c1-8; printf %s \"$API_KEY\" | cut -c9-; \
                  echo \"key $API_KEY\"; printf 'no end: %s' \"$API_KEY\"; echo waits >&2; read x < fifo; exit 4";
    let mut order = site.order(job(&format!("mkfifo fifo; {script}")));
    order.spec.secrets = BTreeSet::from([name("api-key")]);
    let secret = "correct-horse-battery";
    site.start_with(&order, &BTreeMap::from([(name("api-key"), secret.to_owned())]));
    site.line("waits").await;
    let (shim, _) = site.placement().holder().unwrap();
    let command = site.placement().progress().unwrap().running.unwrap().1;
    for pid in [shim, command] {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&cmdline).contains(secret));
    }
    assert!(!String::from_utf8_lossy(&std::fs::read(format!("/proc/{shim}/environ")).unwrap()).contains(secret));
    std::fs::write(site.placement().code_dir().join("fifo"), "\n").unwrap();
    assert_eq!(site.finish().await.outcome, Outcome::Failed { code: 4 });
    let log = site.all_logs().await;
    assert!(log.contains("key [redacted]\n") && log.contains("no end: [redacted]\n"), "{log}");
    for entry in std::fs::read_dir(site.placement().dir()).unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{:?}", entry.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_given_is_named() {
    let mut site = Site::new();
    let mut spec = job("true");
    spec.secrets = BTreeSet::from([name("api-key")]);
    let Outcome::Unprepared { why } = site.run(spec).await.outcome else { panic!() };
    assert!(why.contains("the secret api-key was not given"), "{why}");

    let mut spec = job("true");
    spec.image = Some("python:3.12".to_owned());
    let Outcome::Unprepared { why } = Site::new().run(spec).await.outcome else { panic!() };
    assert!(why.contains("runs no containers"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_bounded_and_its_ends_are_kept() {
    let mut site = Site::new();
    let script =
        "echo the beginning; yes 'a line of no interest that is repeated' | head -c 1000000000; echo; echo the end";
    let finish = site.run(job(script)).await;
    assert_eq!(finish.outcome, Outcome::Succeeded);
    let files = std::fs::read_dir(site.placement().dir()).unwrap().map(Result::unwrap);
    let logs = files.filter(|entry| entry.file_name().to_str().unwrap().starts_with("log"));
    let kept: u64 = logs.map(|entry| entry.metadata().unwrap().len()).sum();
    assert!((50 << 20..=65 << 20).contains(&kept), "{kept} bytes were kept");
    let tail = site.log(LogQuery { tail: Some(2), ..LogQuery::default() }).await;
    let texts: Vec<_> = tail.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts[1], "the end");
    let all = site.log(LogQuery::default()).await;
    assert_eq!(all[0].text, "the beginning");
    assert_eq!(all.iter().filter(|line| line.text.contains("were dropped here")).count(), 1);
    let bytes: usize = all.iter().map(|line| line.text.len() + 1).sum();
    assert!(bytes as u64 <= kept, "{bytes} of {kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_time_and_outlive_their_placement() {
    let mut site = Site::new();
    site.start(&site.order(job("mkfifo fifo; echo one; read x < fifo; echo two")));
    let one = site.line("one").await;
    // The next line is at a later time.
    while now().0 <= one.at.0 + 5 {
        std::hint::spin_loop();
    }
    std::fs::write(site.placement().code_dir().join("fifo"), "\n").unwrap();
    site.finish().await;
    let since = LogQuery { since: Some(Timestamp(one.at.0 + 1)), ..LogQuery::default() };
    let late = site.log(since.clone()).await;
    assert_eq!(late.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["two"]);

    site.driver.discard(&workload(), Epoch(1));
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    // A follower ends with the placement, wherever its log has gone meanwhile.
    let all = site.log(follow).await;
    assert_eq!(all.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_makes_its_output() {
    let mut site = Site::new();
    let sql = |sql: &str| WorkloadSpec { command: Command::Sql(sql.to_owned()), ..job_with("", outputs(&["late"])) };
    let mut order = site.order(sql("SELECT origin, avg(delay) AS mean FROM raw GROUP BY origin ORDER BY origin"));
    let csv = "origin,delay\nSFO,10\nSFO,20\nJFK,7\n";
    order.inputs = BTreeMap::from([(name("raw"), add(&site.store, &[("part.csv", csv)]))]);
    site.start(&order);
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    let listed = site.store.list(finish.outputs[&name("late")].version).unwrap();
    assert_eq!(listed.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["part-0.parquet"]);

    let mut site = Site::new();
    let finish = site.run(sql("SELECT nothing FROM nowhere")).await;
    assert_eq!(finish.outcome, Outcome::Failed { code: 1 });
    let log = site.all_logs().await;
    assert!(log.contains("tombolo: no table \"nowhere\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_environment_is_made_and_used() {
    let mut site = Site::new();
    let mut spec =
        job("python -c 'import sys, os; assert sys.prefix == os.environ[\"VIRTUAL_ENV\"]; print(sys.prefix)'");
    spec.python = Some(Default::default());
    let finish = site.run(spec).await;
    let log = site.all_logs().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{log}");
    assert!(log.contains(&format!("stdout: {}", site.dir.join("envs").display())), "{log}");
    assert!(log.contains("tombolo: made the Python environment"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_over_the_limit_is_told_apart() {
    let mut site = Site::new();
    let mut spec = job("python3 -c 'x = bytearray(400 << 20); print(len(x))'");
    spec.resources = Resources { memory_bytes: 64 << 20, ..Resources::default() };
    let finish = site.run(spec).await;
    let log = site.all_logs().await;
    if log.contains("warning: the memory limit") {
        eprintln!("SKIPPED: memory limits are not permitted here:\n{log}");
        return;
    }
    assert_eq!(finish.outcome, Outcome::OutOfMemory { limit_bytes: 64 << 20 }, "{log}");
    assert!(finish.memory_peak_bytes.is_some_and(|peak| peak <= 64 << 20), "{finish:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_is_stopped() {
    let mut site = Site::new();
    let mut spec = job_with("echo half > $TOMBOLO_STATE/half; sleep 1000", |job| job.timeout = Some(Millis(300)));
    spec.grace = Millis(100);
    let finish = site.run(spec).await;
    assert_eq!(finish.outcome, Outcome::TimedOut { after: Millis(300) });
    assert_eq!(site.files(finish.state.unwrap())["half"], "half\n");
    assert_eq!(finish.state_bytes, 5);
}
