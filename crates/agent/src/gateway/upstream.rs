//! Requests to services of this machine, over connections that are kept for the next one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Connections to one service that are kept while nothing goes over them.
const IDLE_MAX: usize = 64;
/// How long one is kept: servers close theirs after 5 s and more.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// How old one may be for a request that can't be sent twice: a server that has closed it a moment ago would leave open
/// whether it has done what it was asked.
const FRESH_FOR: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Of a service's answer.
pub const HEADERS_MAX: usize = 256;
pub const HEADER_BYTES_MAX: usize = 128 << 10;

pub type Answer = axum::http::Response<Incoming>;

/// Why there is no answer.
pub enum Failed {
    /// Nothing of the request was sent.
    NotSent(Box<Request<Body>>, String),
    /// It may have been done, and nothing of an answer came.
    Unanswered(String),
}

#[derive(Clone, Default)]
pub struct Pool {
    idle: Arc<Mutex<HashMap<SocketAddr, Vec<Idle>>>>,
    /// One connection carries all.
    http2: Arc<Mutex<HashMap<SocketAddr, http2::SendRequest<Body>>>>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

impl Pool {
    /// Over HTTP/1.1. `repeatable` says whether it may be sent again where no answer comes.
    pub async fn send(&self, to: SocketAddr, mut request: Request<Body>, repeatable: bool) -> Result<Answer, Failed> {
        while let Some(mut sender) = self.take(to, repeatable) {
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(self.keep(to, sender, answer)),
                // It was closed while nobody looked.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failed::Unanswered(error.into_error().to_string())),
                },
            }
        }
        let mut sender = match connect(to).await {
            Ok(sender) => sender,
            Err(why) => return Err(Failed::NotSent(Box::new(request), why)),
        };
        match sender.try_send_request(request).await {
            Ok(answer) => Ok(self.keep(to, sender, answer)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Err(Failed::NotSent(Box::new(unsent), error.into_error().to_string())),
                None => Err(Failed::Unanswered(error.into_error().to_string())),
            },
        }
    }

    /// Over HTTP/2, by prior knowledge (RFC 9113, section 3.3).
    pub async fn send_http2(&self, to: SocketAddr, request: Request<Body>) -> Result<Answer, Failed> {
        let known = self.http2.lock().expect("nobody panics holding it").get(&to).cloned();
        let mut sender = match known.filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => match connect_http2(to).await {
                Ok(sender) => {
                    let mut held = self.http2.lock().expect("nobody panics holding it");
                    held.retain(|_, sender| !sender.is_closed());
                    held.insert(to, sender.clone());
                    sender
                }
                Err(why) => return Err(Failed::NotSent(Box::new(request), why)),
            },
        };
        match sender.try_send_request(request).await {
            Ok(answer) => Ok(answer),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Err(Failed::NotSent(Box::new(unsent), error.into_error().to_string())),
                None => Err(Failed::Unanswered(error.into_error().to_string())),
            },
        }
    }

    fn take(&self, to: SocketAddr, repeatable: bool) -> Option<http1::SendRequest<Body>> {
        let mut idle = self.idle.lock().expect("nobody panics holding it");
        let kept = idle.get_mut(&to)?;
        kept.retain(|one| one.since.elapsed() < IDLE_FOR && one.sender.is_ready());
        let fresh = |one: &Idle| repeatable || one.since.elapsed() < FRESH_FOR;
        let sender = kept.pop_if(|one| fresh(one)).map(|one| one.sender);
        if kept.is_empty() {
            idle.remove(&to);
        }
        sender
    }

    /// Keeps a connection for when its answer is through.
    fn keep(&self, to: SocketAddr, mut sender: http1::SendRequest<Body>, answer: Answer) -> Answer {
        if answer.status() != axum::http::StatusCode::SWITCHING_PROTOCOLS {
            let pool = self.clone();
            tokio::spawn(async move {
                if sender.ready().await.is_ok() {
                    let mut idle = pool.idle.lock().expect("nobody panics holding it");
                    let kept = idle.entry(to).or_default();
                    if kept.len() < IDLE_MAX {
                        kept.push(Idle { sender, since: Instant::now() });
                    }
                }
            });
        }
        answer
    }
}

async fn dial(to: SocketAddr) -> Result<TokioIo<TcpStream>, String> {
    let stream = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no connection to its port within {CONNECT_WITHIN:?}")),
    };
    // A port of the ephemeral range can be connected to itself while nobody listens on it.
    if stream.local_addr().is_ok_and(|own| own == to) {
        return Err("nobody listens on its port".to_owned());
    }
    let _ = stream.set_nodelay(true);
    Ok(TokioIo::new(stream))
}

async fn connect(to: SocketAddr) -> Result<http1::SendRequest<Body>, String> {
    let io = dial(to).await?;
    handshake(io).await
}

/// HTTP/1.1 over whatever there is.
pub async fn handshake<I>(io: I) -> Result<http1::SendRequest<Body>, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX);
    let (sender, exchange) = builder.handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = exchange.with_upgrades().await {
            tracing::debug!(%error, "a service's connection broke off");
        }
    });
    Ok(sender)
}

async fn connect_http2(to: SocketAddr) -> Result<http2::SendRequest<Body>, String> {
    let io = dial(to).await?;
    handshake_http2(io).await
}

pub async fn handshake_http2<I>(io: I) -> Result<http2::SendRequest<Body>, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(HEADER_BYTES_MAX as u32);
    let (sender, exchange) = builder.handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = exchange.await {
            tracing::debug!(%error, "a service's connection broke off");
        }
    });
    Ok(sender)
}
