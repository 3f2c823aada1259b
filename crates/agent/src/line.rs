//! The line to the control plane: dialled out, held, dialled again when it breaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::Endpoint;
use iroh::endpoint::{Connection, ConnectionError};
use tokio::sync::{mpsc, watch};
use tombolo_api::frames::{self, FrameError};
use tombolo_api::stream::{ALPN_AGENT, CLOSE_REVOKED, Down, Hello, Opening, PeerAddress, Up};

use crate::answer::Answerer;
use crate::config::Config;
use crate::mind::Wake;
use crate::pause::Pauses;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Reports that may wait for the line; the mind sends the next only when it has room.
const UP_MAX: usize = 4;

/// Holds a line for as long as the process lives; wakes the mind when it comes and goes.
pub async fn hold(
    config: Config,
    endpoint: Endpoint,
    answerer: Arc<Answerer>,
    mind: mpsc::Sender<Wake>,
    line: watch::Sender<Option<Connection>>,
) {
    let mut pauses = Pauses::new(PAUSE_FIRST, PAUSE_MAX);
    let mut said = String::new();
    loop {
        match tombolo_net::connect(&endpoint, &config.control, ALPN_AGENT).await {
            Ok(connection) => {
                let _ = line.send(Some(connection.clone()));
                let mut greeted = false;
                let ended = serve(&config, &endpoint, &connection, &answerer, &mind, &mut greeted).await;
                let _ = line.send(None);
                if mind.send(Wake::LineLost).await.is_err() {
                    return;
                }
                // Read before hanging up, which would put itself in the place of what the other side has said.
                let reason = connection.close_reason();
                connection.close(0u32.into(), b"the agent hangs up");
                let why = match reason {
                    Some(ConnectionError::ApplicationClosed(closed)) => {
                        if closed.error_code == CLOSE_REVOKED.into() && mind.send(Wake::Revoked).await.is_err() {
                            return;
                        }
                        String::from_utf8_lossy(&closed.reason).into_owned()
                    }
                    _ => ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string()),
                };
                if why != said {
                    tracing::warn!(why, "the line to the control plane is gone");
                    said = why;
                }
                // One that is taken up only to be hung up on is no better than none.
                if greeted {
                    pauses.reset();
                }
            }
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::warn!(why, "the control plane can't be reached; what runs here goes on");
                    said = why;
                }
            }
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Until either side has said its last; `greeted` is set once the control plane has said something.
async fn serve(
    config: &Config,
    endpoint: &Endpoint,
    connection: &Connection,
    answerer: &Arc<Answerer>,
    mind: &mpsc::Sender<Wake>,
    greeted: &mut bool,
) -> Result<(), FrameError> {
    let broken = |error: ConnectionError| FrameError::Io(std::io::Error::other(error));
    let (mut send, mut recv) = connection.open_bi().await.map_err(broken)?;
    let address = tombolo_net::address(endpoint, config.control.relay.as_deref());
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: Some(format!("http://{}", shown(answerer.gateway_address, &address))),
        address,
        info: config.info.clone(),
    };
    frames::write(&mut send, &Opening::Sync(Box::new(hello))).await?;
    tracing::info!("connected to the control plane");

    let calls = tokio::spawn(answer_calls(connection.clone(), answerer.clone()));
    let (ups, mut reports) = mpsc::channel::<Up>(UP_MAX);
    let reading = async {
        // The mind must know of the line before the first word of it.
        if mind.send(Wake::LineUp(ups)).await.is_err() {
            return Ok(());
        }
        loop {
            let mut down: Down = frames::read(&mut recv).await?;
            *greeted = true;
            if let Some(now) = down.now {
                answerer.control_time.heard(now);
            }
            if let Some(revoked) = down.revoked.take() {
                answerer.revoked.send_replace(revoked);
            }
            // Before the mind ends a placement, requests know what takes its place.
            if let Some(routes) = down.routes.take() {
                answerer.gateway.learn(routes);
            }
            if mind.send(Wake::Down(Box::new(down))).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some(up) = reports.recv().await {
            frames::write(&mut send, &up).await?;
        }
        Ok(())
    };
    // Neither half is taken up again after the other has ended, so cancelling it in the middle is fine.
    let ended = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    };
    calls.abort();
    ended
}

/// Who listens everywhere is found where this machine is.
fn shown(gateway: SocketAddr, machine: &PeerAddress) -> SocketAddr {
    if !gateway.ip().is_unspecified() {
        return gateway;
    }
    let known = machine.direct.iter().filter_map(|direct| direct.parse::<SocketAddr>().ok().map(|direct| direct.ip()));
    let ip = known.min_by_key(|ip| ip.is_loopback()).unwrap_or(Ipv4Addr::LOCALHOST.into());
    SocketAddr::new(ip, gateway.port())
}

async fn answer_calls(connection: Connection, answerer: Arc<Answerer>) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let answerer = answerer.clone();
        tokio::spawn(async move {
            if let Err(error) = answerer.answer(send, recv).await {
                tracing::debug!(%error, "a call was not answered to its end");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use iroh::SecretKey;
    use tombolo_api::stream::{ALPN_DATA, CLOSE_FAULT};
    use tombolo_core::site::{Prices, SiteInfo};
    use tombolo_data::{Store, StoreOptions};

    use super::*;
    use crate::driver::{Driver, Launcher};
    use crate::fetch::Fetcher;

    async fn endpoint(alpn: &[u8]) -> Endpoint {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = tombolo_net::BindOptions { listen, alpns: vec![alpn.to_vec()], relay: None };
        tombolo_net::bind(SecretKey::generate(), options).await.unwrap()
    }

    #[tokio::test]
    async fn a_control_plane_that_hangs_up_at_once_is_dialled_ever_more_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let (control, own) = (endpoint(ALPN_AGENT).await, endpoint(ALPN_DATA).await);
        let info = SiteInfo {
            id: "here".parse().unwrap(),
            labels: Default::default(),
            capacity: Default::default(),
            prices: Prices::default(),
            containers: false,
        };
        let site = info.id.clone();
        let config = Config {
            info,
            control: tombolo_net::address(&control, None),
            grant_key: String::new(),
            store: None,
            store_key: None,
            slurm: None,
            kubernetes: None,
        };
        let store = Arc::new(Store::open(dir.path().join("store"), StoreOptions::default()).unwrap());
        let (wakes, mut woken) = mpsc::channel(100);
        let (line, seen) = watch::channel(None);
        let limits = crate::gateway::Limits::default();
        let time = crate::clock::ControlTime::default();
        let answerer = Arc::new(Answerer {
            gateway: crate::gateway::Gateway::new(site.clone(), dir.path(), own.clone(), time, limits),
            gateway_address: "127.0.0.1:1".parse().unwrap(),
            site: site.clone(),
            store: store.clone(),
            driver: Arc::new(Driver::new(site, dir.path(), None, Launcher::Process(Vec::new()), mpsc::channel(1).0)),
            fetcher: Fetcher::new(store, own.clone(), seen),
            journal: dir.path().join("journal"),
            mind: wakes.clone(),
            revoked: watch::channel(Default::default()).0,
            control_time: Default::default(),
            gc_grace: None,
            holds: Arc::default(),
            artifacts: axum::Router::new(),
        });
        tokio::spawn(hold(config, own, answerer, wakes, line));
        tokio::spawn(async move { while woken.recv().await.is_some() {} });
        let began = Instant::now();
        for _ in 0..4 {
            let connection = control.accept().await.unwrap().await.unwrap();
            connection.close(CLOSE_FAULT.into(), b"go away");
        }
        // A slow machine takes longer; without growing pauses it would be three times the first.
        assert!(began.elapsed() >= PAUSE_FIRST * (1 + 2 + 4), "dialled again after {:?}", began.elapsed());
    }
}
