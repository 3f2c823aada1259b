//! Requests that go to another site's gateway, and those that come from there: each on a stream of its own, which begins
//! with a [`Passage`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use iroh::Endpoint;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tombolo_api::frames;
use tombolo_api::stream::{ABSENT_HEADER, ALPN_GATEWAY, Absent, CLOSE_REVOKED, CLOSE_UNKNOWN, Leave, Passage, Peer};
use tombolo_core::SiteId;

use super::Gateway;
use super::table::Held;
use super::upstream::{self, Answer};

/// Requests of one other site that may be under way here at once.
pub(super) const STREAMS_MAX: u32 = 4_096;
/// How long a site may take to be reached; meanwhile a request waits that could go elsewhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(4);
/// How long a stream may take to say what it is for, or whether a request will be taken.
const WORD_WITHIN: Duration = Duration::from_secs(10);

/// Connections to other sites' gateways.
pub struct Mesh {
    endpoint: Endpoint,
    lines: Mutex<HashMap<SiteId, Line>>,
}

/// Held while it is being made, so that it is made once.
type Line = Arc<tokio::sync::Mutex<Option<Connection>>>;

/// Why another site has not answered.
pub enum Trouble {
    /// The site itself can't be reached.
    Unreached(Box<Request<Body>>, String),
    /// Its placement takes no request.
    Absent(Box<Request<Body>>, Absent),
    /// The same, found out by sending a request that can be sent again.
    AbsentSent(Absent),
    Unanswered(String),
}

impl Mesh {
    pub fn new(endpoint: Endpoint) -> Mesh {
        Mesh { endpoint, lines: Mutex::default() }
    }

    /// Hangs up on who is no site any more.
    pub fn forget_strangers(&self, held: &Held) {
        let mut lines = self.lines.lock().expect("nobody panics holding it");
        lines.retain(|site, line| {
            let known = held.peers.get(site);
            // One that is just being made belongs to a request, which ends with it.
            let Ok(connection) = line.try_lock() else { return true };
            let Some(connection) = &*connection else { return true };
            let same = known.is_some_and(|peer| peer.key == tombolo_net::hex(&connection.remote_id()));
            if !same {
                connection.close(CLOSE_UNKNOWN.into(), b"this is no site any more");
            }
            same
        });
    }

    async fn streams(&self, peer: &Peer) -> Result<(SendStream, RecvStream), String> {
        let line = self.lines.lock().expect("nobody panics holding it").entry(peer.site.clone()).or_default().clone();
        let connection = {
            let mut line = line.lock().await;
            match line.as_ref().filter(|connection| connection.close_reason().is_none()) {
                Some(connection) => connection.clone(),
                None => {
                    let address =
                        peer.address.as_ref().ok_or_else(|| format!("nobody knows where {} is", peer.site))?;
                    let dialling = tombolo_net::connect(&self.endpoint, address, ALPN_GATEWAY);
                    let dialled = tokio::time::timeout(CONNECT_WITHIN, dialling).await;
                    let dialled = dialled.map_err(|_| format!("no answer within {CONNECT_WITHIN:?}"))?;
                    let connection = dialled.map_err(|error| error.to_string())?;
                    line.insert(connection).clone()
                }
            }
        };
        connection.open_bi().await.map_err(|error| error.to_string())
    }

    /// Sends a request to a placement at another site. Where it can be sent once only (`passage.asks`), the site is
    /// asked first.
    pub async fn send(
        &self,
        peer: &Peer,
        passage: &Passage,
        request: Request<Body>,
        http2: bool,
    ) -> Result<Answer, Trouble> {
        let unreached = |request, why: String| Trouble::Unreached(Box::new(request), why);
        let (mut send, mut recv) = match self.streams(peer).await {
            Ok(streams) => streams,
            Err(why) => return Err(unreached(request, why)),
        };
        if let Err(error) = frames::write(&mut send, passage).await {
            return Err(unreached(request, error.to_string()));
        }
        if passage.asks {
            match tokio::time::timeout(WORD_WITHIN, frames::read::<Leave>(&mut recv)).await {
                Ok(Ok(Leave::Taken)) => {}
                Ok(Ok(Leave::Refused(absent))) => return Err(Trouble::Absent(Box::new(request), absent)),
                Ok(Err(error)) => return Err(unreached(request, error.to_string())),
                Err(_) => return Err(unreached(request, format!("no word within {WORD_WITHIN:?}"))),
            }
        }
        let io = TokioIo::new(tokio::io::join(recv, send));
        let unanswered = |error: hyper::Error| Trouble::Unanswered(error.to_string());
        let answer = match http2 {
            false => match upstream::handshake(io).await {
                Ok(mut sender) => sender.send_request(request).await.map_err(unanswered)?,
                Err(why) => return Err(unreached(request, why)),
            },
            true => match upstream::handshake_http2(io).await {
                Ok(mut sender) => sender.send_request(request).await.map_err(unanswered)?,
                Err(why) => return Err(unreached(request, why)),
            },
        };
        match refused(&answer) {
            Some(absent) => Err(Trouble::AbsentSent(absent)),
            None => Ok(answer),
        }
    }
}

fn refused(answer: &Answer) -> Option<Absent> {
    let word = answer.headers().get(ABSENT_HEADER).filter(|_| answer.status() == StatusCode::MISDIRECTED_REQUEST)?;
    Absent::of_word(word.to_str().ok()?)
}

impl Gateway {
    /// Serves another site's gateway, for as long as it is a site.
    pub async fn attend(self, connection: Connection) {
        let key = tombolo_net::hex(&connection.remote_id());
        connection.set_max_concurrent_bi_streams(STREAMS_MAX.into());
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if !self.0.table.held().knows(&key) {
                return connection.close(CLOSE_REVOKED.into(), b"no site that is known here has this key");
            }
            let (send, recv) = tokio::select! {
                opened = connection.accept_bi() => match opened {
                    Ok(streams) => streams,
                    Err(_) => return,
                },
                // Never an error: the gateway holds the sender.
                _ = changed.changed() => continue,
            };
            let gateway = self.clone();
            tokio::spawn(async move {
                if let Err(error) = gateway.take(send, recv).await {
                    tracing::debug!(error, "another site's request was not answered to its end");
                }
            });
        }
    }

    async fn take(&self, mut send: SendStream, mut recv: RecvStream) -> Result<(), String> {
        let said = tokio::time::timeout(WORD_WITHIN, frames::read::<Passage>(&mut recv)).await;
        let passage = said.map_err(|_| "it says nothing".to_owned())?.map_err(|error| error.to_string())?;
        let way = self.way_of(&passage);
        if passage.asks {
            let leave = way.as_ref().map_or_else(|absent| Leave::Refused(*absent), |_| Leave::Taken);
            frames::write(&mut send, &leave).await.map_err(|error| error.to_string())?;
            if way.is_err() {
                let _ = send.finish();
                return Ok(());
            }
        }
        self.serve_passage(TokioIo::new(tokio::io::join(recv, send)), passage, way).await
    }
}
