//! What a site is in its cluster, as Kubernetes' objects. The Helm chart in `deploy/helm` makes the same of the same values.

use serde_json::{Value, json};
use tombolo_agent::driver::kubernetes::{GATEWAY_PORT, KubernetesConfig, SITE_LABEL, TRACKING_PORT};
use tombolo_agent::workloads::TOKEN_DIR as WORKLOADS_DIR;
use tombolo_core::SiteId;

/// Where the site's directory is, in the agent's pod and in those of workloads.
pub const SITE_DIR: &str = "/var/lib/tombolo";
const CONFIG_DIR: &str = "/etc/tombolo";
const SITE_FILE_ANNOTATION: &str = "tombolo.dev/site-file";
/// In the secret with which the site joins.
const TOKEN_KEY: &str = "token";
/// Of the agent: 64 MiB for data on its way, and room for the rest.
const AGENT_MEMORY: &str = "512Mi";
const AGENT_CPU: &str = "100m";

pub struct Settings<'a> {
    pub site: &'a SiteId,
    /// The control plane's API, as pods reach it.
    pub control: &'a str,
    pub config: &'a KubernetesConfig,
    /// The site file that the agent joins with, as YAML.
    pub site_file: &'a str,
    /// Of the volume; none where a claim that is there is to be used.
    pub volume: Option<Volume<'a>>,
    /// A bucket that is the site's store.
    pub store: Option<&'a str>,
}

pub struct Volume<'a> {
    /// The cluster's default where none is given.
    pub class: Option<&'a str>,
    pub size: &'a str,
    pub access: &'a str,
}

/// Of the resource `Workload`, for the whole cluster: the file that the Helm chart brings as well.
const DEFINITION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/tombolo/crds/workloads.yaml"));

pub fn definition() -> Value {
    serde_saphyr::from_str(DEFINITION).expect("the definition in deploy/helm is YAML")
}

/// Of everything that is the agent's, and of the secret that it joins with.
pub fn name(site: &SiteId) -> String {
    format!("tombolo-{site}")
}

/// In the order in which they are applied. The secret with the join token isn't among them: it is made once, and belongs in
/// no repository.
pub fn manifests(settings: &Settings) -> Vec<Value> {
    let Settings { site, config, .. } = settings;
    let name = name(site);
    let own = json!({"app.kubernetes.io/name": "tombolo", "app.kubernetes.io/instance": name});
    let mut labels = own.clone();
    labels["app.kubernetes.io/managed-by"] = "tombolo".into();
    let meta = |name: &str| json!({"name": name, "namespace": config.namespace, "labels": labels});
    let mut all = vec![json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(&name)})];
    all.extend(rights(&name, config, &meta));
    if let Some(volume) = &settings.volume {
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta(&config.claim),
            "spec": {"accessModes": [volume.access], "resources": {"requests": {"storage": volume.size}}}
        });
        if let Some(class) = volume.class {
            claim["spec"]["storageClassName"] = class.into();
        }
        all.push(claim);
    }
    all.push(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(&name), "data": {"site.yaml": settings.site_file}
    }));
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": port, "protocol": "TCP"});
    all.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta(&name),
        "spec": {
            "type": "ClusterIP", "selector": own, "ports": [port("endpoints", GATEWAY_PORT), port("tracking", TRACKING_PORT)]
        }
    }));
    all.push(policy(&name, site, &own, &meta));
    all.push(deployment(settings, &name, &own, &meta));
    all
}

/// The least that does, in its own namespace.
fn rights(name: &str, config: &KubernetesConfig, meta: &dyn Fn(&str) -> Value) -> [Value; 2] {
    let mut role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(name),
        "rules": [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "delete", "list", "watch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}
        ]
    });
    if config.workloads
        && let Some(rules) = role["rules"].as_array_mut()
    {
        let group = ["tombolo.dev"];
        rules.push(json!({"apiGroups": group, "resources": ["workloads"], "verbs": ["list", "watch"]}));
        rules.push(json!({"apiGroups": group, "resources": ["workloads/status"], "verbs": ["patch"]}));
        rules.push(json!({"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}));
    }
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": config.namespace}]
    });
    [role, binding]
}

/// Workloads are reached by their agent alone, whose gateway is for everybody.
fn policy(name: &str, site: &SiteId, agent: &Value, meta: &dyn Fn(&str) -> Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta(name),
        "spec": {
            "podSelector": {"matchLabels": {SITE_LABEL: site}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": agent}}]}]
        }
    })
}

fn deployment(settings: &Settings, name: &str, own: &Value, meta: &dyn Fn(&str) -> Value) -> Value {
    let Settings { config, .. } = settings;
    let mut security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    if let Some(user) = config.user {
        for field in ["runAsUser", "runAsGroup", "fsGroup"] {
            security[field] = user.into();
        }
        security["fsGroupChangePolicy"] = "OnRootMismatch".into();
    }
    let pulls: Vec<Value> = config.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    let mut pod = json!({
        "serviceAccountName": name,
        // It has nothing to end: what runs goes on without it.
        "terminationGracePeriodSeconds": 1,
        "securityContext": security,
        "containers": [container(settings, name)],
        "volumes": [
            {"name": "site", "persistentVolumeClaim": {"claimName": config.claim}},
            {"name": "config", "configMap": {"name": name}},
            {"name": "tmp", "emptyDir": {}}
        ]
    });
    if config.workloads
        && let Some(volumes) = pod["volumes"].as_array_mut()
    {
        // Optional, and read anew: another token may be put there while it runs.
        volumes.push(
            json!({"name": "workloads", "secret": {"secretName": format!("{name}-workloads"), "optional": true}}),
        );
    }
    if !pulls.is_empty() {
        pod["imagePullSecrets"] = pulls.into();
    }
    if !config.node_selector.is_empty() {
        pod["nodeSelector"] = json!(config.node_selector);
    }
    if !config.tolerations.is_empty() {
        pod["tolerations"] = json!(config.tolerations);
    }
    // Another site file is read by another pod.
    let file = blake3::hash(settings.site_file.as_bytes()).to_hex()[..16].to_owned();
    let template = json!({"labels": own, "annotations": {SITE_FILE_ANNOTATION: file}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name),
        "spec": {
            "replicas": 1,
            // Two agents would wait for one lock.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": own},
            "template": {"metadata": template, "spec": pod}
        }
    })
}

fn container(settings: &Settings, name: &str) -> Value {
    let Settings { site, control, config, store, .. } = settings;
    let mut args = vec![
        "agent".to_owned(),
        "join".to_owned(),
        (*control).to_owned(),
        format!("--name={site}"),
        format!("--dir={SITE_DIR}"),
        format!("--site-file={CONFIG_DIR}/site.yaml"),
        format!("--gateway=0.0.0.0:{GATEWAY_PORT}"),
        "--or-run".to_owned(),
    ];
    args.extend(store.map(|url| format!("--store={url}")));
    let token = json!({
        "name": "TOMBOLO_JOIN_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": format!("{name}-join"), "key": TOKEN_KEY, "optional": true}}
    });
    let mut env = vec![token, json!({"name": "HOME", "value": "/tmp"})];
    // As in the pods of workloads.
    for (name, dir) in [("UV_CACHE_DIR", "cache"), ("UV_PYTHON_INSTALL_DIR", "python")] {
        env.push(json!({"name": name, "value": format!("{SITE_DIR}/envs/{dir}")}));
    }
    env.extend(config.env.iter().map(|(name, value)| json!({"name": name, "value": value})));
    let mut container = json!({
        "name": "agent",
        "image": config.image,
        "args": args,
        "env": env,
        "ports": [
            {"name": "endpoints", "containerPort": GATEWAY_PORT}, {"name": "tracking", "containerPort": TRACKING_PORT}
        ],
        "resources": {
            "requests": {"cpu": AGENT_CPU, "memory": AGENT_MEMORY}, "limits": {"cpu": "2", "memory": "1Gi"}
        },
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
        },
        "volumeMounts": [
            {"name": "site", "mountPath": SITE_DIR},
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"}
        ]
    });
    if config.workloads
        && let Some(mounts) = container["volumeMounts"].as_array_mut()
    {
        mounts.push(json!({"name": "workloads", "mountPath": WORKLOADS_DIR, "readOnly": true}));
    }
    if let Some(policy) = &config.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    if let Some(secret) = &config.store_secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    container
}

/// A secret with one of the agent's tokens: `join` or `workloads`.
pub fn secret(site: &SiteId, namespace: &str, what: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": format!("{}-{what}", name(site)), "namespace": namespace},
        "stringData": {TOKEN_KEY: token}
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: impl FnOnce(&mut KubernetesConfig)) -> Vec<Value> {
        let site = SiteId::new("cloud").unwrap();
        let mut config = KubernetesConfig { namespace: "ml".to_owned(), claim: "c".to_owned(), ..Default::default() };
        change(&mut config);
        let volume = Some(Volume { class: Some("fast"), size: "50Gi", access: "ReadWriteMany" });
        let settings = Settings {
            site: &site,
            control: "https://control.example",
            config: &config,
            site_file: "name: cloud\n",
            volume,
            store: Some("s3://b/p"),
        };
        manifests(&settings)
    }

    fn of<'a>(all: &'a [Value], kind: &str) -> &'a Value {
        all.iter().find(|one| one["kind"] == kind).unwrap()
    }

    #[test]
    fn everything_is_in_the_sites_namespace_and_named_after_it() {
        let all = made(|_| {});
        for one in &all {
            assert_eq!(one["metadata"]["namespace"], "ml", "{one}");
            let name = one["metadata"]["name"].as_str().unwrap();
            assert!(name == "tombolo-cloud" || one["kind"] == "PersistentVolumeClaim", "{name}");
        }
        assert!(!all.iter().any(|one| one["kind"].as_str().unwrap().starts_with("Cluster")));
        assert!(!serde_json::to_string(&all).unwrap().contains("stringData"));
    }

    #[test]
    fn the_agents_pod_is_as_the_restricted_profile_asks() {
        let all = made(|config| (config.user, config.store_secret) = (Some(10001), Some("bucket".to_owned())));
        let pod = &of(&all, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["fsGroup"], 10001);
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["envFrom"][0]["secretRef"]["name"], "bucket");
        assert_eq!(of(&all, "PersistentVolumeClaim")["spec"]["storageClassName"], "fast");
        // Where the cluster gives a user, none is named.
        let all = made(|_| {});
        let pod = &of(&all, "Deployment")["spec"]["template"]["spec"];
        assert!(pod["securityContext"]["runAsUser"].is_null() && pod["nodeSelector"].is_null());
    }

    #[test]
    fn rights_are_no_more_than_are_used() {
        let all = made(|_| {});
        let rules = of(&all, "Role")["rules"].as_array().unwrap();
        let verbs: Vec<&str> =
            rules.iter().flat_map(|rule| rule["verbs"].as_array().unwrap()).map(|v| v.as_str().unwrap()).collect();
        assert_eq!(verbs, ["create", "delete", "list", "watch", "list", "watch", "list"]);
        // Whoever has Workloads submitted writes of them what the cluster doesn't know, and nothing of theirs.
        let all = made(|config| config.workloads = true);
        let rules = of(&all, "Role")["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 6);
        let about = |rule: &&Value| rule["apiGroups"][0] == "tombolo.dev" && rule["resources"][0] == "workloads";
        assert_eq!(rules.iter().find(about).unwrap()["verbs"], json!(["list", "watch"]));
    }
}
