//! What an agent keeps of itself: its key, who its control plane is, what its site has.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tombolo_api::stream::PeerAddress;
use tombolo_api::wire::{Join, Joined};
use tombolo_core::site::SiteInfo;

use crate::AgentError;
use crate::driver::kubernetes::KubernetesConfig;
use crate::driver::slurm::SlurmConfig;
use crate::encryption::{self, Encrypt};

/// `site.json` in the site's directory; written when the site joins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub info: SiteInfo,
    pub control: PeerAddress,
    /// The key that signs grants, in hex.
    pub grant_key: String,
    /// The bucket that the site's store is, such as `s3://bucket/prefix`; its credentials are in the environment. None
    /// where the store is a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The file of the key that the store is encrypted under, from the site's directory on. None where it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_key: Option<PathBuf>,
    /// How shims become jobs, at a site that is a Slurm cluster. None where they are processes of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<SlurmConfig>,
    /// The same, at a site that is a Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesConfig>,
}

/// Where things are in a site's directory.
#[derive(Debug, Clone)]
pub struct Layout(pub PathBuf);

impl Layout {
    pub fn config(&self) -> PathBuf {
        self.0.join("site.json")
    }

    pub fn key(&self) -> PathBuf {
        self.0.join("agent.key")
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("agent.lock")
    }

    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The key that the site made for its store.
    pub fn store_key(&self) -> PathBuf {
        self.0.join("store.key")
    }
}

#[derive(Clone)]
pub struct JoinOptions {
    /// The control plane's API, such as `http://127.0.0.1:7070`.
    pub address: String,
    pub token: String,
    pub dir: PathBuf,
    pub info: SiteInfo,
    /// A bucket that is to be the site's store.
    pub store: Option<String>,
    pub encrypt: Encrypt,
    /// The file of the key for the store; without it one is made where it is needed.
    pub store_key: Option<PathBuf>,
    pub slurm: Option<SlurmConfig>,
    pub kubernetes: Option<KubernetesConfig>,
}

/// Makes the site's keys, has the control plane let it in, and remembers what it is told.
pub async fn join(options: JoinOptions) -> Result<Config, AgentError> {
    let layout = Layout(options.dir.clone());
    make_dir(&layout.0)?;
    if let Ok(config) = load(&layout) {
        return Err(AgentError::Joined { dir: layout.0, site: config.info.id });
    }
    let (at, asked) = (layout.clone(), options.clone());
    let store_key = tokio::task::spawn_blocking(move || encryption::settle(&at, &asked)).await;
    let store_key = store_key.map_err(|panic| io(&layout.0, std::io::Error::other(panic)))??;
    let key = tombolo_net::key(&layout.key())?;
    let client = tombolo_api::client::Client::new(&options.address, None);
    let request = Join { token: options.token, key: tombolo_net::hex(&key.public()), info: options.info.clone() };
    let joined: Joined = client.post("/v1/join", &request.key, &request).await?;
    let JoinOptions { info, store, slurm, kubernetes, .. } = options;
    let config =
        Config { info, control: joined.control, grant_key: joined.grant_key, store, store_key, slurm, kubernetes };
    save(&layout, &config)?;
    Ok(config)
}

/// Whether a directory is that of a site that has joined. What is said of its cluster now is kept.
pub fn rejoin(dir: &Path, kubernetes: Option<KubernetesConfig>) -> Result<bool, AgentError> {
    let layout = Layout(dir.to_owned());
    let mut config = match load(&layout) {
        Ok(config) => config,
        Err(AgentError::NotJoined(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    if kubernetes.is_some() && config.kubernetes != kubernetes {
        config.kubernetes = kubernetes;
        save(&layout, &config)?;
    }
    Ok(true)
}

fn save(layout: &Layout, config: &Config) -> Result<(), AgentError> {
    let text = serde_json::to_vec_pretty(config).expect("plain data");
    tombolo_net::write_private(&layout.config(), &text).map_err(|source| io(&layout.config(), source))
}

pub fn load(layout: &Layout) -> Result<Config, AgentError> {
    let path = layout.config();
    let text = std::fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => AgentError::NotJoined(layout.0.clone()),
        _ => io(&path, source),
    })?;
    serde_json::from_slice(&text).map_err(|error| AgentError::Malformed { path, why: error.to_string() })
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), AgentError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io(dir, source))
}

pub(crate) fn io(path: &Path, source: std::io::Error) -> AgentError {
    AgentError::Io { path: path.to_owned(), source }
}
