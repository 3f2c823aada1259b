//! A site in a temporary directory, with a driver.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tombolo_agent::driver::{Driver, Launcher, Seen};
use tombolo_agent::logs::{LogLine, LogQuery};
use tombolo_agent::shim::placement::Placement;
use tombolo_core::ids::{Epoch, Name, SiteId, VersionId, WorkloadId};
use tombolo_core::spec::{Command, Job, Kind, Service, WorkloadSpec};
use tombolo_core::sync::{Finish, Order, Phase};
use tombolo_data::{AddOptions, MaterializeOptions, SiteKey, Store, StoreOptions};

/// What makes this program run nothing but the shim.
pub const SHIM_ARGS: [&str; 4] = ["--exact", "shim_entry", "--nocapture", "--test-threads=1"];
/// Longest wait for anything.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Site {
    pub dir: PathBuf,
    _temp: Option<TempDir>,
    pub driver: Driver,
    pub seen: mpsc::Receiver<Seen>,
    pub store: Store,
    pub code: VersionId,
}

pub fn workload() -> WorkloadId {
    "flights-1/train".parse().unwrap()
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Site {
    pub fn new() -> Site {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_owned();
        Site { _temp: Some(temp), ..Site::at(&dir) }
    }

    /// A driver for a site that may be there already, as after the agent has started again.
    pub fn at(dir: &Path) -> Site {
        Site::at_with_key(dir, None)
    }

    /// With the file of the key that its store is encrypted under.
    pub fn at_with_key(dir: &Path, key: Option<PathBuf>) -> Site {
        let mut shim: Vec<OsString> = vec![std::env::current_exe().unwrap().into()];
        shim.extend(SHIM_ARGS.map(OsString::from));
        let (sender, seen) = mpsc::channel(100);
        let driver = Driver::new(SiteId::new("onprem").unwrap(), dir, key.clone(), Launcher::Process(shim), sender);
        let key = key.map(|path| SiteKey::load(&path).unwrap());
        let store = Store::open(dir.join("store"), StoreOptions { key, ..StoreOptions::default() }).unwrap();
        let code = add(&store, &[("code.txt", "the code")]);
        Site { dir: dir.to_owned(), _temp: None, driver, seen, store, code }
    }

    pub fn order(&self, spec: WorkloadSpec) -> Order {
        Order { spec, code: self.code, inputs: BTreeMap::new(), state: None }
    }

    pub fn start(&self, order: &Order) {
        self.start_with(order, &BTreeMap::new());
    }

    pub fn start_with(&self, order: &Order, secrets: &BTreeMap<Name, String>) {
        self.driver.start(&workload(), Epoch(1), order, secrets).unwrap();
    }

    pub fn stop(&self) {
        self.driver.stop(&workload(), Epoch(1));
    }

    pub fn placement(&self) -> Placement {
        Placement::of(&self.dir, &workload(), Epoch(1))
    }

    /// Waits until the shim has ended.
    pub fn shim_gone(&self) {
        std::fs::File::open(self.placement().dir().join("lock")).unwrap().lock_shared().unwrap();
    }

    pub async fn next(&mut self) -> Phase {
        let seen = tokio::time::timeout(WAIT_MAX, self.seen.recv()).await.expect("nothing was seen").unwrap();
        assert_eq!((&seen.0, seen.1), (&workload(), Epoch(1)));
        seen.2
    }

    pub async fn running(&mut self) {
        match self.next().await {
            Phase::Running { .. } => {}
            other => panic!("{other:?}\n{}", self.all_logs().await),
        }
    }

    pub async fn finish(&mut self) -> Finish {
        loop {
            if let Phase::Finished(finish) = self.next().await {
                return *finish;
            }
        }
    }

    /// Starts a job and waits for its end.
    pub async fn run(&mut self, spec: WorkloadSpec) -> Finish {
        self.start(&self.order(spec));
        self.finish().await
    }

    /// Waits for a line, and answers it.
    pub async fn line(&self, contains: &str) -> LogLine {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut lines = self.driver.logs(&workload(), Epoch(1), query);
        let found = async {
            while let Some(line) = lines.next().await {
                let line = line.unwrap();
                if line.text.contains(contains) {
                    return line;
                }
            }
            panic!("the log ended without {contains:?}");
        };
        tokio::time::timeout(WAIT_MAX, found).await.expect("the line never came")
    }

    pub async fn log(&self, query: LogQuery) -> Vec<LogLine> {
        let lines: Vec<_> = self.driver.logs(&workload(), Epoch(1), query).collect().await;
        lines.into_iter().map(Result::unwrap).collect()
    }

    pub async fn all_logs(&self) -> String {
        let lines = self.log(LogQuery::default()).await;
        lines.into_iter().map(|line| format!("{}: {}\n", line.stream, line.text)).collect()
    }

    /// The files of an output and what is in them.
    pub fn files(&self, version: VersionId) -> BTreeMap<String, String> {
        let dir = tempfile::tempdir().unwrap();
        self.store.materialize(version, dir.path(), &MaterializeOptions::default()).unwrap();
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                let text = std::fs::read_to_string(&path).unwrap();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
            })
            .collect()
    }
}

pub fn add(store: &Store, files: &[(&str, &str)]) -> VersionId {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    store.add_tree(dir.path(), &AddOptions::default()).unwrap().version
}

pub fn job(command: &str) -> WorkloadSpec {
    WorkloadSpec::new(Kind::Job(Job::default()), Command::Run(command.to_owned()))
}

pub fn job_with(command: &str, change: impl FnOnce(&mut Job)) -> WorkloadSpec {
    let mut parts = Job::default();
    change(&mut parts);
    WorkloadSpec { kind: Kind::Job(parts), ..job(command) }
}

pub fn outputs(names: &[&str]) -> impl FnOnce(&mut Job) {
    let names = names.iter().map(|text| name(text)).collect();
    move |job| job.outputs = names
}

pub fn service(command: &str, change: impl FnOnce(&mut Service)) -> WorkloadSpec {
    let mut parts = Service::default();
    change(&mut parts);
    WorkloadSpec { kind: Kind::Service(parts), ..job(command) }
}

/// Whether a process is alive: it has not ended, and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    tombolo_agent::shim::process::stat(pid).is_some_and(|stat| !stat.zombie)
}
