//! HTTP/1.1 over a stream of a connection that is there anyway: one request and its answer.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Uri, header};
use axum::response::Response;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use iroh::endpoint::{RecvStream, SendStream};

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request; the answer's body comes as it is read.
pub async fn ask(send: SendStream, recv: RecvStream, mut request: Request) -> Result<Response, Failed> {
    let io = TokioIo::new(tokio::io::join(recv, send));
    let (mut sender, exchange) = client::handshake::<_, Body>(io).await?;
    tokio::spawn(async move {
        if let Err(error) = exchange.await {
            tracing::debug!(%error, "an exchange broke off");
        }
    });
    // The other side is no proxy and takes the path alone.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    request.headers_mut().remove(header::CONNECTION);
    request.headers_mut().remove(header::EXPECT);
    let answer = sender.send_request(request).await?;
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(header::CONNECTION);
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Answers the one request that comes.
pub async fn serve(send: SendStream, recv: RecvStream, router: Router) -> Result<(), hyper::Error> {
    let io = TokioIo::new(tokio::io::join(recv, send));
    server::Builder::new().keep_alive(false).serve_connection(io, TowerToHyperService::new(router)).await
}
