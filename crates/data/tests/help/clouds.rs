//! Azure's and Google's object storage as their emulators: real servers of other people's, brought by `cargo xtask test`,
//! each with a port of its own and ended with the value.
//!
//! Azure's is Azurite, which is Microsoft's own. Google's is fake-gcs-server, the one that most people test against; it
//! speaks Google's JSON protocol whole, and of the XML one, which is what `object_store` speaks, only reading. So a proxy
//! before it says the one thing that it doesn't understand, a plain PUT, in JSON's words. Conditions are the server's.

#![allow(dead_code, reason = "each test program uses what it needs")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// As in `crates/xtask/src/needs.rs`.
const AZURITE: &str = "azurite-3.35.0/node_modules/azurite/dist/src/blob/main.js";
const FAKE_GCS: &str = "fake-gcs-server-1.56.1/fake-gcs-server";

pub const BUCKET: &str = "site";
const ACCOUNT: &str = "tests";
/// "a key for the tests' own emulator", in base64.
pub const KEY: &str = "YSBrZXkgZm9yIHRoZSB0ZXN0cycgb3duIGVtdWxhdG9y";
/// How long a server may take until it answers, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);

/// An emulator with one bucket, or container, by the name of [`BUCKET`].
pub struct Cloud {
    child: Child,
    /// Of the bucket, without a prefix.
    pub url: &'static str,
    /// What a client needs, by the names of the cloud's own tools in small letters.
    pub settings: Vec<(String, String)>,
    _directory: tempfile::TempDir,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cloud {
    pub fn azure() -> Cloud {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("node");
        command.arg(installed(AZURITE)).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command.args(["--skipApiVersionCheck", "--disableTelemetry", "--location"]).arg(directory.path());
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let child = start(command, directory.path(), port);
        let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
        // A container is made by a request that is signed, which is beyond what object_store does.
        let made = Command::new("node").args(["-e", MAKE_CONTAINER, ACCOUNT, KEY, &endpoint, BUCKET]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = [
            ("azure_storage_account_name", ACCOUNT),
            ("azure_storage_account_key", KEY),
            ("azure_storage_endpoint", &endpoint),
            ("azure_allow_http", "true"),
        ];
        Cloud { child, url: "az://site", settings: owned(&settings), _directory: directory }
    }

    pub fn google() -> Cloud {
        let directory = tempfile::tempdir().unwrap();
        let (port, proxy) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
        let mut command = Command::new(installed(FAKE_GCS));
        command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string(), "-backend", "memory"]);
        let address = proxy.local_addr().unwrap();
        command.args(["-public-host", &address.to_string()]);
        let child = start(command, directory.path(), port);
        let behind = SocketAddr::from(([127, 0, 0, 1], port));
        let body = format!("{{\"name\":\"{BUCKET}\"}}");
        let head = "POST /storage/v1/b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        let made = exchange(behind, head, body.as_bytes()).unwrap();
        assert!(made.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&made));
        std::thread::spawn(move || {
            for client in proxy.incoming() {
                // A client may hang up at any time.
                std::thread::spawn(move || client.and_then(|client| one_request(client, behind)));
            }
        });
        let key = format!(
            r#"{{"gcs_base_url":"http://{address}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
        );
        let settings = [("google_service_account_key", key.as_str()), ("google_allow_http", "true")];
        Cloud { child, url: "gs://site", settings: owned(&settings), _directory: directory }
    }
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const MAKE_CONTAINER: &str = r#"
const [account, key, endpoint, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = '2021-08-06';
const text = ['PUT', '', '', '', '', '', '', '', '', '', '', '', `x-ms-date:${date}`, `x-ms-version:${version}`,
  `/${account}/${account}/${container}`, 'restype:container'].join('\n');
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
fetch(`${endpoint}/${container}?restype=container`, { method: 'PUT', headers: {
  'x-ms-date': date, 'x-ms-version': version, authorization: `SharedKey ${account}:${signature}` } })
  .then(async (answer) => { if (answer.status !== 201) { console.error(answer.status, await answer.text()); process.exit(1); } });
"#;

/// Where `cargo xtask test` puts what isn't Rust.
fn installed(what: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let file = cache.expect("a home directory").join("tombolo-ci").join(what);
    assert!(file.is_file(), "{} is not there; `cargo xtask test` brings it", file.display());
    file
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a server and waits until it answers.
fn start(mut command: Command, directory: &Path, port: u16) -> Child {
    let log = directory.join("log");
    let output = std::fs::File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{:?} doesn't start: {error}", command.get_program()));
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || since.elapsed() > START_LIMIT {
            panic!("the server did not start ({ended:?}):\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

fn one_request(mut client: TcpStream, behind: SocketAddr) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 16 << 10];
    let body_at = loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&request[..body_at - 2]).into_owned();
    let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let rest = length - (request.len() - body_at);
    Read::by_ref(&mut client).take(rest as u64).read_to_end(&mut request)?;
    let body = &request[body_at..];
    let target = head.split(' ').nth(1).unwrap_or_default();
    let object = target.strip_prefix('/').and_then(|target| target.split_once('/')).map(|(_, object)| object);
    match object {
        Some(object) if head.starts_with("PUT ") => {
            let answer = exchange(behind, &upload(&head, object), body)?;
            client.write_all(&uploaded(&answer))
        }
        _ => client.write_all(&exchange(behind, &head, body)?),
    }
}

/// A PUT of the XML protocol as the JSON one's upload.
fn upload(head: &str, object: &str) -> String {
    let mut target = format!("/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={object}");
    if let Some(generation) = header(head, "x-goog-if-generation-match") {
        target += &format!("&ifGenerationMatch={generation}");
    }
    let kind = header(head, "content-type").unwrap_or("application/octet-stream");
    format!("POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n")
}

/// What the JSON protocol tells of the new object, as the XML one tells it: in headers.
fn uploaded(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer);
    if !text.starts_with("HTTP/1.1 200") {
        return answer.to_vec();
    }
    let said = |name: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\":\"")).expect("an object has it");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let (tag, generation) = (said("etag"), said("generation"));
    format!(
        "HTTP/1.1 200 OK\r\netag: \"{tag}\"\r\nx-goog-generation: {generation}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// One request a connection: then the answer ends where the connection does. `head` ends with a line's end.
fn exchange(with: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(with)?;
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: String = lines.map(|line| format!("{line}\r\n")).collect();
    write!(server, "{head}content-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}
