//! `tombolo site add NAME --kubernetes`: a cluster becomes a site, whose agent runs in it.

mod manifests;

use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use tombolo_agent::driver::kubernetes::KubernetesConfig;
use tombolo_api::project::size;
use tombolo_api::wire::{JoinTokenMade, NewJoinToken, NewToken, Role, TokenMade};
use tombolo_core::{Resources, SiteId, chain};

use crate::agent::Place;
use crate::failure::Failure;
use crate::session::Session;
use crate::site::facts::SiteFile;
use manifests::{Settings, Volume};

/// Who has applied what, to the cluster.
const MANAGER: &str = "tombolo";
/// Of what an object of the site's is called, with room for what is put behind it.
const NAME_MAX: usize = 57;
/// The user of the runner image.
const USER: i64 = 10_001;
/// Two years: whoever applies a Workload can't renew it.
const WORKLOADS_TOKEN_S: u64 = 2 * 365 * 24 * 3_600;
const KUEUE: GroupVersionKindText = ("kueue.x-k8s.io", "v1beta1", "LocalQueue");

type GroupVersionKindText = (&'static str, &'static str, &'static str);

#[derive(Debug, Args)]
pub struct KubernetesOptions {
    /// The site is a Kubernetes cluster, into which its agent is installed
    #[arg(long, conflicts_with_all = ["slurm", "dir", "no_run", "listen", "gateway", "gc_grace", "transit", "store_key", "encrypt"])]
    pub kubernetes: bool,
    /// The kubeconfig's context; its current one unless given
    #[arg(long, requires = "kubernetes")]
    context: Option<String>,
    /// The namespace for the agent and its pods, made if it isn't there
    #[arg(long, requires = "kubernetes", default_value = "tombolo")]
    namespace: String,
    /// The runner image, for the agent and for workloads that name none (cargo xtask image makes it)
    #[arg(long, requires = "kubernetes", default_value = concat!("tombolo:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// The control plane's address as pods reach it; the one that this command uses unless given
    #[arg(long, requires = "kubernetes", value_name = "URL")]
    control: Option<String>,
    /// A volume claim that is there, for the site's directory; else one is made
    #[arg(long, requires = "kubernetes", value_name = "NAME", conflicts_with_all = ["storage_class", "volume_size", "volume_access"])]
    claim: Option<String>,
    /// The storage class of the claim; the cluster's default unless given
    #[arg(long, requires = "kubernetes", value_name = "NAME")]
    storage_class: Option<String>,
    /// The size of the claim
    #[arg(long, requires = "kubernetes", default_value = "50Gi", value_name = "BYTES")]
    volume_size: String,
    /// The claim's access mode; ReadWriteOnce does where all pods run on one node
    #[arg(long, requires = "kubernetes", default_value = "ReadWriteMany", value_name = "MODE", value_parser = ["ReadWriteMany", "ReadWriteOnce"])]
    volume_access: String,
    /// A secret of the namespace with the environment variables that lead to the store
    #[arg(long, requires_all = ["kubernetes", "store"], value_name = "NAME")]
    store_secret: Option<String>,
    /// Submit the namespace's resources of the kind Workload to the control plane. Installs their definition, which is the
    /// whole cluster's, and makes a token of the role member, which takes an admin of the control plane
    #[arg(long, requires = "kubernetes")]
    workloads: bool,
    /// Print the objects as YAML and apply nothing
    #[arg(long, requires = "kubernetes")]
    print: bool,
}

pub async fn add(session: &Session, site: &SiteId, options: KubernetesOptions, place: &Place) -> Result<(), Failure> {
    check_name(site)?;
    let mut file = place.site_file()?;
    let control = control(session, &options)?;
    let client = if options.print { None } else { Some(connect(options.context.as_deref()).await?) };
    let mut config = file.kubernetes.take().unwrap_or_default();
    complete(&mut config, &options, site, &control);
    if let (Some(client), None) = (&client, &config.queue) {
        config.queue = only_queue(client, &config.namespace).await;
    }
    let capacity = match &client {
        // What is on disk is on the volume.
        Some(client) => Some(allocatable(client).await.map(|has| Resources {
            disk_bytes: amount(&options.volume_size).filter(|_| options.claim.is_none()).unwrap_or_default() as u64,
            ..has
        })),
        None => None,
    };
    let site_file = site_file(file, place, &config, capacity)?;
    let settings = Settings {
        site,
        control: &control,
        config: &config,
        site_file: &site_file,
        volume: options.claim.is_none().then_some(Volume {
            class: options.storage_class.as_deref(),
            size: &options.volume_size,
            access: &options.volume_access,
        }),
        store: place.store(),
    };
    let mut all = manifests::manifests(&settings);
    if config.workloads {
        all.insert(0, manifests::definition());
    }
    let Some(client) = client else { return print(site, &config, &all) };
    // First, so that who may not is told before anything is there.
    if config.workloads {
        apply(&client, &config.namespace, &manifests::definition()).await?;
    }
    let workloads_token =
        if config.workloads { Some(workloads_token(session, &client, site, &config).await?) } else { None };
    make_namespace(&client, &config.namespace).await?;
    let body = NewJoinToken { site: Some(site.clone()), expires_in_s: None };
    let made: JoinTokenMade = session.create("/v1/join-tokens", &body).await?;
    apply(&client, &config.namespace, &manifests::secret(site, &config.namespace, "join", &made.token)).await?;
    if let Some(Some(token)) = workloads_token {
        apply(&client, &config.namespace, &manifests::secret(site, &config.namespace, "workloads", &token)).await?;
    }
    for one in &all {
        apply(&client, &config.namespace, one).await?;
        eprintln!(
            "applied {} {}",
            one["kind"].as_str().unwrap_or_default(),
            one["metadata"]["name"].as_str().unwrap_or_default()
        );
    }
    if let Some(queue) = &config.queue {
        eprintln!("jobs wait in Kueue's queue {queue}");
    }
    eprintln!("the agent starts in the namespace {}; see it join: tombolo site ls", config.namespace);
    Ok(())
}

/// Kubernetes' names are narrower than ours.
fn check_name(site: &SiteId) -> Result<(), Failure> {
    let name = manifests::name(site);
    if name.len() <= NAME_MAX && !name.contains('_') && !name.ends_with('-') {
        return Ok(());
    }
    Err(Failure::usage(format!("a site in Kubernetes can't be called {site}"))
        .because(format!(
            "its objects would be called {name}; they may have no _, no - at the end and {NAME_MAX} characters at most"
        ))
        .hint("choose another name for the site"))
}

/// Where pods find the control plane, which can't be this machine's loopback.
fn control(session: &Session, options: &KubernetesOptions) -> Result<String, Failure> {
    let url = options.control.clone().unwrap_or_else(|| session.client.base().to_owned());
    let host = url.rsplit("://").next().unwrap_or_default();
    let loopback = ["127.", "localhost", "[::1]", "0.0.0.0"].iter().any(|start| host.starts_with(start));
    if loopback {
        return Err(Failure::usage(format!("pods can't reach the control plane at {url}"))
            .because("it is this machine's loopback")
            .hint(
                "start it where the cluster's nodes can reach it (tombolo server --listen 0.0.0.0:7070 --agent-listen 0.0.0.0:7071), and give --control http://ADDRESS:7070 if this command uses another address",
            ));
    }
    Ok(url)
}

/// What the site file leaves open.
fn complete(config: &mut KubernetesConfig, options: &KubernetesOptions, site: &SiteId, control: &str) {
    let name = manifests::name(site);
    config.namespace.clone_from(&options.namespace);
    if config.image.is_empty() {
        config.image.clone_from(&options.image);
    }
    config.claim = options.claim.clone().unwrap_or_else(|| name.clone());
    config.address = format!("{name}.{}.svc", options.namespace);
    config.control = control.to_owned();
    config.workloads |= options.workloads;
    if options.store_secret.is_some() {
        config.store_secret.clone_from(&options.store_secret);
    }
    if config.user.is_none() && !config.any_user {
        config.user = Some(USER);
    }
}

/// What the agent is told of its site; the cluster's size goes where nobody has said another.
fn site_file(
    mut file: SiteFile,
    place: &Place,
    config: &KubernetesConfig,
    capacity: Option<Result<Resources, String>>,
) -> Result<String, Failure> {
    let mut has = Resources::default();
    match capacity {
        Some(Ok(capacity)) => has = capacity,
        Some(Err(why)) => {
            eprintln!("the cluster's nodes can't be counted ({why}): give --cpus and --memory if work is to go there")
        }
        None => {}
    }
    file.change_capacity(&mut has)?;
    place.facts().change_capacity(&mut has)?;
    place.facts().change_labels(&mut file.labels)?;
    let mut prices = std::mem::take(&mut file.prices).into();
    place.facts().change_prices(&mut prices)?;
    let said = serde_json::json!({
        "labels": file.labels,
        "prices": prices,
        "cpus": has.cpus_milli as f64 / 1000.0,
        "memory": has.memory_bytes.to_string(),
        "disk": has.disk_bytes.to_string(),
        "gpus": has.gpus,
        "containers": true,
        "kubernetes": config,
    });
    yaml(&said)
}

fn print(site: &SiteId, config: &KubernetesConfig, all: &[Value]) -> Result<(), Failure> {
    let (name, namespace) = (manifests::name(site), &config.namespace);
    let secret = |what: &str, token: &str| {
        println!(
            "#   kubectl create secret generic {name}-{what} --namespace {namespace} --from-literal=token=$({token})"
        );
    };
    println!("# A Tombolo site in Kubernetes. It joins with a token, which is kept out of here:");
    secret("join", &format!("tombolo site token --site {site}"));
    if config.workloads {
        println!("# And one with which it submits Workloads:");
        secret("workloads", &format!("tombolo token create workloads-{site} --role member"));
    }
    for one in all {
        print!("---\n{}", yaml(one)?);
    }
    Ok(())
}

/// A token with which Workloads are submitted; none where there is one already.
async fn workloads_token(
    session: &Session,
    client: &Client,
    site: &SiteId,
    config: &KubernetesConfig,
) -> Result<Option<String>, Failure> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
    let name = format!("{}-workloads", manifests::name(site));
    if matches!(secrets.get_opt(&name).await, Ok(Some(_))) {
        eprintln!("the secret {name} is there and stays; delete it to have another token made");
        return Ok(None);
    }
    let body =
        NewToken { name: format!("workloads-{site}"), role: Role::Member, expires_in_s: Some(WORKLOADS_TOKEN_S) };
    let made: TokenMade = session.create("/v1/tokens", &body).await.map_err(|error| {
        let failure = Failure::from(error);
        Failure {
            hint: Some(format!(
                "have an admin make one and put it there: kubectl create secret generic {name} --namespace {} \
                 --from-literal=token=TOKEN",
                config.namespace
            )),
            ..failure
        }
    })?;
    Ok(Some(made.token))
}

fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|error| Failure::system("YAML can't be written").because(error))
}

async fn connect(context: Option<&str>) -> Result<Client, Failure> {
    let fault = |why: String| {
        Failure::usage("the cluster can't be reached").because(why).hint(
            "it is found by the kubeconfig ($KUBECONFIG or ~/.kube/config) and --context; kubectl config get-contexts lists them",
        )
    };
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let file = Kubeconfig::read().map_err(|error| fault(chain(&error)))?;
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| fault(chain(&error)))?;
    let client = Client::try_from(config).map_err(|error| fault(chain(&error)))?;
    client.apiserver_version().await.map_err(|error| fault(chain(&error)))?;
    Ok(client)
}

/// Only where it isn't there: what others have said of it stays theirs.
async fn make_namespace(client: &Client, name: &str) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there = namespaces.get_opt(name).await;
    if matches!(there, Ok(Some(_))) {
        return Ok(());
    }
    let namespace = Namespace {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Namespace::default()
    };
    match namespaces.create(&Default::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        // Who may only work in a namespace may not look whether it is there.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(refused(&format!("the namespace {name}"), &error)),
    }
}

async fn apply(client: &Client, namespace: &str, object: &Value) -> Result<(), Failure> {
    let object: DynamicObject = serde_json::from_value(object.clone())
        .map_err(|error| Failure::system("an object is malformed").because(error))?;
    let types: TypeMeta = object.types.clone().unwrap_or_default();
    let kind =
        GroupVersionKind::try_from(&types).map_err(|error| Failure::system("an object has no kind").because(error))?;
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match object.metadata.namespace {
        Some(_) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let applied = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await;
    applied.map(drop).map_err(|error| refused(&format!("the {} {name}", types.kind), &error))
}

fn refused(what: &str, error: &kube::Error) -> Failure {
    Failure::usage(format!("the cluster doesn't take {what}"))
        .because(chain(error))
        .hint("who installs a site may make roles, claims and deployments in its namespace; --print writes them for somebody who may")
}

/// What the cluster's nodes have for pods, all together.
async fn allocatable(client: &Client) -> Result<Resources, String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await.map_err(|error| chain(&error))?;
    let mut sum = Resources::default();
    for node in nodes.items {
        let has = node.status.and_then(|status| status.allocatable).unwrap_or_default();
        let of = |what: &str| has.get(what).and_then(|quantity| amount(&quantity.0)).unwrap_or(0.0);
        sum.add(&Resources {
            cpus_milli: (of("cpu") * 1000.0) as u64,
            memory_bytes: of("memory") as u64,
            ..Resources::default()
        });
    }
    Ok(sum)
}

/// A quantity of Kubernetes', such as `1500m` or `16Gi`.
fn amount(text: &str) -> Option<f64> {
    if let Some(milli) = text.strip_suffix('m') {
        return Some(milli.parse::<f64>().ok()? / 1000.0);
    }
    match text.parse::<f64>() {
        Ok(number) => Some(number),
        Err(_) if text.ends_with('i') => size(&format!("{text}B")).ok().map(|bytes| bytes as f64),
        Err(_) => size(&format!("{}B", text.replace('k', "K"))).ok().map(|bytes| bytes as f64),
    }
}

/// Where Kueue is there and the choice is none, its queue.
async fn only_queue(client: &Client, namespace: &str) -> Option<String> {
    let (group, version, kind) = KUEUE;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let queues: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut found = queues.list(&ListParams::default()).await.ok()?.items;
    if found.len() > 1 {
        eprintln!(
            "Kueue has {} queues in {namespace}; name one in the site file (kubernetes: {{queue: NAME}})",
            found.len()
        );
        return None;
    }
    found.pop()?.metadata.name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_refuses_are_refused_before() {
        for (name, good) in
            [("cloud", true), ("a-1", true), ("my_site", false), ("x-", false), (&"x".repeat(60), false)]
        {
            let Ok(site) = SiteId::new(name) else { continue };
            assert_eq!(check_name(&site).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn quantities_are_read() {
        let cases =
            [("2", 2.0), ("1500m", 1.5), ("16Gi", 17_179_869_184.0), ("24607336Ki", 25_197_912_064.0), ("5k", 5000.0)];
        for (text, expected) in cases {
            assert_eq!(amount(text), Some(expected), "{text}");
        }
        assert_eq!(amount("many"), None);
    }
}
