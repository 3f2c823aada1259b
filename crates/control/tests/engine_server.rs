//! The server as a whole: its door, its first token, and the starts that it refuses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tombolo_api::wire::Role;
use tombolo_control::secrets::hash_token;
use tombolo_control::server::{self, ServerError, ServerOptions, ServerReady};
use tombolo_control::store::Store;
use tombolo_control::store::sqlite::SqliteStore;

/// Far longer than a start takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn options(dir: &Path) -> ServerOptions {
    let relay_listen = Some(ANY_PORT);
    ServerOptions { dir: dir.join("control"), listen: ANY_PORT, agent_listen: ANY_PORT, relay_listen, relay_url: None }
}

/// A server that is ready, or why it is not.
async fn start(options: ServerOptions) -> Result<(ServerReady, JoinHandle<()>), ServerError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut serving = Box::pin(server::serve(options, |ready| drop(tell.send(ready))));
    let ready = tokio::select! {
        ended = &mut serving => return Err(ended.expect_err("it only ends by failing")),
        ready = told => ready.unwrap(),
        () = tokio::time::sleep(PATIENCE) => panic!("not ready after {PATIENCE:?}"),
    };
    Ok((ready, tokio::spawn(async move { serving.await.unwrap() })))
}

/// Ends a server as a crash would, and waits until it is gone.
async fn end(serving: JoinHandle<()>) {
    serving.abort();
    let _ = serving.await;
}

async fn refused(options: ServerOptions) -> String {
    match start(options).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_first_start_makes_a_token_and_a_second_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, serving) = start(options(dir.path())).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(ready.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");

    let control = dir.path().join("control");
    assert_eq!(ready.token_file, control.join("admin.token"));
    for file in ["admin.token", "control.key", "grant.key", "secrets.key"] {
        let mode = fs::metadata(control.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o700);
    let token = fs::read_to_string(&ready.token_file).unwrap();

    // While it runs no other may have the directory.
    let second = refused(options(dir.path())).await;
    assert!(second.contains("another server is running") && second.contains("hint:"), "{second}");
    end(serving).await;

    let (_, serving) = start(options(dir.path())).await.unwrap();
    assert_eq!(fs::read_to_string(&ready.token_file).unwrap(), token);
    end(serving).await;
    let store = SqliteStore::open(&control.join("tombolo.db")).await.unwrap();
    let known = store.token(&hash_token(token.trim())).await.unwrap().expect("the file's token is the store's");
    assert_eq!((known.role, known.revoked), (Role::Admin, false));
    let database = fs::read(control.join("tombolo.db")).unwrap();
    let bytes = token.trim().as_bytes();
    assert!(!database.windows(bytes.len()).any(|part| part == bytes), "only its hash is kept");
}

/// Sends a body to a server, as the whole of a connection, and reads the answer's.
async fn post(ready: &ServerReady, path: &str, token: &str, body: &Value) -> Value {
    let mut stream = tokio::net::TcpStream::connect(ready.address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: {path}\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Where a site that joins is told to reach the relay.
async fn told_relay(ready: &ServerReady) -> String {
    let token = fs::read_to_string(&ready.token_file).unwrap().trim().to_owned();
    let invited = post(ready, "/v1/join-tokens", &token, &json!({})).await;
    let info = json!({ "id": "home", "capacity": { "cpus_milli": 1 } });
    let join = json!({ "token": invited["token"], "key": "ab".repeat(32), "info": info });
    let joined = post(ready, "/v1/join", "", &join).await;
    joined["control"]["relay"].as_str().unwrap_or_else(|| panic!("{joined}")).to_owned()
}

#[tokio::test]
async fn agents_are_told_where_the_relay_is() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["relay.example", "ftp://relay.example", "https://", ""] {
        let text = refused(ServerOptions { relay_url: Some(bad.to_owned()), ..options(dir.path()) }).await;
        assert!(text.contains(bad) && text.contains("hint: give it as http"), "{text}");
    }
    let (ready, serving) = start(options(dir.path())).await.unwrap();
    assert!(told_relay(&ready).await.starts_with("http://127.0.0.1:"));
    end(serving).await;
    let dir = tempfile::tempdir().unwrap();
    let url = "https://relay.example";
    let (ready, serving) =
        start(ServerOptions { relay_url: Some(url.to_owned()), ..options(dir.path()) }).await.unwrap();
    assert_eq!(told_relay(&ready).await, url);
    end(serving).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap();
    let text = refused(ServerOptions { listen: address, ..options(dir.path()) }).await;
    assert!(text.contains(&format!("TCP {address}")) && text.contains("hint: another program uses"), "{text}");
    let text = refused(ServerOptions { relay_listen: Some(address), ..options(dir.path()) }).await;
    assert!(text.contains(&format!("(relay) {address}")) && text.contains("hint: another program uses"), "{text}");
    let taken = std::net::UdpSocket::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap();
    let text = refused(ServerOptions { agent_listen: address, ..options(dir.path()) }).await;
    assert!(text.contains(&format!("UDP {address}")) && text.contains("hint: another program uses"), "{text}");
}

#[tokio::test]
async fn a_lost_key_or_database_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (_, serving) = start(options(dir.path())).await.unwrap();
    end(serving).await;
    let control = dir.path().join("control");
    for file in ["control.key", "grant.key", "secrets.key"] {
        let (path, aside) = (control.join(file), control.join("aside"));
        fs::rename(&path, &aside).unwrap();
        let text = refused(options(dir.path())).await;
        assert!(text.contains(file) && text.contains("hint: restore it"), "{text}");
        assert!(!path.exists(), "{file} was made anew");
        fs::rename(&aside, &path).unwrap();
    }
    fs::write(control.join("tombolo.db"), "").unwrap();
    let text = refused(options(dir.path())).await;
    assert!(text.contains("tombolo.db can't be used: it is cut short"), "{text}");
    fs::remove_file(control.join("tombolo.db")).unwrap();
    let text = refused(options(dir.path())).await;
    assert!(text.contains("tombolo.db is missing, though the keys"), "{text}");
    assert!(!control.join("tombolo.db").exists(), "a fresh database was made");
}

#[tokio::test]
async fn a_start_that_was_cut_off_before_the_token_was_known_makes_another() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    fs::create_dir(&control).unwrap();
    fs::write(control.join("admin.token"), "of a start that was cut off").unwrap();
    let (ready, serving) = start(options(dir.path())).await.unwrap();
    let token = fs::read_to_string(ready.token_file).unwrap();
    assert!(token.starts_with("tbl_"), "{token}");
    end(serving).await;
}
