//! The whole control plane in one process: directory, keys, database, engine, agents' door, HTTP.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::serve::ListenerExt;
use ed25519_dalek::SigningKey;
use iroh_relay::server::{Access, AccessControl, ClientRequest, RelayConfig, Server, ServerConfig};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tombolo_api::stream::ALPN_AGENT;
use tombolo_api::wire::{Joined, Role, TokenInfo};
use tombolo_core::Millis;
use tombolo_net::{BindOptions, NetError};
use tombolo_tracking::Tracking;

use crate::ends;
use crate::engine::{Engine, EngineGone};
use crate::http::{self, App};
use crate::hub::Hub;
use crate::secrets::{self, Secrets, SecretsError, hash_token, new_token};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError, TokenRecord, Write};

/// Files in the server's directory.
const LOCK_FILE: &str = "lock";
const DATABASE_FILE: &str = "tombolo.db";
/// Experiments and runs as MLflow's clients know them.
const TRACKING_FILE: &str = "tracking.db";
/// Says that there was one, so that a lost database isn't replaced by an empty one.
const TRACKING_MADE_FILE: &str = "tracking.made";
/// The key by which agents know the control plane.
const CONTROL_KEY_FILE: &str = "control.key";
/// The key that signs grants.
const GRANT_KEY_FILE: &str = "grant.key";
/// The first administrator's token; the CLI looks for it here.
pub const TOKEN_FILE: &str = "admin.token";

/// Ten years: the first token opens the door for all others, and can be revoked as they can.
const ADMIN_TOKEN_LIFE: Millis = Millis::from_secs(10 * 365 * 24 * 3_600);

pub struct ServerOptions {
    /// All that the control plane keeps; made where it is absent.
    pub dir: PathBuf,
    pub listen: SocketAddr,
    /// UDP.
    pub agent_listen: SocketAddr,
    /// Where those meet who can't reach each other straight; none: no relay.
    pub relay_listen: Option<SocketAddr>,
    /// Where agents reach the relay, such as `https://relay.example`; none: at the address on which it listens.
    pub relay_url: Option<String>,
}

/// Told once, when requests are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReady {
    pub address: SocketAddr,
    pub token_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the directory {path} can't be used: {why}")]
    Dir { path: PathBuf, why: String },
    #[error(
        "another server is running on {0}\n\
         hint: use that one, or stop it first, or give this one a directory of its own with --dir"
    )]
    Locked(PathBuf),
    #[error(
        "the key file {0} is missing, though the database beside it is in use\n\
         hint: restore it from the backup that the database is from; a new key would lock out every agent and secret"
    )]
    KeyMissing(PathBuf),
    #[error("can't listen on {what} {address}: {why}{}", port_hint(*taken))]
    Listen { what: &'static str, address: SocketAddr, why: String, taken: bool },
    #[error(
        "{0:?} is no address at which agents can reach the relay\n\
         hint: give it as http://host:port or, behind a proxy that ends TLS, https://host"
    )]
    RelayUrl(String),
    #[error(
        "the database {0} is missing, though the keys beside it are there\n\
         hint: restore it from a backup; to begin with an empty one, move the whole directory away"
    )]
    DatabaseMissing(PathBuf),
    #[error("the token file {path} can't be written: {why}")]
    Token { path: PathBuf, why: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Engine(#[from] EngineGone),
    #[error("the HTTP server failed")]
    Http(#[source] io::Error),
}

fn port_hint(taken: bool) -> &'static str {
    match taken {
        true => "\nhint: another program uses this port; stop it, or choose another port (0 takes any that is free)",
        false => "",
    }
}

/// Serves until the process ends; `ready` is called once, when it does. There is no other way to stop than to
/// end the process: whatever was acknowledged is in the database.
pub async fn serve(options: ServerOptions, ready: impl FnOnce(ServerReady)) -> Result<(), ServerError> {
    let relay_url = options.relay_url.map(relay_url).transpose()?;
    let _lock = lock(&options.dir)?;
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|error| cannot_listen("TCP", options.listen, &error))?;
    let address = listener.local_addr().map_err(ServerError::Http)?;

    let database = options.dir.join(DATABASE_FILE);
    // The first start makes the database before the keys.
    if options.dir.join(CONTROL_KEY_FILE).exists() && !database.exists() {
        return Err(ServerError::DatabaseMissing(database));
    }
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&database).await?);
    let keys = Keys::open(&options.dir, store.has_token(Role::Admin).await?)?;
    let secrets = Arc::new(Secrets::open(&options.dir)?);
    let engine = Engine::start(store).await?;
    let tracking = tracking(&options.dir, &engine).await?;
    let token_file = options.dir.join(TOKEN_FILE);
    admin_token(&engine, &token_file).await?;

    let relay = match options.relay_listen {
        Some(listen) => Some(relay(listen, keys.control.public(), &engine).await?),
        None => None,
    };
    let alpns = vec![ALPN_AGENT.to_vec()];
    let home = relay.as_ref().and_then(Server::http_addr).map(|address| format!("http://{address}"));
    let bind = BindOptions { listen: options.agent_listen, alpns, relay: home.clone() };
    let endpoint = tombolo_net::bind(keys.control, bind).await.map_err(|error| match error {
        NetError::Bind { address, why } => {
            let taken = std::net::UdpSocket::bind(address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
            ServerError::Listen { what: "UDP", address, why, taken }
        }
        error => ServerError::Net(error),
    })?;
    let grant_key = data_encoding::HEXLOWER.encode(keys.grant.verifying_key().as_bytes());
    // The control plane itself goes the short way to its relay, which others may reach by another name only.
    let shown = relay_url.or(home);
    if let Some(listen) = options.relay_listen.filter(|listen| listen.ip().is_unspecified())
        && shown.as_deref().is_some_and(|url| url.contains(&listen.ip().to_string()))
    {
        tracing::warn!(%listen, "agents can't dial this address of the relay: say with --relay-url where it is");
    }
    let joined = Joined { control: tombolo_net::address(&endpoint, shown.as_deref()), grant_key };
    let hub = Hub::start(engine.clone(), Arc::clone(&secrets), keys.grant, endpoint);
    tokio::spawn(ends::follow(engine.clone(), tracking.clone()));
    let router = http::router(App { engine, hub, secrets, joined, tracking });
    tracing::info!(%address, "serving");
    ready(ServerReady { address, token_file });
    // Events are small and follow one another: without this each waits for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
    });
    axum::serve(listener, router).await.map_err(ServerError::Http)
}

async fn tracking(dir: &Path, engine: &Engine) -> Result<Tracking, ServerError> {
    let (path, made) = (dir.join(TRACKING_FILE), dir.join(TRACKING_MADE_FILE));
    if made.exists() && !path.exists() {
        return Err(ServerError::DatabaseMissing(path));
    }
    let tracking = Tracking::open(&path, http::how_workloads_stand(engine.clone())).await.map_err(StoreError::from)?;
    if !made.exists() {
        let fault = |error: io::Error| ServerError::Dir { path: dir.to_owned(), why: error.to_string() };
        tombolo_net::write_private(&made, b"").map_err(fault)?;
    }
    Ok(tracking)
}

/// Held for as long as the process lives; the system gives it back when it dies, however it does.
fn lock(dir: &Path) -> Result<Flock<fs::File>, ServerError> {
    let fault = |error: io::Error| ServerError::Dir { path: dir.to_owned(), why: error.to_string() };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fault)?;
    let path = dir.join(LOCK_FILE);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(fault)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => ServerError::Locked(dir.to_owned()),
        errno => fault(errno.into()),
    })
}

fn cannot_listen(what: &'static str, address: SocketAddr, error: &io::Error) -> ServerError {
    let taken = error.kind() == io::ErrorKind::AddrInUse;
    ServerError::Listen { what, address, why: error.to_string(), taken }
}

struct Keys {
    control: iroh::SecretKey,
    grant: SigningKey,
}

impl Keys {
    /// Keys are made at the first start alone; a database that is in use had them.
    fn open(dir: &Path, in_use: bool) -> Result<Keys, ServerError> {
        let paths = [CONTROL_KEY_FILE, GRANT_KEY_FILE, secrets::KEY_FILE].map(|file| dir.join(file));
        if let Some(missing) = paths.iter().find(|path| in_use && !path.exists()) {
            return Err(ServerError::KeyMissing(missing.clone()));
        }
        let [control, grant, _] = paths;
        let control = tombolo_net::key(&control)?;
        let grant = SigningKey::from_bytes(&tombolo_net::key(&grant)?.to_bytes());
        Ok(Keys { control, grant })
    }
}

/// Makes the first token. The file is written before the database: a start that is cut off between the two
/// makes another one.
async fn admin_token(engine: &Engine, path: &Path) -> Result<(), ServerError> {
    if engine.store().has_token(Role::Admin).await? {
        return Ok(());
    }
    let token = new_token("tbl");
    let fault = |error: io::Error| ServerError::Token { path: path.to_owned(), why: error.to_string() };
    tombolo_net::write_private(path, format!("{token}\n").as_bytes()).map_err(fault)?;
    let hash = hash_token(&token);
    let now = engine.now();
    let info = TokenInfo {
        id: hash[..12].to_owned(),
        name: "admin".to_owned(),
        role: Role::Admin,
        created: now.0,
        expires: (now + ADMIN_TOKEN_LIFE).0,
        revoked: false,
    };
    let write = Write::Token(Box::new(TokenRecord { info, hash }));
    let made = engine.change(|_, _| Ok::<_, std::convert::Infallible>(((), vec![write]))).await?;
    made.map_err(|never| match never {})
}

/// The address, if a relay can be reached at such a one.
fn relay_url(text: String) -> Result<String, ServerError> {
    let has_host = |url: &iroh::RelayUrl| matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    match text.parse::<iroh::RelayUrl>().is_ok_and(|url| has_host(&url)) {
        true => Ok(text),
        false => Err(ServerError::RelayUrl(text)),
    }
}

async fn relay(listen: SocketAddr, own: iroh::PublicKey, engine: &Engine) -> Result<Server, ServerError> {
    let mut relay = RelayConfig::new(listen);
    relay.access = Arc::new(Members { own: tombolo_net::hex(&own), engine: engine.clone() });
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    Server::spawn(config).await.map_err(|error| {
        let taken = std::net::TcpListener::bind(listen).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
        ServerError::Listen { what: "TCP (relay)", address: listen, why: error.to_string(), taken }
    })
}

/// Lets the control plane itself and its sites use the relay, and nobody else.
struct Members {
    own: String,
    engine: Engine,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Members")
    }
}

impl AccessControl for Members {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let key = tombolo_net::hex(&request.endpoint_id());
        if key == self.own {
            return Access::Allow;
        }
        let known = self.engine.look(move |world, _| world.sites.values().any(|s| s.key == key && !s.revoked));
        match known.await {
            Ok(true) => Access::Allow,
            Ok(false) | Err(_) => Access::Deny { reason: Some("not a site of this control plane".to_owned()) },
        }
    }
}
