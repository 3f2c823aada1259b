//! One request's way: which endpoint it is for, whether it may, which placements it tries, and when it waits.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, Response, StatusCode, Uri, Version};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tombolo_api::stream::{ABSENT_HEADER, Absent, Passage};
use tombolo_core::EndpointId;
use tombolo_core::routes::{Access, Replica, Route};

use super::Gateway;
use super::headers::{self, Came};
use super::local::{Away, Busy};
use super::mesh::Trouble;
use super::refusals::{gave_up, no_replica, not_found, problem, refuse, unauthorised};
use super::serve::Guarded;
use super::table::Held;
use super::upstream::{Answer, Failed};

/// Bodies up to this are held until an answer begins, so that the request can go elsewhere where a placement turns out to
/// be gone. Longer ones go through as they come, and once.
const HELD_BYTES_MAX: u64 = 64 << 10;
/// Bodies that are held at once; beyond, they go through as they come.
pub const HELD_MAX: usize = 1_024;
/// How long such a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(60);
/// How long a service may take for an answer's first line.
const ANSWER_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Placements that one request tries in a row before it is given up.
const TRIES_MAX: usize = 4;
/// How often a request that waits looks by itself, where its own site may be the last to hear.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the two ends of an upgraded connection may take to go over to it.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);
/// The gateway's own paths; no project's name begins so.
const OWN: &str = "/-/";

/// A request's body, as long as it can be sent.
enum Load {
    None,
    Held {
        bytes: Bytes,
        _place: OwnedSemaphorePermit,
    },
    /// Until it is taken.
    Once(Option<Body>),
}

impl Load {
    fn repeatable(&self) -> bool {
        !matches!(self, Load::Once(_))
    }

    fn take(&mut self) -> Option<Body> {
        match self {
            Load::None => Some(Body::empty()),
            Load::Held { bytes, .. } => Some(Body::from(bytes.clone())),
            Load::Once(body) => body.take(),
        }
    }

    /// Of a request that was not sent.
    fn give_back(&mut self, request: Request<Body>) {
        if let Load::Once(place) = self {
            *place = Some(request.into_body());
        }
    }
}

/// A request as it goes to any placement.
struct Onward {
    endpoint: EndpointId,
    parts: Parts,
    load: Load,
    /// The client's end, where it asks to go over to another protocol.
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    http2: bool,
    sent_on: bool,
}

impl Onward {
    /// Whether doing it twice is doing it once.
    fn idempotent(&self) -> bool {
        let method = &self.parts.method;
        let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        (safe || [Method::PUT, Method::DELETE].contains(method)) && self.load.repeatable() && self.upgrade.is_none()
    }

    fn request(&mut self) -> Option<Request<Body>> {
        let body = self.load.take()?;
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = if self.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = self.parts.headers.clone();
        Some(request)
    }
}

/// What came of one try.
enum Tried {
    Answered(Answer, Option<Busy>),
    /// Nothing was sent, as it could not be reached.
    Unreached(String),
    Absent(Absent),
    /// It may have been done.
    Unanswered(String),
}

/// What another site's request comes to here.
pub enum Way {
    Here(Box<Busy>),
    /// It has to leave, and this takes its place.
    Instead(Replica),
}

impl Gateway {
    /// A client's request, from its first byte to its answer's last.
    pub async fn answer(&self, mut request: Request<Incoming>, from: IpAddr) -> Response<Body> {
        let held = self.0.table.held();
        if request.uri().path().starts_with(OWN) {
            return self.own(&held, request.uri().path());
        }
        let Some((endpoint, prefix)) = target(&held, &request) else {
            return not_found(request.uri().path());
        };
        let route = &held.routes[&endpoint];
        let prefix = prefix.filter(|_| !route.keeps_prefix);
        if let Err(refusal) = self.admit(&endpoint, route, &mut request) {
            return *refusal;
        }
        let upgrade = headers::upgrade(request.version(), request.headers());
        let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let load = match self.load(&parts, body).await {
            Ok(load) => load,
            Err(refusal) => return *refusal,
        };
        let came = Came { from, prefix: prefix.clone() };
        let http2 = is_grpc(&parts);
        headers::onward(&mut parts, &came, upgrade.as_ref());
        match onward_uri(&parts, prefix.as_deref(), http2) {
            Some(uri) => parts.uri = uri,
            None => return not_found(parts.uri.path()),
        }
        let onward = Onward { endpoint, parts, load, upgrade: client, http2, sent_on: false };
        self.bring(onward).await
    }

    /// Tries placements until there is an answer, and waits where one will be there soon.
    async fn bring(&self, mut onward: Onward) -> Response<Body> {
        let deadline = Instant::now() + self.0.limits.wait_max;
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let mut changed = self.0.changed.subscribe();
        let mut place = None;
        let (mut tried, mut leaving, mut repeated) = (Vec::<Replica>::new(), false, false);
        let mut last = None;
        loop {
            changed.mark_unchanged();
            let held = self.0.table.held();
            let Some(route) = held.routes.get(&onward.endpoint) else {
                return no_replica(&onward.endpoint, "it was stopped", None);
            };
            match self.next(&held, route, &tried, turn) {
                Some(replica) => {
                    match self.attempt(&held, &replica, &mut onward).await {
                        Tried::Answered(answer, busy) => return self.finish(onward, answer, busy),
                        Tried::Unreached(why) => {
                            last = Some(format!("{} could not be reached: {why}", replica.workload));
                        }
                        Tried::Absent(absent) => leaving |= absent == Absent::Leaving,
                        Tried::Unanswered(why) => {
                            self.0.health.set_aside(&replica);
                            last = Some(format!("{} did not answer: {why}", replica.workload));
                            if repeated || !onward.idempotent() {
                                return gave_up(&onward.endpoint, last);
                            }
                            repeated = true;
                        }
                    }
                    tried.push(replica);
                }
                None if (route.waits || leaving) && last.is_none() => {
                    if place.is_none() {
                        place = self.0.waiting.clone().try_acquire_owned().ok();
                    }
                    if place.is_none() {
                        return no_replica(&onward.endpoint, "it is on its way, and too many wait for it", None);
                    }
                    if Instant::now() >= deadline {
                        let why = format!("it was on its way for more than {:?}", self.0.limits.wait_max);
                        return no_replica(&onward.endpoint, &why, None);
                    }
                    let until = deadline.min(Instant::now() + LOOK_EVERY);
                    let _ = tokio::time::timeout_at(until, changed.changed()).await;
                    tried.clear();
                    leaving = false;
                }
                None if repeated => return gave_up(&onward.endpoint, last),
                None => return no_replica(&onward.endpoint, &route.state, last),
            }
        }
    }

    fn next(&self, held: &Held, route: &Route, tried: &[Replica], turn: u64) -> Option<Replica> {
        if tried.len() >= TRIES_MAX {
            return None;
        }
        let latency = |site: &_| held.latency(site);
        let aside = |replica: &Replica| self.0.health.is_aside(replica);
        let order = route.order(&self.0.site, latency, aside, turn);
        order.into_iter().find(|replica| !tried.contains(replica)).cloned()
    }

    async fn attempt(&self, held: &Held, replica: &Replica, onward: &mut Onward) -> Tried {
        let trying = async {
            match replica.site == self.0.site {
                true => match self.0.local.enter(&replica.workload, replica.epoch) {
                    Ok(busy) => self.deliver(onward, busy).await,
                    Err(Away) => Tried::Absent(self.absent(held, &onward.endpoint)),
                },
                false => self.pass_on(held, replica, onward).await,
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, trying).await {
            Ok(tried) => {
                if let Tried::Unreached(_) = &tried {
                    self.0.health.set_aside(replica);
                }
                tried
            }
            Err(_) => Tried::Unanswered(format!("it said nothing for {ANSWER_WITHIN:?}")),
        }
    }

    /// To a service of this machine.
    async fn deliver(&self, onward: &mut Onward, busy: Busy) -> Tried {
        let repeatable = onward.idempotent();
        let Some(request) = onward.request() else { return Tried::Unanswered("it was sent before".to_owned()) };
        let sent = match onward.http2 {
            true => self.0.pool.send_http2(busy.address(), request).await,
            false => self.0.pool.send(busy.address(), request, repeatable).await,
        };
        match sent {
            Ok(answer) => Tried::Answered(answer, Some(busy)),
            Err(Failed::NotSent(request, why)) => {
                onward.load.give_back(*request);
                Tried::Unreached(why)
            }
            Err(Failed::Unanswered(why)) => Tried::Unanswered(why),
        }
    }

    /// To another site's gateway.
    async fn pass_on(&self, held: &Held, replica: &Replica, onward: &mut Onward) -> Tried {
        let Some(peer) = held.peers.get(&replica.site) else {
            return Tried::Unreached(format!("the site {} is not known here", replica.site));
        };
        let passage = Passage {
            endpoint: onward.endpoint.clone(),
            workload: replica.workload.clone(),
            epoch: replica.epoch,
            sent_on: onward.sent_on,
            asks: !onward.load.repeatable(),
        };
        let Some(request) = onward.request() else { return Tried::Unanswered("it was sent before".to_owned()) };
        match self.0.mesh.send(peer, &passage, request, onward.http2).await {
            Ok(answer) => Tried::Answered(answer, None),
            Err(Trouble::Unreached(request, why)) => {
                self.0.health.set_site_aside(&replica.site);
                onward.load.give_back(*request);
                Tried::Unreached(why)
            }
            Err(Trouble::Absent(request, absent)) => {
                onward.load.give_back(*request);
                Tried::Absent(absent)
            }
            Err(Trouble::AbsentSent(absent)) => Tried::Absent(absent),
            Err(Trouble::Unanswered(why)) => Tried::Unanswered(why),
        }
    }

    /// An answer on its way back.
    fn finish(&self, onward: Onward, mut answer: Answer, mut busy: Option<Busy>) -> Response<Body> {
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        headers::back(answer.headers_mut(), switches);
        answer.headers_mut().remove(ABSENT_HEADER);
        let events = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if let Some(busy) = busy.as_mut().filter(|_| switches || events) {
            busy.become_stream();
        }
        if let Some(client) = onward.upgrade.filter(|_| switches) {
            let service = hyper::upgrade::on(&mut answer);
            tokio::spawn(join(client, service, busy));
            return answer.map(|_| Body::empty());
        }
        answer.map(|body| Body::new(Guarded::new(body, busy)))
    }

    /// What another site's gateway asks for, as it is now.
    pub fn way_of(&self, passage: &Passage) -> Result<Way, Absent> {
        if let Ok(busy) = self.0.local.enter(&passage.workload, passage.epoch) {
            return Ok(Way::Here(Box::new(busy)));
        }
        let held = self.0.table.held();
        let gone = Replica { workload: passage.workload.clone(), epoch: passage.epoch, site: self.0.site.clone() };
        let route = held.routes.get(&passage.endpoint).ok_or(Absent::Gone)?;
        match self.next(&held, route, std::slice::from_ref(&gone), 0).filter(|_| !passage.sent_on) {
            Some(replica) => Ok(Way::Instead(replica)),
            None => Err(self.absent(&held, &passage.endpoint)),
        }
    }

    /// Whether something will take the place of a placement that is not here.
    fn absent(&self, held: &Held, endpoint: &EndpointId) -> Absent {
        let follows = held.routes.get(endpoint).is_some_and(|route| route.waits);
        if follows { Absent::Leaving } else { Absent::Gone }
    }

    /// Another site's request, which came through its gateway and was let in there.
    pub async fn answer_passage(
        &self,
        mut request: Request<Incoming>,
        passage: &Passage,
        way: Result<Way, Absent>,
    ) -> Response<Body> {
        let upgrade = headers::upgrade(request.version(), request.headers());
        let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let http2 = request.version() == Version::HTTP_2;
        let (mut parts, body) = request.into_parts();
        if upgrade.is_none() {
            parts.headers.remove(header::CONNECTION);
        }
        parts.headers.remove(header::TRANSFER_ENCODING);
        let way = match way {
            Ok(way) => way,
            Err(absent) => return refuse(absent),
        };
        let load = match self.load(&parts, body).await {
            Ok(load) => load,
            Err(refusal) => return *refusal,
        };
        let endpoint = passage.endpoint.clone();
        let mut onward = Onward { endpoint, parts, load, upgrade: client, http2, sent_on: true };
        let tried = match way {
            Way::Here(busy) => self.deliver(&mut onward, *busy).await,
            Way::Instead(replica) => self.attempt(&self.0.table.held(), &replica, &mut onward).await,
        };
        match tried {
            Tried::Answered(answer, busy) => self.finish(onward, answer, busy),
            Tried::Absent(absent) if onward.load.repeatable() => refuse(absent),
            Tried::Absent(_) => no_replica(&onward.endpoint, "it has just moved on", None),
            Tried::Unreached(_) if onward.load.repeatable() => refuse(Absent::Gone),
            Tried::Unreached(why) | Tried::Unanswered(why) => gave_up(&onward.endpoint, Some(why)),
        }
    }

    fn admit(
        &self,
        endpoint: &EndpointId,
        route: &Route,
        request: &mut Request<Incoming>,
    ) -> Result<(), Box<Response<Body>>> {
        if route.access == Access::Public {
            return Ok(());
        }
        let Some((token, at)) = headers::token(request.headers()) else {
            return Err(Box::new(unauthorised(endpoint, "it needs a token of its own")));
        };
        let hash = blake3::hash(token.as_bytes()).to_hex();
        if !route.admits(hash.as_str(), self.0.time.now()) {
            return Err(Box::new(unauthorised(endpoint, "the token is not one of its own, or has ended")));
        }
        if route.access == Access::Token {
            request.headers_mut().remove(at);
        }
        Ok(())
    }

    async fn load(&self, parts: &Parts, body: Incoming) -> Result<Load, Box<Response<Body>>> {
        if body.is_end_stream() {
            return Ok(Load::None);
        }
        let short = body.size_hint().exact().is_some_and(|length| length <= HELD_BYTES_MAX) && !is_grpc(parts);
        let Some(place) = self.0.held.clone().try_acquire_owned().ok().filter(|_| short) else {
            return Ok(Load::Once(Some(Body::new(body))));
        };
        let whole = axum::body::to_bytes(Body::new(body), HELD_BYTES_MAX as usize);
        match tokio::time::timeout(BODY_WITHIN, whole).await {
            Ok(Ok(bytes)) => Ok(Load::Held { bytes, _place: place }),
            Ok(Err(error)) => {
                let title = format!("the request's body broke off: {error}");
                Err(Box::new(problem(StatusCode::BAD_REQUEST, "bad-body", title, None, None)))
            }
            Err(_) => {
                let title = format!("the request's body did not come within {BODY_WITHIN:?}");
                Err(Box::new(problem(StatusCode::REQUEST_TIMEOUT, "slow-body", title, None, None)))
            }
        }
    }

    fn own(&self, held: &Held, path: &str) -> Response<Body> {
        if path != "/-/health" {
            return not_found(path);
        }
        let answering = held.routes.values().filter(|route| !route.replicas.is_empty()).count();
        let body = serde_json::json!({ "site": self.0.site, "endpoints": held.routes.len(), "answering": answering });
        let mut answer = Response::new(Body::from(body.to_string()));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}

/// Lets two ends talk until one hangs up.
async fn join(client: hyper::upgrade::OnUpgrade, service: hyper::upgrade::OnUpgrade, busy: Option<Busy>) {
    let both = async { tokio::try_join!(client, service) };
    match tokio::time::timeout(UPGRADE_WITHIN, both).await {
        Ok(Ok((client, service))) => {
            let (mut client, mut service) = (TokioIo::new(client), TokioIo::new(service));
            // It breaking off is how many of these end.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a connection did not go over to another protocol"),
        Err(_) => tracing::debug!("a connection did not go over to another protocol in time"),
    }
    drop(busy);
}

/// The endpoint, and what of the path names it.
fn target(held: &Held, request: &Request<Incoming>) -> Option<(EndpointId, Option<String>)> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    if let Some(id) = host.and_then(by_host).filter(|id| held.routes.contains_key(id)) {
        return Some((id, None));
    }
    let id = by_path(request.uri().path()).filter(|id| held.routes.contains_key(id))?;
    let prefix = format!("/{id}");
    Some((id, Some(prefix)))
}

/// `<service>.<project>`, with or without more behind it.
fn by_host(host: &str) -> Option<EndpointId> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let mut labels = host.split('.');
    let (service, project) = (labels.next()?, labels.next()?);
    format!("{project}/{service}").parse().ok()
}

fn by_path(path: &str) -> Option<EndpointId> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let (project, service) = (parts.next()?, parts.next()?);
    format!("{project}/{service}").parse().ok()
}

fn onward_uri(parts: &Parts, prefix: Option<&str>, http2: bool) -> Option<Uri> {
    let whole = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.strip_prefix(prefix.unwrap_or_default())?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    if !http2 {
        return rest.parse().ok();
    }
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    Uri::builder().scheme("http").authority(host).path_and_query(rest).build().ok()
}

/// gRPC needs HTTP/2 all the way; everything else goes to services as HTTP/1.1, which all of them speak.
fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    parts.version == Version::HTTP_2 && kind.starts_with(b"application/grpc")
}
