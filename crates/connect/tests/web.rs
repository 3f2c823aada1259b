//! Files from a web server that behaves badly.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use tombolo_connect::{Brought, ConnectError, Import, bring};
use tombolo_core::source::Source;

/// One answer: headers after the status line, and the part of the body that is sent before the connection is cut.
struct Answer {
    head: &'static str,
    body: &'static [u8],
}

/// Serves the answers one after the other, one connection each; returns its address and the requests' heads.
fn serve(answers: Vec<Answer>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let serving = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().expect("a request");
            heads.push(head(&stream));
            let mut stream = stream;
            write!(stream, "HTTP/1.1 {}\r\nConnection: close\r\n\r\n", answer.head).expect("sent");
            stream.write_all(answer.body).expect("sent");
        }
        heads
    });
    (address, serving)
}

fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map(|line| line.expect("text"));
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_ascii_lowercase()
}

async fn import(url: &str) -> (Result<Brought, ConnectError>, tempfile::TempDir) {
    let output = tempfile::tempdir().expect("a directory");
    let path = output.path().to_owned();
    let source = Source::parse(url, None).expect("a source");
    (bring(&Import { source, output: path.clone(), state: path, env: BTreeMap::new() }).await, output)
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_ended() {
    let (address, serving) = serve(vec![
        Answer { head: "200 OK\r\nContent-Length: 10\r\nETag: \"one\"", body: b"0123" },
        Answer { head: "206 Partial Content\r\nContent-Length: 6\r\nContent-Range: bytes 4-9/10", body: b"456789" },
    ]);
    let (brought, output) = import(&format!("http://{address}/data/a%20b.csv?key=hidden")).await;
    assert_eq!(brought.expect("brought").bytes, 10);
    assert_eq!(std::fs::read(output.path().join("a b.csv")).expect("the file"), b"0123456789");
    let heads = serving.join().expect("served");
    assert!(heads[0].starts_with("get /data/a%20b.csv?key=hidden "), "{heads:?}");
    assert!(heads[1].contains("range: bytes=4-") && heads[1].contains("if-match: \"one\""), "{heads:?}");
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_mixed() {
    let (address, serving) = serve(vec![
        Answer { head: "200 OK\r\nContent-Length: 10\r\nETag: \"one\"", body: b"0123" },
        Answer { head: "412 Precondition Failed\r\nContent-Length: 0", body: b"" },
    ]);
    let error = import(&format!("http://{address}/a.csv")).await.0.expect_err("changed").to_string();
    assert!(error.contains("changed while it was read"), "{error}");
    serving.join().expect("served");
}

#[tokio::test]
async fn what_can_not_be_had_is_said_without_the_signature() {
    let (address, serving) = serve(vec![
        Answer { head: "404 Not Found\r\nContent-Length: 0", body: b"" },
        Answer { head: "403 Forbidden\r\nContent-Length: 0", body: b"" },
        // Without an entity tag nobody knows whether the rest would be of the same file.
        Answer { head: "200 OK\r\nContent-Length: 10", body: b"0123" },
    ]);
    for expected in ["nothing is at", "403", "can't be read"] {
        let error = import(&format!("http://{address}/a.csv?sig=hidden")).await.0.expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains("hint:"), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    serving.join().expect("served");
}
