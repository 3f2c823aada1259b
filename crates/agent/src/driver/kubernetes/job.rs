//! The Job that a placement's shim becomes, as data.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvFromSource, EnvVar, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SeccompProfile, SecretEnvSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tombolo_core::ids::{Name, SiteId};
use tombolo_core::resources::Resources;
use tombolo_core::spec::WorkloadSpec;

use super::{Accelerator, KubernetesConfig};

/// By which everything of a site is found.
pub const SITE_LABEL: &str = "tombolo.dev/site";
pub const RUN_LABEL: &str = "tombolo.dev/run";
pub const STAGE_LABEL: &str = "tombolo.dev/stage";
pub const EPOCH_LABEL: &str = "tombolo.dev/epoch";
/// Kueue's, by which it takes a job into a queue.
const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
const NO_SIDECARS: [(&str, &str); 2] = [("sidecar.istio.io/inject", "false"), ("linkerd.io/inject", "disabled")];
/// The one container of a shim's pod.
pub const CONTAINER: &str = "workload";
/// The resource that an accelerator is, unless the site says otherwise of its kind.
const GPU_RESOURCE: &str = "nvidia.com/gpu";
/// What a shim itself may use, in bytes and thousandths of a core, beside what its command was promised.
const SHIM_MEMORY_BYTES: u64 = 192 << 20;
const SHIM_CPUS_MILLI: u64 = 50;
/// How long a shim may take to keep what there is after the grace, in seconds: no pod is there for longer than it needs.
const KEEP_S: i64 = 15 * 60;
/// How long a Job is there to be looked at after its end, in seconds.
const KEPT_S: i32 = 15 * 60;
/// Names of pods' labels end here.
const NAME_MAX: usize = 63;
const NONCE_CHARS: usize = 8;

/// What a placement's Job is made of.
pub struct Making<'a> {
    pub name: String,
    pub site: &'a SiteId,
    pub run: &'a str,
    pub stage: &'a str,
    pub epoch: u64,
    pub spec: &'a WorkloadSpec,
    pub config: &'a KubernetesConfig,
    pub site_dir: &'a Path,
    /// What starts the shim, its directory included.
    pub command: Vec<String>,
}

/// A Job's name: where it is in the site, as far as that fits, and what keeps it apart from all others.
pub fn name(run: &str, stage: &str, epoch: u64, nonce: &str) -> String {
    let plain = |text: &str| -> String {
        let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        kept.collect()
    };
    let mut name = format!("{}-{}-{epoch}", plain(run), plain(stage));
    name.truncate(NAME_MAX - NONCE_CHARS - 1);
    format!("{}-{nonce}", name.trim_matches('-'))
}

/// Random, in a Job's name.
pub fn nonce() -> io::Result<String> {
    let mut bytes = [0; NONCE_CHARS / 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

pub fn job(making: &Making) -> io::Result<Job> {
    let Making { name, site, config, spec, .. } = making;
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), "tombolo".to_owned()),
        (SITE_LABEL.to_owned(), site.to_string()),
        (RUN_LABEL.to_owned(), label(making.run)),
        (STAGE_LABEL.to_owned(), label(making.stage)),
        (EPOCH_LABEL.to_owned(), making.epoch.to_string()),
    ]);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels.clone()),
            // A proxy beside the shim would run on when that has ended.
            annotations: Some(NO_SIDECARS.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(making)?),
    };
    // Kueue suspends whatever has the label, and a service is not to wait or to be preempted.
    if let Some(queue) = config.queue.as_ref().filter(|_| spec.service().is_none()) {
        labels.insert(QUEUE_LABEL.to_owned(), queue.clone());
    }
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(config.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // Whether it is tried again is for the control plane to say, under another epoch.
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            // Never a second pod beside one that is not known to be over.
            pod_replacement_policy: Some("Failed".to_owned()),
            // Kueue lets it go when its turn has come.
            suspend: Some(config.queue.is_some() && spec.service().is_none()),
            ttl_seconds_after_finished: Some(KEPT_S),
            template,
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn pod(making: &Making) -> io::Result<PodSpec> {
    let Making { config, spec, .. } = making;
    let (volumes, mounts) = volumes(making)?;
    let (selector, tolerations) = nodes(config, &spec.resources)?;
    let grace_s = i64::try_from(spec.grace.0.div_ceil(1000)).unwrap_or(i64::MAX - KEEP_S);
    let pull = |name: &String| LocalObjectReference { name: name.clone() };
    Ok(PodSpec {
        automount_service_account_token: Some(config.service_account.is_some()),
        service_account_name: config.service_account.clone(),
        containers: vec![container(making, mounts)],
        enable_service_links: Some(false),
        image_pull_secrets: Some(config.pull_secrets.iter().map(pull).collect()),
        node_selector: Some(selector),
        priority_class_name: config.priority_class.clone(),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(config.user)),
        termination_grace_period_seconds: Some(grace_s.saturating_add(KEEP_S)),
        tolerations: Some(tolerations),
        volumes: Some(volumes),
        ..PodSpec::default()
    })
}

fn container(making: &Making, mounts: Vec<VolumeMount>) -> Container {
    let Making { config, spec, .. } = making;
    let dir = making.site_dir.display();
    let mut env = vec![
        variable("HOME", "/tmp"),
        // An image needn't know the user.
        variable("USER", "tombolo"),
        variable("LOGNAME", "tombolo"),
        // Shared by all that make environments at this site, and by those that use them.
        variable("UV_CACHE_DIR", &format!("{dir}/envs/cache")),
        variable("UV_PYTHON_INSTALL_DIR", &format!("{dir}/envs/python")),
    ];
    env.extend(config.env.iter().map(|(name, value)| variable(name, value)));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image.clone().unwrap_or_else(|| config.image.clone())),
        image_pull_policy: config.pull_policy.clone(),
        command: Some(making.command.clone()),
        env: Some(env),
        env_from: config.store_secret.as_ref().map(|secret| {
            let name = secret.clone();
            let secret_ref = Some(SecretEnvSource { name, optional: None });
            vec![EnvFromSource { secret_ref, ..EnvFromSource::default() }]
        }),
        resources: Some(requirements(&spec.resources, &config.accelerators)),
        security_context: Some(restricted()),
        volume_mounts: Some(mounts),
        // What the shim has said at last is then in the pod's state.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What is in a pod beside its image, and where.
fn volumes(making: &Making) -> io::Result<(Vec<Volume>, Vec<VolumeMount>)> {
    let Making { config, .. } = making;
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let dir = making.site_dir.display().to_string();
    let mut volumes = vec![
        Volume {
            name: "site".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: config.claim.clone(),
                read_only: None,
            }),
            ..Volume::default()
        },
        Volume { name: "tmp".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
        // A runtime's own is 64 MiB, too little for what loads data in processes of its own.
        Volume {
            name: "shm".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: None }),
            ..Volume::default()
        },
    ];
    let mut mounts = vec![mount("site", &dir), mount("tmp", "/tmp"), mount("shm", "/dev/shm")];
    for (at, further) in config.mounts.iter().enumerate() {
        let name = format!("mount-{at}");
        let fault = |why: &dyn std::fmt::Display| {
            io::Error::other(format!("the volume at {} in the site file is none: {why}", further.path.display()))
        };
        let mut volume = further.volume.as_object().ok_or_else(|| fault(&"it names no kind of volume"))?.clone();
        volume.insert("name".to_owned(), name.as_str().into());
        volumes.push(serde_json::from_value(volume.into()).map_err(|error| fault(&error))?);
        let path = further.path.display().to_string();
        mounts.push(VolumeMount { read_only: Some(further.read_only), ..mount(&name, &path) });
    }
    Ok((volumes, mounts))
}

/// Which nodes a pod may go to.
fn nodes(config: &KubernetesConfig, needs: &Resources) -> io::Result<(BTreeMap<String, String>, Vec<Toleration>)> {
    let mut selector = config.node_selector.clone();
    // The program comes from the volume, not from the image.
    selector.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
    selector.entry("kubernetes.io/arch".to_owned()).or_insert_with(|| arch().to_owned());
    let mut tolerations = config.tolerations.clone();
    for accelerator in needs.gpus.keys().filter_map(|kind| config.accelerators.get(kind)) {
        selector.extend(accelerator.node_selector.clone());
        tolerations.extend(accelerator.tolerations.clone());
    }
    let tolerations: Result<Vec<Toleration>, _> = tolerations.into_iter().map(serde_json::from_value).collect();
    let tolerations =
        tolerations.map_err(|error| io::Error::other(format!("a toleration in the site file is none: {error}")))?;
    Ok((selector, tolerations))
}

/// As nodes are labelled.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// What the restricted profile of Pod Security asks of a container.
fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Without a user the cluster gives one, as OpenShift does.
fn pod_security(user: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        // The volume may be large, and all in it is ours.
        fs_group_change_policy: user.map(|_| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Asked for and held to: a pod that uses more than it has asked for is the first to be evicted.
fn requirements(needs: &Resources, accelerators: &BTreeMap<Name, Accelerator>) -> ResourceRequirements {
    let mut all = BTreeMap::new();
    if needs.cpus_milli > 0 {
        all.insert("cpu".to_owned(), Quantity(format!("{}m", needs.cpus_milli + SHIM_CPUS_MILLI)));
    }
    if needs.memory_bytes > 0 {
        all.insert("memory".to_owned(), Quantity((needs.memory_bytes + SHIM_MEMORY_BYTES).to_string()));
    }
    let mut gpus: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, count) in &needs.gpus {
        let resource = accelerators.get(kind).and_then(|one| one.resource.clone());
        *gpus.entry(resource.unwrap_or_else(|| GPU_RESOURCE.to_owned())).or_default() += u64::from(*count);
    }
    all.extend(gpus.into_iter().map(|(resource, count)| (resource, Quantity(count.to_string()))));
    ResourceRequirements { claims: None, limits: Some(all.clone()), requests: Some(all) }
}

/// As a label's value, which is shorter than a name of ours may be.
fn label(text: &str) -> String {
    let kept: String = text.chars().take(NAME_MAX).collect();
    kept.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use tombolo_core::spec::{Command, Kind};

    use super::*;

    fn made(spec: &WorkloadSpec, config: &KubernetesConfig) -> serde_json::Value {
        let site = SiteId::new("cloud").unwrap();
        let making = Making {
            name: name("flights-1", "train", 2, "0a1b2c3d"),
            site: &site,
            run: "flights-1",
            stage: "train",
            epoch: 2,
            spec,
            config,
            site_dir: Path::new("/var/lib/tombolo"),
            command: vec!["/var/lib/tombolo/bin/t".to_owned(), "shim".to_owned()],
        };
        serde_json::to_value(job(&making).unwrap()).unwrap()
    }

    fn spec() -> WorkloadSpec {
        WorkloadSpec::new(Kind::Job(tombolo_core::spec::Job::default()), Command::Run("true".to_owned()))
    }

    #[test]
    fn names_are_those_of_pods_whatever_they_are_made_of() {
        assert_eq!(name("flights-1", "train", 2, "0a1b2c3d"), "flights-1-train-2-0a1b2c3d");
        let long = name(&"r".repeat(60), &"s".repeat(60), 7, "0a1b2c3d");
        assert!(long.len() <= NAME_MAX && long.ends_with("-0a1b2c3d"), "{long}");
        assert_eq!(name("_", "A_b", 1, "0a1b2c3d"), "a-b-1-0a1b2c3d");
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }

    #[test]
    fn a_job_is_never_run_twice_by_the_cluster() {
        let made = made(&spec(), &KubernetesConfig::default());
        assert_eq!(made["spec"]["backoffLimit"], 0);
        assert_eq!(made["spec"]["podReplacementPolicy"], "Failed");
        assert_eq!(made["spec"]["template"]["spec"]["restartPolicy"], "Never");
    }

    #[test]
    fn a_pod_is_as_the_restricted_profile_asks() {
        let made = made(&spec(), &KubernetesConfig::default());
        let pod = &made["spec"]["template"]["spec"];
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
    }

    #[test]
    fn what_is_asked_for_is_what_it_is_held_to() {
        let mut spec = spec();
        let a100 = Name::new("a100").unwrap();
        spec.resources = Resources { cpus_milli: 1500, memory_bytes: 1 << 30, ..Resources::default() };
        spec.resources.gpus.insert(a100.clone(), 2);
        spec.resources.gpus.insert(Name::new("other").unwrap(), 1);
        let accelerator = Accelerator {
            resource: Some("example.com/a100".to_owned()),
            node_selector: BTreeMap::from([("gpu".to_owned(), "a100".to_owned())]),
            tolerations: vec![serde_json::json!({"key": "nvidia.com/gpu", "operator": "Exists"})],
        };
        let config = KubernetesConfig {
            accelerators: BTreeMap::from([(a100, accelerator)]),
            queue: Some("ml".to_owned()),
            ..KubernetesConfig::default()
        };
        let made = made(&spec, &config);
        let pod = &made["spec"]["template"]["spec"];
        let asked = &pod["containers"][0]["resources"];
        assert_eq!(asked["requests"], asked["limits"]);
        assert_eq!(asked["limits"]["cpu"], "1550m");
        assert_eq!(asked["limits"]["memory"], ((1u64 << 30) + SHIM_MEMORY_BYTES).to_string());
        assert_eq!(asked["limits"]["example.com/a100"], "2");
        assert_eq!(asked["limits"][GPU_RESOURCE], "1");
        assert_eq!(pod["nodeSelector"]["gpu"], "a100");
        assert_eq!(pod["tolerations"][0]["key"], "nvidia.com/gpu");
        assert_eq!((&made["spec"]["suspend"], &made["metadata"]["labels"][QUEUE_LABEL]), (&true.into(), &"ml".into()));
    }

    #[test]
    fn what_a_site_adds_is_in_every_pod() {
        let mount = |volume: serde_json::Value| super::super::Mount { path: "/data".into(), read_only: true, volume };
        let mut config = KubernetesConfig {
            env: BTreeMap::from([("HTTPS_PROXY".to_owned(), "http://proxy".to_owned())]),
            store_secret: Some("bucket".to_owned()),
            mounts: vec![mount(serde_json::json!({"nfs": {"server": "files", "path": "/x"}}))],
            ..KubernetesConfig::default()
        };
        let made = made(&spec(), &config);
        let pod = &made["spec"]["template"]["spec"];
        let last = |all: &serde_json::Value| all.as_array().unwrap().last().unwrap().clone();
        assert_eq!(last(&pod["volumes"])["nfs"]["server"], "files");
        assert_eq!(last(&pod["containers"][0]["volumeMounts"])["mountPath"], "/data");
        assert_eq!(last(&pod["containers"][0]["env"])["value"], "http://proxy");
        assert_eq!(pod["containers"][0]["envFrom"][0]["secretRef"]["name"], "bucket");
        config.mounts = vec![mount(serde_json::json!({"nfs": 7}))];
        let site = SiteId::new("cloud").unwrap();
        let making = Making {
            name: "x".to_owned(),
            site: &site,
            run: "r",
            stage: "s",
            epoch: 1,
            spec: &spec(),
            config: &config,
            site_dir: Path::new("/d"),
            command: Vec::new(),
        };
        assert!(job(&making).unwrap_err().to_string().contains("/data"));
    }
}
