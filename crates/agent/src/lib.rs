//! A site's agent: holds the line to the control plane, runs what is placed here, serves and fetches data.
//!
//! The agent dials out and is never dialled by the control plane. With the control plane out of reach it
//! goes on by its journal; killed and started again it finds what still runs.

pub mod answer;
pub mod cgroup;
mod clock;
pub mod config;
mod copies;
pub mod driver;
mod encryption;
pub mod fetch;
pub mod gateway;
mod holds;
mod journal;
pub mod lease;
mod line;
pub mod logs;
mod mind;
mod pace;
mod pause;
pub mod python;
pub mod shim;
mod state;
pub mod tracking;
pub mod workloads;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use tokio::sync::{mpsc, watch};
use tombolo_api::stream::{ALPN_DATA, ALPN_GATEWAY};
use tombolo_core::SiteId;
use tombolo_data::transfer::{BUDGET_BYTES, Budget};
use tombolo_data::{BucketOptions, SiteKey, Store, StoreOptions};
use tombolo_net::{BindOptions, NetError};

pub use config::{JoinOptions, join, rejoin};
pub use encryption::{Encrypt, is_public};

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{} holds no site that has joined; join with: tombolo agent join <address> --token <token>", .0.display())]
    NotJoined(PathBuf),
    #[error("{dir} is the site {site} already; start it with: tombolo agent run --dir {dir}", dir = .dir.display())]
    Joined { dir: PathBuf, site: SiteId },
    #[error("another agent runs on {}", .0.display())]
    Running(PathBuf),
    #[error("{path} can't be understood: {why}", path = .path.display())]
    Malformed { path: PathBuf, why: String },
    #[error("{path} can't be used", path = .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("endpoints can't be served at {address}")]
    Gateway {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Client(#[from] tombolo_api::client::ClientError),
    /// The store can't be as it was asked for.
    #[error("{what}\nhint: {hint}")]
    Encryption { what: String, hint: String },
    #[error(transparent)]
    Data(#[from] tombolo_data::DataError),
}

pub struct AgentOptions {
    /// The site's directory.
    pub dir: PathBuf,
    /// What starts a shim, before its directory: this program and `shim`.
    pub shim_command: Vec<OsString>,
    /// UDP; none: loopback where the control plane is on loopback, else any address.
    pub listen: Option<SocketAddr>,
    /// How old something must be for garbage collection to take it; an hour unless given.
    pub gc_grace: Option<Duration>,
    /// Memory for chunks on their way here, over all transfers, in bytes; 64 MiB unless given, 2 MiB at least.
    pub transfer_bytes: Option<u64>,
    /// Where to serve endpoints, over TCP; none: where it was before, or at any port of loopback.
    pub gateway: Option<SocketAddr>,
}

/// What a started agent says of itself.
#[derive(Debug, Clone)]
pub struct Started {
    pub site: SiteId,
    /// The agent's public key, in hex: by which the control plane knows the site.
    pub key: String,
    pub store: PathBuf,
    /// The file of the key that the store is encrypted under.
    pub store_key: Option<PathBuf>,
    /// Where endpoints are served.
    pub gateway: SocketAddr,
}

/// Runs a site's agent until the process is ended.
pub async fn run(options: AgentOptions, started: impl FnOnce(Started)) -> Result<(), AgentError> {
    let layout = config::Layout(options.dir);
    let config = config::load(&layout)?;
    let site = config.info.id.clone();
    let _lock = lock(&layout)?;
    cgroup::delegate();
    let store_dir = layout.store();
    let bucket = config.store.clone().map(BucketOptions::new);
    // Shims open the store as well, wherever they are started.
    let store_key = config.store_key.as_ref().map(|path| std::path::absolute(layout.0.join(path)));
    let store_key = store_key.transpose().map_err(|error| config::io(&layout.0, error))?;
    let key = store_key.as_deref().map(SiteKey::load).transpose()?;
    let store = Arc::new(Store::open(&store_dir, StoreOptions { bucket, key, ..StoreOptions::default() })?);
    let bind = BindOptions {
        listen: options.listen.unwrap_or_else(|| listen_for(&config.control.direct)),
        alpns: vec![ALPN_DATA.to_vec(), ALPN_GATEWAY.to_vec()],
        relay: config.control.relay.clone(),
    };
    let key = tombolo_net::key(&layout.key())?;
    let public = tombolo_net::hex(&key.public());
    let endpoint = tombolo_net::bind(key.clone(), bind).await?;
    let grant_key = grant_key(&layout, &config.grant_key)?;

    let (wakes, woken) = mpsc::channel(mind::WAKES_MAX);
    let launcher = launcher(&config, &layout.0, options.shim_command).await?;
    let resources = resources(&config, &launcher, &layout.0, &store)?;
    let (host, tracking_port) = (launcher.host(), launcher.tracking_port());
    let in_cluster = host.clone().filter(|_| tracking_port.is_some());
    let driver = driver::Driver::new(site.clone(), &layout.0, store_key.clone(), launcher, seen(&wakes));
    let driver = Arc::new(driver);
    let (line, line_seen) = watch::channel(None);
    let budget = Budget::new(options.transfer_bytes.unwrap_or(BUDGET_BYTES));
    let mut fetcher = fetch::Fetcher::new(store.clone(), endpoint.clone(), line_seen);
    fetcher.budget = budget;
    driver.bring_with(bring(&fetcher, &wakes));
    let signing = ed25519_dalek::SigningKey::from_bytes(&key.to_bytes());
    let shelf =
        tracking::shelf(&layout.0, store.clone()).map(Arc::new).map_err(|source| config::io(&layout.0, source))?;
    let (lines, ours) = (line.subscribe(), shelf.clone());
    let tracking = tracking::serve(site.clone(), &layout.0, signing, ours, lines, host.as_deref(), tracking_port).await;
    driver.track_at(tracking.map_err(|source| config::io(&layout.0, source))?);
    let (revoked, revoked_seen) = watch::channel(answer::Revoked::new());
    let control_time = clock::ControlTime::default();
    let listener = gateway::listen(&layout.0, options.gateway).await.map_err(|source| match options.gateway {
        Some(address) => AgentError::Gateway { address, source },
        None => config::io(&layout.0, source),
    })?;
    let mut gateway_address = listener.local_addr().map_err(|source| config::io(&layout.0, source))?;
    // Behind an address that stays when the agent's own changes.
    if let Some(ip) = in_cluster.as_deref().and_then(|host| host.parse().ok()) {
        gateway_address.set_ip(ip);
    }
    let gateway = gateway::Gateway::new(
        site.clone(),
        &layout.0,
        endpoint.clone(),
        control_time.clone(),
        gateway::Limits::default(),
    );
    tokio::spawn(gateway.clone().serve(listener));
    let answerer = Arc::new(answer::Answerer {
        site: site.clone(),
        store: store.clone(),
        driver: driver.clone(),
        fetcher: fetcher.clone(),
        journal: layout.journal(),
        mind: wakes.clone(),
        revoked,
        control_time: control_time.clone(),
        gc_grace: options.gc_grace,
        holds: Arc::default(),
        gateway: gateway.clone(),
        gateway_address,
        artifacts: tracking::for_control(shelf),
    });
    let mind = mind::Mind::load(layout.journal(), driver, fetcher, wakes.clone(), gateway.clone())?;
    let serving = answer::Serving { store, site: site.clone(), grant_key, revoked: revoked_seen, time: control_time };
    tokio::spawn(answer::serve_sites(endpoint.clone(), serving, gateway));
    tokio::spawn(line::hold(config, endpoint, answerer, wakes, line));
    if let Some(resources) = resources {
        tokio::spawn(resources.run());
    }
    started(Started { site, key: public, store: store_dir, store_key, gateway: gateway_address });
    mind.run(woken).await
}

/// What starts shims at this kind of site.
async fn launcher(
    config: &config::Config,
    dir: &std::path::Path,
    shim_command: Vec<OsString>,
) -> Result<driver::Launcher, AgentError> {
    let (site, at) = (config.info.id.clone(), dir.to_owned());
    if let Some(cluster) = config.kubernetes.clone() {
        let opened = driver::kubernetes::Kubernetes::open(cluster, site, dir, &shim_command).await;
        return Ok(driver::Launcher::Kubernetes(opened.map_err(|error| config::io(dir, error))?));
    }
    let Some(slurm) = config.slurm.clone() else { return Ok(driver::Launcher::Process(shim_command)) };
    let made = tokio::task::spawn_blocking(move || driver::slurm::Slurm::new(slurm, site, &at, &shim_command)).await;
    let made = made.map_err(|panic| config::io(dir, std::io::Error::other(panic)))?;
    Ok(driver::Launcher::Slurm(made.map_err(|error| config::io(dir, error))?))
}

/// The cluster's `Workload`s, where they are submitted from here.
fn resources(
    config: &config::Config,
    launcher: &driver::Launcher,
    dir: &std::path::Path,
    store: &Arc<Store>,
) -> Result<Option<workloads::Workloads>, AgentError> {
    let (Some(cluster), driver::Launcher::Kubernetes(kubernetes)) = (&config.kubernetes, launcher) else {
        return Ok(None);
    };
    if !cluster.workloads {
        return Ok(None);
    }
    let (namespace, control, site) = (cluster.namespace.clone(), cluster.control.clone(), config.info.id.clone());
    let opened = workloads::Workloads::open(kubernetes.client(), namespace, control, site, dir, store.clone());
    Ok(Some(opened.map_err(|error| config::io(dir, error))?))
}

/// Brings again what a shim has found damaged.
fn bring(fetcher: &fetch::Fetcher, wakes: &mpsc::Sender<mind::Wake>) -> driver::Bring {
    let (fetcher, wakes) = (fetcher.clone(), wakes.clone());
    Box::new(move |version, workload| {
        let (fetcher, wakes) = (fetcher.clone(), wakes.clone());
        Box::pin(async move {
            if let Some(seen) = fetcher.fetch_again(version, &workload).await? {
                let _ = wakes.send(mind::Wake::Fetched(seen)).await;
            }
            Ok(())
        })
    })
}

/// What the driver sees, as wakes of the mind.
fn seen(wakes: &mpsc::Sender<mind::Wake>) -> mpsc::Sender<driver::Seen> {
    let (sender, mut receiver) = mpsc::channel::<driver::Seen>(mind::WAKES_MAX);
    let wakes = wakes.clone();
    tokio::spawn(async move {
        while let Some((workload, epoch, phase)) = receiver.recv().await {
            if wakes.send(mind::Wake::Seen(workload, epoch, phase)).await.is_err() {
                return;
            }
        }
    });
    sender
}

fn lock(layout: &config::Layout) -> Result<nix::fcntl::Flock<std::fs::File>, AgentError> {
    let path = layout.lock();
    let file = std::fs::File::create(&path).map_err(|error| config::io(&path, error))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => AgentError::Running(layout.0.clone()),
        // As on a file system that has no locks.
        error => config::io(&path, error.into()),
    })
}

fn grant_key(layout: &config::Layout, hex: &str) -> Result<VerifyingKey, AgentError> {
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok();
    let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()).ok_or_else(|| AgentError::Malformed {
        path: layout.config(),
        why: "grant_key is no Ed25519 key in hex".to_owned(),
    })
}

/// Where everything is on one machine, nothing needs to be reachable from outside of it.
fn listen_for(control: &[String]) -> SocketAddr {
    let loopback =
        control.iter().filter_map(|text| text.parse::<SocketAddr>().ok()).all(|addr| addr.ip().is_loopback());
    let ip = if loopback && !control.is_empty() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    SocketAddr::from((ip, 0))
}
