//! The transport that agents, and agents and control plane, share: QUIC dialled by public key (iroh).
//!
//! No discovery service and no relay of anybody else's is ever asked: a peer is dialled by what
//! [`PeerAddress`] says, straight where that works, else through the control plane's own relay.

pub mod http;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, IdleTimeout, QuicTransportConfig, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, RelayUrl, SecretKey, TransportAddr};
use noq_proto::congestion::Bbr3Config;
use tombolo_api::stream::PeerAddress;
use tombolo_core::spec::FAILOVER_AFTER_MIN;

/// How long a silent connection is held. Nothing else tells an agent that the control plane was started again: until
/// then it speaks to one that is no more, and its leases run. So it is several of the pings that a lost packet may
/// take, and leaves a third of the shortest lease to connect again.
const IDLE_MAX: Duration = Duration::from_secs(9);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const _: () = assert!(4 * KEEP_ALIVE.as_millis() <= IDLE_MAX.as_millis());
const _: () = assert!(3 * IDLE_MAX.as_millis() <= 2 * FAILOVER_AFTER_MIN.0 as u128);
/// Streams that one peer may have open on one connection.
const STREAMS_MAX: u32 = 256;
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("can't listen on UDP {address}: {why}")]
    Bind { address: SocketAddr, why: String },
    #[error("the key file {path} can't be used: {why}")]
    Key { path: PathBuf, why: String },
    #[error("{0:?} is no peer address: {1}")]
    Address(PeerAddress, String),
    #[error("no connection to {key}: {why}")]
    Connect { key: String, why: String },
}

pub struct BindOptions {
    pub listen: SocketAddr,
    pub alpns: Vec<Vec<u8>>,
    /// The relay to be reachable through, for those that can't dial straight.
    pub relay: Option<String>,
}

/// An endpoint that can dial and be dialled.
pub async fn bind(key: SecretKey, options: BindOptions) -> Result<Endpoint, NetError> {
    let fault = |why: String| NetError::Bind { address: options.listen, why };
    let idle = IdleTimeout::try_from(IDLE_MAX).map_err(|error| fault(error.to_string()))?;
    let transport = QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        // Long lines lose a packet now and then without being full. CUBIC takes each loss for congestion and stays far
        // below such a line's rate; BBR goes by the rate and the round trip that it measures.
        .congestion_controller_factory(Arc::new(Bbr3Config::default()))
        .build();
    let relay = match &options.relay {
        Some(url) => {
            let url: RelayUrl = url.parse().map_err(|_| fault(format!("{url} is no relay's URL")))?;
            RelayMode::custom([url])
        }
        None => RelayMode::Disabled,
    };
    Endpoint::builder(presets::Minimal)
        .crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .secret_key(key)
        .alpns(options.alpns)
        .relay_mode(relay)
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr(options.listen)
        .map_err(|error| fault(error.to_string()))?
        .bind()
        .await
        .map_err(|error| fault(error.to_string()))
}

/// The secret key in a file that only its owner can read; made on first use.
pub fn key(path: &Path) -> Result<SecretKey, NetError> {
    let fault = |why: String| NetError::Key { path: path.to_owned(), why };
    match fs::read_to_string(path) {
        Ok(text) => {
            let mode = fs::metadata(path).map_err(|error| fault(error.to_string()))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(fault("others can read it; make it private with chmod 600".to_owned()));
            }
            let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).ok();
            let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| SecretKey::from_bytes(&bytes)).ok_or_else(|| fault("it holds no key".to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::generate();
            write_private(path, data_encoding::HEXLOWER.encode(&key.to_bytes()).as_bytes())
                .map_err(|error| fault(error.to_string()))?;
            Ok(key)
        }
        Err(error) => Err(fault(error.to_string())),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub fn hex(key: &PublicKey) -> String {
    data_encoding::HEXLOWER.encode(key.as_bytes())
}

/// How others can dial an endpoint: straight, or by way of the relay that it was bound with. The endpoint itself
/// knows its relay only once it has spoken with it, which is too late for those who ask at its start.
pub fn address(endpoint: &Endpoint, relay: Option<&str>) -> PeerAddress {
    let addr = endpoint.addr();
    let mut direct: Vec<String> = addr.ip_addrs().map(ToString::to_string).collect();
    for socket in endpoint.bound_sockets() {
        let text = socket.to_string();
        if !socket.ip().is_unspecified() && !direct.contains(&text) {
            direct.push(text);
        }
    }
    PeerAddress { key: hex(&endpoint.id()), direct, relay: relay.map(str::to_owned) }
}

/// Connects to a peer; whoever answers has proved to hold the key.
pub async fn connect(endpoint: &Endpoint, peer: &PeerAddress, alpn: &[u8]) -> Result<Connection, NetError> {
    let addr = endpoint_addr(peer)?;
    let fault = |why: String| NetError::Connect { key: peer.key.clone(), why };
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect(addr, alpn)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(fault(format!("{error:#}"))),
        Err(_) => Err(fault(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

fn endpoint_addr(peer: &PeerAddress) -> Result<EndpointAddr, NetError> {
    let fault = |why: &str| NetError::Address(peer.clone(), why.to_owned());
    let bytes = data_encoding::HEXLOWER.decode(peer.key.as_bytes()).map_err(|_| fault("the key is not hex"))?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| fault("the key is not 32 bytes long"))?;
    let key = PublicKey::from_bytes(&bytes).map_err(|_| fault("the key is no Ed25519 key"))?;
    let mut addrs = Vec::new();
    for direct in &peer.direct {
        addrs.push(TransportAddr::Ip(direct.parse().map_err(|_| fault("an address is not ip:port"))?));
    }
    if let Some(relay) = &peer.relay {
        addrs.push(TransportAddr::Relay(relay.parse().map_err(|_| fault("the relay is no URL"))?));
    }
    Ok(EndpointAddr::from_parts(key, addrs))
}

/// Streams of one connection, for [`tombolo_data::transfer`].
#[derive(Clone)]
pub struct Streams(pub Connection);

impl tombolo_data::transfer::Dial for Streams {
    type Send = SendStream;
    type Recv = RecvStream;

    async fn open(&self) -> io::Result<(SendStream, RecvStream)> {
        self.0.open_bi().await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_are_dialled_by_key() {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = || BindOptions { listen: loopback, alpns: vec![b"t".to_vec()], relay: None };
        let a = bind(SecretKey::generate(), options()).await.unwrap();
        let b = bind(SecretKey::generate(), options()).await.unwrap();
        let there = address(&b, None);
        assert!(there.direct.iter().all(|addr| addr.starts_with("127.0.0.1:")), "{there:?}");
        // It goes on accepting, so that a stranger is refused for the key and not for want of anybody there.
        let (met, mut who) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(incoming) = b.accept().await {
                if let Ok(connection) = incoming.await {
                    let _ = met.send(connection.remote_id()).await;
                    connection.closed().await;
                }
            }
        });
        let first = connect(&a, &there, b"t").await.unwrap();
        assert_eq!(who.recv().await.unwrap(), a.id());
        first.close(0u32.into(), b"");

        // The same address with another key is somebody else, who is not there.
        let stranger = PeerAddress { key: hex(&SecretKey::generate().public()), ..there.clone() };
        assert!(connect(&a, &stranger, b"t").await.is_err());
        let again = connect(&a, &there, b"t").await.unwrap();
        assert_eq!(hex(&again.remote_id()), there.key);
    }

    #[test]
    fn a_key_is_kept_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = key(&path).unwrap();
        assert_eq!(key(&path).unwrap().to_bytes(), first.to_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(key(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not hex").unwrap();
        assert!(key(&path).unwrap_err().to_string().contains("holds no key"));
    }
}
