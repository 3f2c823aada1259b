//! Endpoints: one address at each site, whichever site answers, with nothing lost while services move.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::world::{SOON, World, poll, wait, workload};

const SITES: [(&str, &[&str]); 2] = [("here", &[]), ("there", &[])];

/// Leaves a mark for each request's id, and answers where it is. What is posted comes back behind that. It takes a while,
/// so that some request is always under way.
const SERVE: &str = r#"
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = os.environ["TOMBOLO_SITE"].encode() + b" " + self.rfile.read(length)
        if "X-Request" in self.headers:
            with open("$MARKS", "ab", buffering=0) as marks:
                marks.write(b"served " + self.headers["X-Request"].encode() + b"\n")
        time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Seen", self.headers.get("Authorization") or "nothing")
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A service at `here`, whose project says this of it.
fn serving(world: &World, words: &str) -> String {
    world.ok(&["site", "set", "there", "--price", "cpu_hour=9"]);
    let yaml =
        format!("project: serving\nservices:\n  predict: {{ run: 'exec python3 serve.py', ready: /, {words} }}\n");
    let dir = world.project("serving", &yaml, &[("serve.py", SERVE)]);
    let run = world.submit(&dir);
    world.wait_run(&run, &["serving"]);
    run
}

/// Where each site's gateway is, as `host:port`.
fn gateways(world: &World) -> BTreeMap<String, String> {
    let endpoints = world.json(&["endpoint", "ls"]);
    let urls = endpoints[0]["urls"].as_array().unwrap_or_else(|| panic!("{endpoints:#}")).clone();
    let one = |url: &serde_json::Value| {
        let host = url["url"].as_str().unwrap().trim_start_matches("http://").split('/').next().unwrap().to_owned();
        (url["site"].as_str().unwrap().to_owned(), host)
    };
    urls.iter().map(one).collect()
}

/// A client that keeps its connection.
struct Client {
    at: String,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: String,
}

impl Client {
    fn new(at: &str) -> Client {
        Client { at: at.to_owned(), stream: None }
    }

    /// An error closes the connection; the next request makes another.
    fn ask(&mut self, head: &str, body: &str) -> Result<Answer, String> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.at).map_err(|error| format!("connect: {error}"))?;
            stream.set_read_timeout(Some(2 * SOON)).unwrap();
            self.stream = Some(BufReader::new(stream));
        }
        let answer = self.exchange(head, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, head: &str, body: &str) -> Result<Answer, String> {
        let stream = self.stream.as_mut().unwrap();
        let text = format!("{head}\r\nHost: gate\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.get_mut().write_all(text.as_bytes()).map_err(|error| format!("write: {error}"))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).map_err(|error| format!("read: {error}"))? == 0 {
                return Err("closed without an answer".to_owned());
            }
            match line.trim_end() {
                "" => break,
                line => headers.push(line.to_ascii_lowercase()),
            }
        }
        let status = headers[0].split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).map_err(|error| format!("body: {error}"))?;
        Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// Clients that ask all the time, each over one connection.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

struct Asked {
    id: String,
    result: Result<Answer, String>,
    took: Duration,
}

impl Load {
    fn start(at: &[&String]) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (at, stop, answered) = (at[number % at.len()].clone(), stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut client = Client::new(&at);
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("{number}-{}", all.len());
                    let method = if all.len() % 3 == 0 { "POST" } else { "GET" };
                    let head = format!("{method} /serving/predict/x HTTP/1.1\r\nX-Request: {id}");
                    let began = Instant::now();
                    let result = client.ask(&head, if method == "POST" { &id } else { "" });
                    answered.fetch_add(1, Ordering::Relaxed);
                    all.push(Asked { id, result, took: began.elapsed() });
                }
                all
            })
        };
        let clients = (0..6).map(client).collect();
        Load { stop, answered, clients }
    }

    /// Waits until so many more were answered.
    fn more(&self, count: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        wait(SOON, "answers under load", || (self.answered.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    fn end(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

/// Every request was answered well and done once.
fn check(world: &World, all: &[Asked]) {
    let bad: Vec<_> =
        all.iter().filter(|one| one.result.as_ref().map_or(true, |answer| answer.status != 200)).collect();
    let shown: Vec<_> =
        bad.iter().take(3).map(|one| format!("{} after {:?}: {:?}", one.id, one.took, one.result)).collect();
    assert!(bad.is_empty(), "{} of {} failed: {shown:#?}\n{}", bad.len(), all.len(), world.logs());
    let mut sent: Vec<_> = all.iter().map(|one| one.id.clone()).collect();
    let mut served = world.marks_of("served");
    sent.sort();
    served.sort();
    assert!(sent == served, "{} were sent, {} were served", sent.len(), served.len());
    for one in all {
        let body = &one.result.as_ref().unwrap().body;
        let posted = body.split_once(' ').unwrap().1;
        assert!(posted.is_empty() || posted == one.id, "{} was answered {body}", one.id);
    }
}

fn sites_seen(all: &[Asked]) -> Vec<String> {
    let site = |one: &Asked| one.result.as_ref().unwrap().body.split(' ').next().unwrap().to_owned();
    let mut sites: Vec<String> = all.iter().map(site).collect();
    sites.sort();
    sites.dedup();
    sites
}

/// A service goes from `here` to `there` and back, twice, under load.
pub(super) fn switches(world: &World) {
    switches_to(world, &["there", "here", "there", "here"]);
}

/// A service goes from `here` to one site after the other, under load.
pub(super) fn switches_to(world: &World, way: &[&str]) {
    serving(world, "access: public");
    let gateways = gateways(world);
    let load = Load::start(&gateways.values().collect::<Vec<_>>());
    load.more(100);
    for to in way {
        let moved = world.json(&["move", "predict", "--to", to]);
        assert_eq!((moved["method"].as_str(), moved["stage"].as_str()), (Some("switch"), Some("done")), "{moved:#}");
        load.more(100);
    }
    let all = load.end();
    let mut sites: Vec<&str> = gateways.keys().map(String::as_str).collect();
    sites.sort_unstable();
    assert_eq!(sites_seen(&all), sites);
    check(world, &all);
}

#[test]
fn a_service_moves_there_and_back_and_no_request_fails_or_is_done_twice() {
    switches(&World::with_sites(&SITES));
}

/// A service whose site ends it every so often is followed by another there, under load.
pub(super) fn is_followed(world: &World, within: Duration) {
    let run = serving(world, "access: public, grace: 5s");
    let gateways = gateways(world);
    let load = Load::start(&[&gateways["here"], &gateways["there"]]);
    let followed = poll(within, || {
        let view = workload(&world.view(&run), "predict");
        (view["state"] == "ready" && view["epoch"].as_u64() > Some(1)).then_some(view)
    });
    let view = followed.unwrap_or_else(|| panic!("it was not followed: {:#}\n{}", world.view(&run), world.logs()));
    assert_eq!((&view["site"], &view["attempts"][0]["outcome"]), (&"here".into(), &"stopped on request".into()));
    load.more(100);
    check(world, &load.end());
}

/// A service that may run once only goes from `here` to `there` and back under load.
pub(super) fn single_moves(world: &World) {
    let run = serving(world, "access: public, single: true");
    let gateways = gateways(world);
    let load = Load::start(&[&gateways["here"], &gateways["there"]]);
    load.more(100);
    for to in ["there", "here"] {
        let moved = world.json(&["move", "predict", "--to", to]);
        assert_eq!(
            (moved["method"].as_str(), moved["stage"].as_str()),
            (Some("checkpoint"), Some("done")),
            "{moved:#}"
        );
        assert_eq!(workload(&world.view(&run), "predict")["site"], to);
        load.more(100);
    }
    let all = load.end();
    assert_eq!(sites_seen(&all), ["here", "there"]);
    check(world, &all);
}

#[test]
fn while_a_single_service_moves_its_requests_wait() {
    single_moves(&World::with_sites(&SITES));
}

/// Gateways, and those that start anew, need no control plane; tokens are theirs to check.
#[test]
fn gateways_go_on_without_a_control_plane() {
    let mut world = World::with_sites(&SITES);
    serving(&world, "access: token");
    let gateways = gateways(&world);
    let token = world.ok(&["endpoint", "token", "serving/predict"]);
    let ended = world.json(&["endpoint", "token", "serving/predict"]);
    world.ok(&["endpoint", "revoke", ended["id"].as_str().unwrap()]);
    let ask = |site: &str, token: Option<&str>| {
        let lines = token.map(|token| format!("\r\nAuthorization: Bearer {}", token.trim())).unwrap_or_default();
        Client::new(&gateways[site]).ask(&format!("GET /serving/predict/ HTTP/1.1{lines}"), "")
    };
    for site in ["here", "there"] {
        let answer =
            wait(SOON, "the token is known", || ask(site, Some(&token)).ok().filter(|answer| answer.status == 200));
        assert!(answer.headers.contains(&"x-seen: nothing".to_owned()), "the service sees no token: {answer:?}");
        let revoked = ended["token"].as_str();
        wait(SOON, "the other ends", || (ask(site, revoked).ok()?.status == 401).then_some(()));
        assert_eq!(ask(site, None).unwrap().status, 401);
    }
    world.kill_server();
    world.kill_agent("there");
    assert_eq!(ask("here", Some(&token)).unwrap().status, 200);
    world.start_agent("there");
    let answer = poll(SOON, || ask("there", Some(&token)).ok().filter(|answer| answer.status == 200));
    let answer = answer.unwrap_or_else(|| panic!("{:?}\n{}", ask("there", Some(&token)), world.logs()));
    assert_eq!(answer.body, "here ");
    assert_eq!(ask("there", None).unwrap().status, 401);
    // The control plane comes back, and finds all as it was.
    world.start_server();
    world.wait_site("there", "up");
    assert_eq!(ask("there", Some(&token)).unwrap().status, 200);
}
