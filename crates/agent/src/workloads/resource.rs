//! The custom resource `Workload`: what it may say, and the project that it stands for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use kube::core::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tombolo_api::project::{self, Faults, Loader};
use tombolo_core::spec::ProjectSpec;

use super::decide::Work;

/// Longest name of a file, in bytes, as file systems have it.
const NAME_BYTES_MAX: usize = 255;
/// Most faults that a status tells of.
const FAULTS_TOLD: usize = 5;

/// What it is to the cluster.
pub fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("tombolo.dev", "v1alpha1", "Workload"), "workloads")
}

/// `spec`, as the cluster has defaulted and checked it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The resource's own name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Datasets, as in a project file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// A job, as under `stages:` in a project file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Value>,
    /// As under `services:` in a project file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Value>,
    /// The code: texts by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Whether to run it though an earlier run has made the same.
    #[serde(default)]
    pub force: bool,
    /// Whether it is to stand still.
    #[serde(default)]
    pub suspend: bool,
}

/// Of a resource, what matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    pub spec: Spec,
    /// As it was told last.
    pub status: Value,
}

impl Wanted {
    /// None where it is being deleted; the fault where it says what no `Workload` can.
    pub fn read(object: &kube::api::DynamicObject) -> Option<Result<Wanted, String>> {
        let meta = &object.metadata;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        let spec = object.data.get("spec").cloned().unwrap_or_else(|| json!({}));
        let wanted = serde_json::from_value(spec).map_err(|error| format!("its spec can't be understood: {error}"));
        Some(wanted.map(|spec| Wanted {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            spec,
            status: object.data.get("status").cloned().unwrap_or(Value::Null),
        }))
    }

    pub fn project(&self) -> &str {
        self.spec.project.as_deref().unwrap_or(&self.name)
    }

    pub fn is_job(&self) -> bool {
        self.spec.stage.is_some()
    }

    pub fn work(&self) -> Work {
        let mut spec = serde_json::to_value(&self.spec).expect("plain data");
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("suspend");
            spec.remove("project");
        }
        let digest = blake3::hash(spec.to_string().as_bytes()).to_hex()[..32].to_owned();
        Work { project: self.project().to_owned(), is_job: self.is_job(), digest }
    }

    /// The project with this one workload in it, or what is wrong with it.
    pub fn to_project(&self) -> Result<ProjectSpec, String> {
        for path in self.spec.files.keys() {
            if !is_inside(path) {
                return Err(format!("files: {path:?} is no path from the code's directory on, such as train.py"));
            }
            let within = |other: &&String| other.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'));
            if let Some(other) = self.spec.files.keys().find(within) {
                return Err(format!("files: {path:?} is a file, and {other:?} would be in it"));
            }
        }
        if let Some(name) = self.spec.data.as_ref().and_then(with_path) {
            return Err(format!(
                "data: {name} has a path, and a Workload has no directory\nhint: add the dataset with `tombolo data add {name} PATH`, and \
                 name it here without a path"
            ));
        }
        let section = match (&self.spec.stage, &self.spec.service) {
            (Some(stage), None) => ("stages", stage),
            (None, Some(service)) => ("services", service),
            _ => return Err("it says both or none of stage and service\nhint: say one of them".to_owned()),
        };
        let mut document = Map::new();
        document.insert("project".to_owned(), self.project().into());
        if let Some(data) = &self.spec.data {
            document.insert("data".to_owned(), data.clone());
        }
        document.insert(section.0.to_owned(), json!({self.name.clone(): section.1}));
        let text = Value::from(document).to_string();
        project::parse(&text, "the Workload", &Files(&self.spec.files)).map_err(|faults| told(&faults))
    }
}

fn with_path(data: &Value) -> Option<&str> {
    let has = |value: &Value| value.is_string() || value.get("path").is_some();
    data.as_object()?.iter().find(|(_, value)| has(value)).map(|(name, _)| name.as_str())
}

fn is_inside(path: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name.len() <= NAME_BYTES_MAX);
    !path.is_empty() && !path.ends_with('/') && !path.contains('\0') && Path::new(path).components().all(plain)
}

/// Without places: they are those of a text that nobody wrote.
fn told(faults: &Faults) -> String {
    let mut lines: Vec<String> = Vec::new();
    for fault in faults.faults.iter().take(FAULTS_TOLD) {
        lines.push(fault.message.clone());
        lines.extend(fault.hint.as_ref().map(|hint| format!("hint: {hint}")));
    }
    let more = faults.faults.len().saturating_sub(FAULTS_TOLD) + faults.more;
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// The resource's own files, for what its stage names.
struct Files<'a>(&'a BTreeMap<String, String>);

impl Loader for Files<'_> {
    fn read(&self, path: &str) -> io::Result<String> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "it is none of the Workload's files");
        self.0.get(path).cloned().ok_or_else(missing)
    }

    fn exists(&self, path: &str) -> bool {
        let inside =
            |file: &String| file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.0.keys().any(inside)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use tombolo_core::spec::Kind;

    pub fn wanted(generation: i64, spec: Value) -> Wanted {
        let object = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "Workload",
            "metadata": {"name": "train", "namespace": "ml", "uid": "u", "generation": generation}, "spec": spec
        });
        Wanted::read(&serde_json::from_value(object).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn a_stage_becomes_a_project_of_one_job() {
        let spec = json!({
            "data": {"raw": null},
            "stage": {"run": "python train.py", "in": ["raw"], "out": ["model"], "resources": {"cpus": 2}},
            "files": {"train.py": "print(1)"}
        });
        let one = wanted(1, spec);
        let project = one.to_project().unwrap();
        assert_eq!((project.name.as_str(), one.is_job()), ("train", true));
        let (name, workload) = project.workloads.iter().next().unwrap();
        assert_eq!((name.as_str(), workload.resources.cpus_milli), ("train", 2000));
        assert!(project.data.keys().any(|name| name.as_str() == "raw"));
    }

    #[test]
    fn a_service_becomes_one_of_the_project_that_is_named() {
        let one = wanted(1, json!({"project": "flights", "service": {"run": "serve", "ready": "/healthz"}}));
        let project = one.to_project().unwrap();
        assert_eq!(project.name.as_str(), "flights");
        let workload = project.workloads.values().next().unwrap();
        assert!(matches!(workload.kind, Kind::Service(_)));
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        for (spec, said) in [
            (json!({"stage": {"run": "x", "resources": {"cpus": "many"}}}), "cpus"),
            (json!({"stage": {"runs": "x"}}), "runs"),
            (json!({"stage": {"run": "x", "in": ["raw"]}}), "raw"),
            (json!({"stage": {"run": "x"}, "data": {"raw": {"path": "data"}}}), "tombolo data add raw PATH"),
            (json!({"stage": {"run": "x"}, "data": {"raw": "data"}}), "tombolo data add raw PATH"),
            (json!({"stage": {"run": "x"}, "files": {"../x": ""}}), "no path"),
            (json!({"stage": {"run": "x"}, "files": {"/x": ""}}), "no path"),
            (json!({"stage": {"run": "x"}, "files": {"x/": ""}}), "no path"),
            (json!({"stage": {"run": "x"}, "files": {"x".repeat(256): ""}}), "no path"),
            (json!({"stage": {"run": "x"}, "files": {"a": "", "a/b": ""}}), "would be in it"),
            (json!({}), "say one of them"),
            (json!({"stage": {"run": "x"}, "service": {"run": "x"}}), "say one of them"),
            (json!({"project": "Not A Name", "stage": {"run": "x"}}), "Not A Name"),
        ] {
            let fault = wanted(1, spec.clone()).to_project().unwrap_err();
            assert!(fault.contains(said), "{spec}: {fault}");
            assert!(!fault.contains("line"), "{fault}");
        }
    }

    #[test]
    fn only_what_runs_is_work() {
        let of = |spec: Value| wanted(1, spec).work();
        let base = of(json!({"stage": {"run": "x"}}));
        // Another digest would run all that there is once more.
        assert_eq!(base.digest, "60247a33f88787e201232d9c2ef80d6c");
        for same in [
            json!({"stage": {"run": "x"}, "suspend": true}),
            json!({"stage": {"run": "x"}, "project": "train"}),
            json!({"stage": {"run": "x"}, "files": {}}),
        ] {
            assert_eq!(base, of(same.clone()), "{same}");
        }
        for other in [
            json!({"stage": {"run": "y"}}),
            json!({"stage": {"run": "x"}, "force": true}),
            json!({"stage": {"run": "x"}, "project": "other"}),
            json!({"stage": {"run": "x"}, "files": {"a": ""}}),
            json!({"service": {"run": "x"}}),
        ] {
            assert_ne!(base, of(other.clone()), "{other}");
        }
    }
}
