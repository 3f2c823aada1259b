//! The HTTP API's client: one method a verb of HTTP, errors as problems.

use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, UNKNOWN};

/// Longest answer that is not a stream, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest line of an event stream, in bytes.
const EVENT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the control plane at {address} does not answer")]
    Unreachable {
        address: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{0}")]
    Problem(Problem),
    #[error("the control plane's answer could not be understood: {0}")]
    Malformed(String),
    #[error("the connection to the control plane broke")]
    Broken(#[source] reqwest::Error),
}

impl Client {
    /// `base` is such as `http://127.0.0.1:7070`.
    pub fn new(base: &str, token: Option<String>) -> Client {
        let mut http = reqwest::Client::builder().connect_timeout(std::time::Duration::from_secs(5)).no_proxy();
        if !base.starts_with("https:") {
            // Reading the system's certificates takes longer than most commands, and nothing here needs them.
            http = http.tls_certs_only([]);
        }
        let http = http.build().expect("the system's certificates, where they are needed, can be read");
        Client { http, base: base.trim_end_matches('/').to_owned(), token }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(self.http.get(self.url(path))).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(self.http.delete(self.url(path))).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.ask(self.http.put(self.url(path)).json(body)).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.ask(self.http.patch(self.url(path)).json(body)).await
    }

    /// A create: `key` makes it idempotent, so it may be sent again when the answer was lost.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.ask(self.http.post(self.url(path)).header("Idempotency-Key", key).json(body)).await
    }

    /// Server-sent events; `each` gets the data of every event and says whether to go on.
    pub async fn events<T: DeserializeOwned>(
        &self,
        path: &str,
        each: impl FnMut(T) -> bool,
    ) -> Result<(), ClientError> {
        read_events(self.send(self.http.get(self.url(path))).await?, each).await
    }

    /// A create whose answer is a stream of events, such as the progress of what it began.
    pub async fn post_events<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
        each: impl FnMut(T) -> bool,
    ) -> Result<(), ClientError> {
        let request = self.http.post(self.url(path)).header("Idempotency-Key", key).json(body);
        read_events(self.send(request).await?, each).await
    }
    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let body = bounded(response).await?;
        // An empty answer stands for nothing, so that `()` can be asked for.
        let body = if body.is_empty() { b"null".to_vec() } else { body };
        serde_json::from_slice(&body).map_err(|fault| ClientError::Malformed(fault.to_string()))
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response =
            request.send().await.map_err(|source| ClientError::Unreachable { address: self.base.clone(), source })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = bounded(response).await?;
        Err(ClientError::Problem(serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            kind: UNKNOWN.to_owned(),
            title: format!("the control plane answered {status}"),
            status: status.as_u16(),
            detail: Some(String::from_utf8_lossy(&body).chars().take(500).collect()),
            hint: None,
        })))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

async fn read_events<T: DeserializeOwned>(
    response: reqwest::Response,
    mut each: impl FnMut(T) -> bool,
) -> Result<(), ClientError> {
    let mut chunks = response.bytes_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await {
        rest.extend_from_slice(&chunk.map_err(ClientError::Broken)?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.trim_end().strip_prefix("data:") else { continue };
            let event = serde_json::from_str(data.trim_start()).map_err(|fault| {
                // A stream that fails in the middle says so by an event of its own.
                match serde_json::from_str::<Problem>(data.trim_start()) {
                    Ok(problem) => ClientError::Problem(problem),
                    Err(_) => ClientError::Malformed(fault.to_string()),
                }
            })?;
            if !each(event) {
                return Ok(());
            }
        }
        if rest.len() > EVENT_BYTES_MAX {
            return Err(ClientError::Malformed("an event is too long".to_owned()));
        }
    }
    Ok(())
}

async fn bounded(response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(ClientError::Broken)?);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::Malformed(format!("it is longer than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    Ok(body)
}
