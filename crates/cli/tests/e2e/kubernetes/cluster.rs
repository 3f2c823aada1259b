//! The one-node Kubernetes that `cargo xtask test --kubernetes` has brought up, with a namespace and a volume for each test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::world::{SOON, wait};

/// Where the lane keeps the cluster, in the environment of the tests.
pub const VARIABLE: &str = "TOMBOLO_E2E_KUBERNETES";

/// A namespace of the cluster's, gone with the test.
pub struct Cluster {
    vars: Vec<(String, String)>,
    dir: PathBuf,
    pub namespace: String,
}

impl Cluster {
    /// Or why there can't be one.
    pub fn of(test: &str) -> Result<Cluster, String> {
        let dir =
            std::env::var_os(VARIABLE).ok_or("it needs a Kubernetes: cargo xtask test --kubernetes brings one")?;
        let dir = PathBuf::from(dir);
        let text = fs::read_to_string(dir.join("vars")).map_err(|error| format!("{VARIABLE}: {error}"))?;
        let vars = text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let cluster = Cluster { vars: vars.collect(), dir, namespace: test.to_owned() };
        cluster.ok(&["create", "namespace", test]);
        cluster.make_volume();
        Ok(cluster)
    }

    fn var(&self, name: &str) -> &str {
        let found = self.vars.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("the cluster has no {name}"))
    }

    /// This machine, as pods reach it.
    pub fn host(&self) -> &str {
        self.var("HOST_IP")
    }

    pub fn env(&self) -> Vec<(String, std::ffi::OsString)> {
        vec![("KUBECONFIG".to_owned(), self.var("KUBECONFIG").into())]
    }

    fn kubectl(&self, args: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(self.var("KUBECTL"));
        command.args(["--namespace", &self.namespace]).args(args).envs(self.env());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// What kubectl prints; nothing where it fails.
    pub fn say(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.kubectl(args, None).stdout).trim().to_owned()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args, None);
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn apply(&self, object: &Value) {
        let output = self.kubectl(&["apply", "--filename=-"], Some(&object.to_string()));
        assert!(output.status.success(), "{object}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What kubectl says of an object that the cluster doesn't take.
    pub fn refuse(&self, object: &Value) -> String {
        let output = self.kubectl(&["apply", "--filename=-"], Some(&object.to_string()));
        assert!(!output.status.success(), "{object} is taken");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Stops or starts one of the cluster's programs.
    pub fn component(&self, name: &str, what: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kubernetes/component");
        let done = Command::new(script).arg(&self.dir).args([name, what]).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{name} {what}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// One of this machine's directories, in the way that a cluster with an NFS server would have it for everybody.
    fn make_volume(&self) {
        let dir = self.dir.join("volumes").join(&self.namespace);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.namespace},
            "spec": {
                "capacity": {"storage": "50Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": self.namespace,
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": dir}
            }
        }));
    }

    /// Names of pods with what their phase is, without the agent's.
    pub fn pods(&self) -> Vec<(String, String)> {
        let template = "{range .items[*]}{.metadata.name} {.status.phase}{\"\\n\"}{end}";
        let path = format!("--output=jsonpath={template}");
        let text = self.say(&["get", "pods", "--selector=tombolo.dev/site", &path]);
        text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// The pod whose name begins like this, once it is in this phase.
    pub fn wait_pod(&self, start: &str, phase: &str) -> String {
        wait(SOON, &format!("a pod {start}… is {phase}"), || {
            let is = |(name, found): &(String, String)| name.starts_with(start) && found == phase;
            self.pods().into_iter().find(is).map(|(name, _)| name)
        })
    }

    /// What the agent and the cluster say, for a test that fails.
    pub fn logs(&self) -> String {
        let agent = self.say(&["logs", "--tail=30", "--selector=app.kubernetes.io/name=tombolo"]);
        let pods = self.say(&["get", "jobs,pods", "--output=wide"]);
        let workloads = self.say(&["get", "workloads.tombolo.dev", "--output=wide"]);
        let events = self.say(&["get", "events", "--sort-by=.lastTimestamp"]);
        format!("--- the agent\n{agent}\n--- pods\n{pods}\n--- workloads\n{workloads}\n--- events\n{events}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.say(&["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"]);
        self.say(&["delete", "persistentvolume", &self.namespace, "--wait=false", "--ignore-not-found"]);
    }
}
