//! What is damaged in a site's store when a stage needs it, and stages that write where they shouldn't.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tombolo_agent::driver::{Bring, Launcher};
use tombolo_core::ids::VersionId;
use tombolo_core::sync::{Order, Outcome};
use tombolo_data::transfer::{Dial, FetchOptions, Gate, Source, fetch, serve_stream};
use tombolo_data::{AddOptions, Store, StoreOptions, VerifyOptions};

use crate::site::{Site, job, job_with, name, outputs};

/// Another site's store, dialled without a network.
struct Replica(Store);

struct Open;

impl Gate for Open {
    fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
        Ok(())
    }
}

impl Dial for Replica {
    type Send = WriteHalf<DuplexStream>;
    type Recv = ReadHalf<DuplexStream>;

    async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
        let (here, there) = tokio::io::duplex(1 << 20);
        let store = self.0.clone();
        tokio::spawn(async move {
            let (recv, send) = tokio::io::split(there);
            serve_stream(&store, send, recv, &Open).await.map(drop)
        });
        let (recv, send) = tokio::io::split(here);
        Ok((send, recv))
    }
}

/// Brings from a replica, and counts how often.
fn from_replica(site: &Site, replica: Store) -> (Bring, Arc<AtomicUsize>) {
    let (store, source) =
        (site.store.clone(), Arc::new(vec![Source { dial: Replica(replica), grant: vec![], name: "away".into() }]));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let bring: Bring = Box::new(move |version, _| {
        let (store, source) = (store.clone(), source.clone());
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let why = |error: &dyn std::error::Error| Outcome::Unprepared { why: error.to_string() };
            store.refresh().map_err(|error| why(&error))?;
            fetch(&store, version, &source, &FetchOptions::default()).await.map(drop).map_err(|error| why(&error))
        })
    });
    (bring, count)
}

const ROWS: usize = 200_000;

/// A file of half a megabyte that does not compress well, as an input.
fn input(dir: &Path) -> PathBuf {
    let file = dir.join("part-1.csv");
    let rows = (0..ROWS as u64).map(|row| format!("{:x}\n", row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40));
    std::fs::write(&file, rows.collect::<String>()).unwrap();
    file
}

fn packs(store: &Store) -> BTreeSet<PathBuf> {
    std::fs::read_dir(store.dir().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A site with an input whose pack was damaged on disk, and a whole replica of it elsewhere.
fn damaged(temp: &Path) -> (Site, Order, Store) {
    let mut site = Site::new();
    let file = input(temp);
    let replica = Store::open(temp.join("away"), StoreOptions::default()).unwrap();
    let version = replica.add_tree(&file, &AddOptions::default()).unwrap().version;
    let before = packs(&site.store);
    assert_eq!(site.store.add_tree(&file, &AddOptions::default()).unwrap().version, version);
    let made: Vec<_> = packs(&site.store).difference(&before).cloned().collect();
    let [pack] = made.as_slice() else { panic!("{made:?}") };
    let mut bytes = std::fs::read(pack).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0xff;
    std::fs::write(pack, bytes).unwrap();
    // As the agent would have it: nothing of the pack was read before.
    site.store = Store::open(site.store.dir(), StoreOptions::default()).unwrap();
    let mut order = site.order(job_with("wc -l < inputs/raw/part-1.csv > outputs/out/rows", outputs(&["out"])));
    order.spec.inputs = BTreeMap::from([(name("raw"), name("flights"))]);
    order.inputs = BTreeMap::from([(name("raw"), version)]);
    (site, order, replica)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_input_is_brought_again_and_the_run_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let (mut site, order, replica) = damaged(temp.path());
    let (bring, count) = from_replica(&site, replica);
    site.driver.bring_with(bring);
    site.start(&order);
    let finish = site.finish().await;
    let log = site.all_logs().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{log}");
    assert_eq!(site.files(finish.outputs[&name("out")].version)["rows"].trim(), ROWS.to_string());
    assert_eq!(count.load(Ordering::Relaxed), 1, "{log}");
    assert!(log.contains("the input raw") && log.contains("part-1.csv") && log.contains("brought again"), "{log}");
    assert!(site.store.verify(&VerifyOptions::default()).unwrap().is_clean());
    assert_eq!(std::fs::read_dir(site.store.dir().join("quarantine")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_input_without_a_replica_is_named_with_its_file_and_chunk() {
    let temp = tempfile::tempdir().unwrap();
    let (mut site, order, _) = damaged(temp.path());
    let empty = Store::open(temp.path().join("empty"), StoreOptions::default()).unwrap();
    site.driver.bring_with(from_replica(&site, empty).0);
    site.start(&order);
    let Outcome::Unprepared { why } = site.finish().await.outcome else { panic!("{}", site.all_logs().await) };
    let version = order.inputs[&name("raw")].short().to_string();
    for part in
        ["the input raw", &version, "part-1.csv", "chunk ", "can't be brought again", "hint: add the data again"]
    {
        assert!(why.contains(part), "no {part} in: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stays_damaged_is_given_up() {
    let temp = tempfile::tempdir().unwrap();
    let (mut site, order, _) = damaged(temp.path());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    // It says that it is there again, and it is not.
    site.driver.bring_with(Box::new(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }));
    site.start(&order);
    let Outcome::Unprepared { why } = site.finish().await.outcome else { panic!("{}", site.all_logs().await) };
    assert!(why.contains("was brought 5 times before") && why.contains("hint: look after the disk"), "{why}");
    assert_eq!(count.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_what_lacks_is_brought() {
    let temp = tempfile::tempdir().unwrap();
    let (mut site, order, _) = damaged(temp.path());
    let (begun, mut bringing) = tokio::sync::mpsc::channel(1);
    site.driver.bring_with(Box::new(move |_, _| {
        let begun = begun.clone();
        Box::pin(async move {
            let _ = begun.send(()).await;
            std::future::pending().await
        })
    }));
    site.start(&order);
    tokio::time::timeout(crate::site::WAIT_MAX, bringing.recv()).await.unwrap().unwrap();
    site.stop();
    assert_eq!(site.finish().await.outcome, Outcome::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_writes_outside_its_outputs_changes_nothing_for_others() {
    let temp = tempfile::tempdir().unwrap();
    let mut site = Site::new();
    let version = site.store.add_tree(input(temp.path()), &AddOptions::default()).unwrap().version;
    let vandal = "chmod -R u+w inputs; echo lie > inputs/raw/part-1.csv; rm -f inputs/raw/nothing; echo x > inputs/new; \
                  echo lie > code.txt; echo x > stray; mkdir outputs/undeclared; echo x > outputs/undeclared/file; \
                  echo x > outputs/stray; echo good > outputs/out/file";
    let mut order = site.order(job_with(vandal, outputs(&["out"])));
    order.inputs = BTreeMap::from([(name("raw"), version)]);
    site.start(&order);
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
    // What it was to make is kept, and nothing else.
    assert_eq!(finish.outputs.keys().collect::<Vec<_>>(), [&name("out")]);
    let kept = site.files(finish.outputs[&name("out")].version);
    assert_eq!(kept, BTreeMap::from([("file".to_owned(), "good\n".to_owned())]));
    site.shim_gone();
    assert!(!site.placement().code_dir().exists());
    // Who has the same code and input after it finds both as they were.
    assert!(site.store.verify(&VerifyOptions::default()).unwrap().is_clean());
    assert_eq!(site.files(version)["part-1.csv"].lines().count(), ROWS);
    assert_eq!(site.files(site.code)["code.txt"], "the code");
}

/// Each reading of the wall's clock is a day before or after the last one.
const JUMPING: &str = r#"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    static int calls;
    int done = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += (calls++ % 2 ? -86400 : 86400);
    return done;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_moves_no_limit_and_no_line_of_the_log() {
    let temp = tempfile::tempdir().unwrap();
    let (code, library) = (temp.path().join("jumping.c"), temp.path().join("jumping.so"));
    std::fs::write(&code, JUMPING).unwrap();
    let cc = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status();
    assert!(cc.unwrap().success());
    let mut site = Site::new();
    let mut shim = vec!["/usr/bin/env".into(), format!("LD_PRELOAD={}", library.display()).into()];
    shim.push(std::env::current_exe().unwrap().into());
    shim.extend(crate::site::SHIM_ARGS.map(std::ffi::OsString::from));
    let (sender, seen) = tokio::sync::mpsc::channel(100);
    site.driver =
        tombolo_agent::driver::Driver::new("onprem".parse().unwrap(), &site.dir, None, Launcher::Process(shim), sender);
    site.seen = seen;
    let lines = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.02; done; date +%s >&2";
    let finish = site.run(job_with(lines, |job| job.timeout = Some(tombolo_core::Millis(3_600_000)))).await;
    let log = site.log(Default::default()).await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{log:?}");
    assert!(finish.ran.is_some_and(|ran| ran.0 < 3_600_000), "{finish:?}");
    let times: Vec<i64> = log.iter().map(|line| line.at.0).collect();
    assert_eq!(times.len(), 7, "{log:?}");
    assert!(times.is_sorted() && times[6] - times[0] < 3_600_000, "{times:?}");
    let (since, _) = site.placement().progress().unwrap().running.unwrap();
    assert!(since <= finish.at && finish.at.0 - since.0 < 3_600_000, "{since:?} {finish:?}");
    // The clock did jump: the process began a day away from now.
    let wall = log.iter().find(|line| line.stream == "stderr").unwrap().text.parse::<i64>().unwrap() * 1000;
    assert!((times[0] - wall).abs() > 43_200_000, "{wall} {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fills_the_disk_of_its_site_is_told_apart() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let temp = tempfile::tempdir().unwrap();
    let work = temp.path().join("work");
    std::fs::create_dir(&work).unwrap();
    if let Err(error) = mount(Some("tmpfs"), &work, Some("tmpfs"), MsFlags::empty(), Some("size=2m")) {
        eprintln!("SKIPPED: a small file system can't be mounted here: {error}");
        return;
    }
    let mut site = Site::at(temp.path());
    let finish = site.run(job("head -c 8000000 /dev/zero > big; exit 3")).await;
    site.shim_gone();
    let freed = !site.placement().code_dir().exists();
    drop(site);
    umount2(&work, MntFlags::MNT_DETACH).unwrap();
    let Outcome::NoSpace { why } = finish.outcome else { panic!("{finish:?}") };
    assert!(why.contains("the site's disk is full"), "{why}");
    assert!(freed, "what filled the disk is gone");
}
