//! A site's agent in this process: it speaks the stream as the real one does, and says what the test wants.

use std::time::Duration;

use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream};
use iroh::{Endpoint, SecretKey};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tombolo_api::frames::{self, FrameError};
use tombolo_api::stream::{ALPN_AGENT, Call, Down, Hello, Opening, PeerAddress, Said, Sources, Up};
use tombolo_core::site::SiteInfo;
use tombolo_core::sync::{Observed, Phase, Replicas, Report};
use tombolo_core::{Epoch, SiteId, VersionId, WorkloadId};

use super::Api;

/// Far longer than anything here takes; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes within a minute")
}

pub struct Agent {
    pub site: SiteId,
    /// In hex.
    pub key: String,
    endpoint: Endpoint,
    control: PeerAddress,
}

impl Api {
    /// A site that has joined, and its agent, which has not dialled yet.
    pub async fn agent(&self, name: &str, labels: Value) -> Agent {
        let agent = self.stranger(name).await;
        self.join(name, &agent.key, labels).await;
        agent
    }

    /// An agent that has not joined.
    pub async fn stranger(&self, name: &str) -> Agent {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = tombolo_net::BindOptions { listen, alpns: vec![ALPN_AGENT.to_vec()], relay: None };
        let endpoint = tombolo_net::bind(SecretKey::generate(), options).await.unwrap();
        let key = tombolo_net::hex(&endpoint.id());
        Agent { site: SiteId::new(name).unwrap(), key, endpoint, control: self.control.clone() }
    }
}

impl Agent {
    pub async fn dial(&self) -> Connection {
        tombolo_net::connect(&self.endpoint, &self.control, ALPN_AGENT).await.unwrap()
    }

    /// Dials, says hello, reports that it has these versions, and has heard the first answer.
    pub async fn connect(&self, versions: &[VersionId]) -> Line {
        let mut line = self.greet(self.dial().await).await.unwrap();
        let replicas = Replicas::All(versions.to_vec());
        line.say(Report { replicas, ..Report::default() }).await;
        line
    }

    /// Says hello, under a key that is not its own: nobody may believe it.
    pub async fn greet(&self, connection: Connection) -> Result<Line, FrameError> {
        let broken = |error: ConnectionError| FrameError::Io(std::io::Error::other(error));
        let (mut send, recv) = connection.open_bi().await.map_err(broken)?;
        let address = PeerAddress { key: "00".repeat(32), ..tombolo_net::address(&self.endpoint, None) };
        let info: SiteInfo = serde_json::from_value(json!({ "id": self.site, "capacity": {} })).unwrap();
        let hello = Hello { version: "test".to_owned(), address, info, gateway: None };
        frames::write(&mut send, &Opening::Sync(Box::new(hello))).await?;
        Ok(Line { connection, send, recv, number: 0 })
    }
}

/// A connection whose sync stream is open.
pub struct Line {
    pub connection: Connection,
    send: SendStream,
    recv: RecvStream,
    number: u64,
}

impl Line {
    /// Reports, and answers with all that came down until the report was taken in.
    pub async fn say(&mut self, report: Report) -> Vec<Down> {
        self.number += 1;
        let up = Up { number: self.number, report, moving: Default::default() };
        frames::write(&mut self.send, &up).await.unwrap();
        let mut heard = vec![self.hear().await.unwrap()];
        while heard.last().is_some_and(|down| down.answers < self.number) {
            heard.push(self.hear().await.unwrap());
        }
        heard
    }

    pub async fn hear(&mut self) -> Result<Down, FrameError> {
        within(frames::read(&mut self.recv)).await
    }

    /// Reports one placement's phase.
    pub async fn observe(&mut self, workload: &WorkloadId, epoch: u64, phase: Phase) -> Vec<Down> {
        let observed = vec![Observed { workload: workload.clone(), epoch: Epoch(epoch), phase }];
        self.say(Report { observed, ..Report::default() }).await
    }

    /// Answers calls with what `answer` says to each, and tells which came.
    pub fn answering(&self, answer: impl Fn(&Call) -> Vec<Said> + Send + 'static) -> mpsc::UnboundedReceiver<Call> {
        let (tell, told) = mpsc::unbounded_channel();
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let Ok(call) = frames::read::<Call>(&mut recv).await else { continue };
                for piece in answer(&call) {
                    let _ = frames::write(&mut send, &piece).await;
                }
                let _ = send.finish();
                let _ = tell.send(call);
            }
        });
        told
    }
}

/// From where a version may be fetched.
pub async fn sources(connection: &Connection, version: VersionId) -> Result<Sources, FrameError> {
    let broken = |error: ConnectionError| FrameError::Io(std::io::Error::other(error));
    let (mut send, mut recv) = connection.open_bi().await.map_err(broken)?;
    frames::write(&mut send, &Opening::Sources(version)).await?;
    let _ = send.finish();
    within(frames::read(&mut recv)).await
}

/// The code with which the other end closed a connection.
pub async fn closed(connection: &Connection) -> u32 {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(closed) => u32::try_from(closed.error_code.into_inner()).unwrap(),
        other => panic!("{other}"),
    }
}
