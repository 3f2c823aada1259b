//! As much HTTP as the benchmarks need of our own API on loopback: one request a connection, no TLS.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Nothing that is asked here takes longer to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const BODY_MAX: u64 = 64 << 20;

/// A control plane's API.
pub struct Api {
    /// `host:port`.
    pub authority: String,
    pub token: String,
}

impl Api {
    pub fn get(&self, path: &str) -> Result<Value> {
        body(self.ask("GET", path, "", "")?, path)
    }

    /// Creates something, under a key of its own.
    pub fn post(&self, path: &str, key: &str, value: &str) -> Result<Value> {
        body(
            self.ask("POST", path, &format!("Idempotency-Key: {key}\r\nContent-Type: application/json\r\n"), value)?,
            path,
        )
    }

    /// The first event's data of a stream of server-sent events; none where the stream ends without any, or is refused
    /// because there is nothing yet to stream.
    pub fn first_event(&self, path: &str) -> Result<Option<String>> {
        let (status, mut lines) = self.ask("GET", path, "", "")?;
        match status {
            200 => {}
            409 => return Ok(None),
            other => bail!("{path} was answered with {other}"),
        }
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if let Some(data) = line.strip_prefix("data:") {
                return Ok(Some(data.trim().to_owned()));
            }
            line.clear();
        }
        Ok(None)
    }

    /// Sends a request; what is returned stands after the answer's head.
    fn ask(&self, verb: &str, path: &str, head: &str, body: &str) -> Result<(u16, BufReader<TcpStream>)> {
        let mut stream =
            TcpStream::connect(&self.authority).with_context(|| format!("can't reach {}", self.authority))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let (authority, token, length) = (&self.authority, &self.token, body.len());
        // HTTP/1.0 has no chunks, so that the body is what follows until the end.
        let request = format!(
            "{verb} {path} HTTP/1.0\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n{head}\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("{path} was answered with {line:?}"))?;
        while line.trim() != "" {
            line.clear();
            answer.read_line(&mut line)?;
        }
        Ok((status, answer))
    }
}

fn body((status, answer): (u16, BufReader<TcpStream>), path: &str) -> Result<Value> {
    let mut text = String::new();
    answer.take(BODY_MAX).read_to_string(&mut text)?;
    if !(200..300).contains(&status) {
        bail!("{path} was answered with {status}: {text}");
    }
    serde_json::from_str(&text).or_else(|_| Ok(Value::String(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API that gives one answer, whatever it is asked.
    fn answering(answer: &'static str) -> Api {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while asked.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Api { authority, token: "t".to_owned() }
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let api = answering("HTTP/1.0 200 OK\r\nX: y\r\n\r\n{\"id\": 7}");
        assert_eq!(api.get("/x").unwrap()["id"], 7);
        let error = answering("HTTP/1.0 403 Forbidden\r\n\r\nno").get("/x").unwrap_err().to_string();
        assert!(error.contains("403: no"), "{error}");
    }

    #[test]
    fn the_first_event_is_found_among_comments() {
        let first = |answer| answering(answer).first_event("/x");
        let streamed = "HTTP/1.0 200 OK\r\n\r\n: alive\n\ndata: one\n\ndata: two\n\n";
        assert_eq!(first(streamed).unwrap().as_deref(), Some("one"));
        assert_eq!(first("HTTP/1.0 200 OK\r\n\r\n").unwrap(), None);
        assert_eq!(first("HTTP/1.0 409 Conflict\r\n\r\n").unwrap(), None);
        assert!(first("HTTP/1.0 401 Unauthorized\r\n\r\n").is_err());
    }
}
