//! An S3 server in this process, and a proxy before it that does what networks and busy servers do.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tombolo_data::{BucketOptions, Timing};

const BUCKET: &str = "site";

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// 500, before the server sees it.
    Fails,
    /// 503 SlowDown.
    SlowDown,
    /// The server does what is asked, and the answer is lost.
    AnswerLost,
    /// The answer ends in the middle of its body.
    Cut,
    /// It takes a while.
    Slow,
    /// What is long takes longer than most clients wait, half a minute.
    Crawls,
}

#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    /// Held while something is put on condition: this server looks and puts in two steps, those of the clouds in one.
    conditions: Mutex<()>,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    every: u32,
    seen: u32,
    hit: u32,
    lagging: bool,
    listings: HashMap<String, Vec<u8>>,
}

impl Faults {
    /// From now on every `every`th request meets the fault.
    pub fn set(&self, fault: Fault, every: u32) {
        let mut state = self.state.lock().unwrap();
        (state.fault, state.every, state.seen, state.hit) = (Some(fault), every, 0, 0);
    }

    /// How many requests met it.
    pub fn hit(&self) -> u32 {
        self.state.lock().unwrap().hit
    }

    /// Listings are as they were when they were last asked for before this.
    pub fn lag(&self, lagging: bool) {
        self.state.lock().unwrap().lagging = lagging;
    }

    fn next(&self) -> Fault {
        let mut state = self.state.lock().unwrap();
        state.seen += 1;
        match state.fault {
            Some(fault) if fault != Fault::None && state.seen.is_multiple_of(state.every) => {
                state.hit += 1;
                fault
            }
            _ => Fault::None,
        }
    }
}

pub struct Server {
    pub faults: Arc<Faults>,
    address: SocketAddr,
}

impl Server {
    /// A server whose one bucket lies in `root`; it ends with the process.
    pub fn start(root: &Path) -> Server {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let files = s3s_fs::FileSystem::new(root).unwrap();
        let mut service = s3s::service::S3ServiceBuilder::new(files);
        service.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
        let service = service.build();
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = upstream.local_addr().unwrap();
        upstream.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let upstream = tokio::net::TcpListener::from_std(upstream).unwrap();
                while let Ok((socket, _)) = upstream.accept().await {
                    let service = service.clone();
                    tokio::spawn(async move {
                        let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                        // A connection that the proxy has cut is an error here.
                        let _ = http.serve_connection(hyper_util::rt::TokioIo::new(socket), service).await;
                    });
                }
            });
        });
        let faults = Arc::new(Faults::default());
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = proxy.local_addr().unwrap();
        let seen = faults.clone();
        std::thread::spawn(move || {
            for client in proxy.incoming() {
                let (client, faults) = (client.unwrap(), seen.clone());
                std::thread::spawn(move || {
                    // A client may hang up at any time.
                    let _ = one_request(client, behind, &faults);
                });
            }
        });
        Server { faults, address }
    }

    pub fn options(&self, timing: Timing) -> BucketOptions {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        BucketOptions {
            settings: vec![
                set("aws_access_key_id", "key"),
                set("aws_secret_access_key", "secret"),
                set("aws_region", "us-east-1"),
                set("aws_endpoint", &format!("http://{}", self.address)),
                set("aws_allow_http", "true"),
            ],
            timing,
            ..BucketOptions::new(format!("s3://{BUCKET}/stores/one"))
        }
    }
}

fn one_request(mut client: TcpStream, behind: SocketAddr, faults: &Faults) -> std::io::Result<()> {
    let mut request = Vec::new();
    let Some(body_at) = read_head(&mut client, &mut request)? else { return Ok(()) };
    let head = String::from_utf8_lossy(&request[..body_at]).into_owned();
    let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let rest = length - (request.len() - body_at);
    Read::by_ref(&mut client).take(rest as u64).read_to_end(&mut request)?;
    let fault = faults.next();
    match fault {
        Fault::Fails => return refuse(&mut client, "500 Internal Server Error", "InternalError"),
        Fault::SlowDown => return refuse(&mut client, "503 Slow Down", "SlowDown"),
        Fault::Slow => std::thread::sleep(Duration::from_millis(300)),
        Fault::Crawls if request.len() > 64 << 10 => std::thread::sleep(Duration::from_secs(33)),
        _ => {}
    }
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let lists = head.starts_with("GET") && target.contains("list-type=2");
    if lists {
        let state = faults.state.lock().unwrap();
        if let Some(old) = state.listings.get(&target).filter(|_| state.lagging) {
            return client.write_all(old);
        }
    }
    let on_condition = header(&head, "if-match").or_else(|| header(&head, "if-none-match")).is_some();
    let _turn = on_condition.then(|| faults.conditions.lock().unwrap());
    // One request a connection: then the answer ends where the connection does.
    let mut server = TcpStream::connect(behind)?;
    let first = head.find("\r\n").unwrap() + 2;
    server.write_all(&head.as_bytes()[..first])?;
    server.write_all(b"connection: close\r\n")?;
    server.write_all(&head.as_bytes()[first..])?;
    server.write_all(&request[body_at..])?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if lists {
        faults.state.lock().unwrap().listings.insert(target, answer.clone());
    }
    match fault {
        Fault::AnswerLost => Ok(()),
        Fault::Cut => {
            let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            client.write_all(&answer[..body + (answer.len() - body) / 2])
        }
        _ => client.write_all(&answer),
    }
}

/// Where the body begins; None where there is no request.
fn read_head(client: &mut TcpStream, request: &mut Vec<u8>) -> std::io::Result<Option<usize>> {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        request.extend_from_slice(&buffer[..read]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn refuse(client: &mut TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    write!(client, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}
