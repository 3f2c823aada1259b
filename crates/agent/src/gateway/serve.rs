//! Where clients and other sites' gateways come in.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tombolo_api::stream::{Absent, Passage};

use super::Gateway;
use super::local::Busy;
use super::proxy::Way;

/// In the site's directory: where the gateway listens, which stays.
const ADDRESS_FILE: &str = "gateway.address";
/// Clients' connections; who comes later waits to be taken up.
const CONNECTIONS_MAX: usize = 4_096;
/// Of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 256;
/// A request's head, in bytes and lines.
const HEADER_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;
/// How long a client's connection may be silent before or within a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// A pause after a connection could not be taken up, as when there are no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens where it is told to, else where it did before, else at any port of loopback.
pub async fn listen(site_dir: &Path, asked: Option<SocketAddr>) -> io::Result<TcpListener> {
    let file = site_dir.join(ADDRESS_FILE);
    let before = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<SocketAddr>().ok());
    let listener = match (asked, before) {
        (Some(asked), _) => TcpListener::bind(asked).await?,
        (None, Some(before)) => match TcpListener::bind(before).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%before, %error, "endpoints are served at another address than before");
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?
            }
        },
        (None, None) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    let address = listener.local_addr()?;
    if before != Some(address) {
        tombolo_net::write_private(&file, address.to_string().as_bytes())?;
    }
    Ok(listener)
}

impl Gateway {
    /// Serves clients for as long as the process lives.
    pub async fn serve(self, listener: TcpListener) {
        let saving = self.clone();
        tokio::spawn(async move { saving.0.table.keep_saved().await });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a client's connection can't be taken up");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let gateway = self.clone();
            tokio::spawn(async move {
                let from = canonical(from.ip());
                let answer = service_fn(move |request| {
                    let gateway = gateway.clone();
                    async move { Ok::<_, Infallible>(gateway.answer(request, from).await) }
                });
                let served = builder().serve_connection_with_upgrades(TokioIo::new(stream), answer).await;
                if let Err(error) = served {
                    tracing::debug!(error, "a client's connection broke off");
                }
                drop(place);
            });
        }
    }

    /// Serves the one request that a stream from another site brings.
    pub async fn serve_passage<I>(&self, io: I, passage: Passage, way: Result<Way, Absent>) -> Result<(), String>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (gateway, once) = (self.clone(), Arc::new(Mutex::new(Some(way))));
        let answer = service_fn(move |request: Request<Incoming>| {
            let way = once.lock().expect("nobody panics holding it").take();
            let (gateway, passage) = (gateway.clone(), passage.clone());
            // There is one request on a stream; who sends another gets none of the first one's place.
            let way = way.unwrap_or(Err(Absent::Gone));
            async move { Ok::<_, Infallible>(gateway.answer_passage(request, &passage, way).await) }
        });
        let mut builder = builder();
        builder.http1().keep_alive(false);
        builder.serve_connection_with_upgrades(io, answer).await.map_err(|error| error.to_string())
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A body on its way to a client, with the place that its request has until it is through.
pub struct Guarded {
    body: Incoming,
    _busy: Option<Busy>,
}

impl Guarded {
    pub fn new(body: Incoming, busy: Option<Busy>) -> Guarded {
        Guarded { body, _busy: busy }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
