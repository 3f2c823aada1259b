//! Whether a service answers yet.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tombolo_core::spec::{Ready, Service};
use tombolo_core::time::Millis;

use super::Wake;

/// How long a service may take to become ready unless it says otherwise.
pub const READY_MAX: Millis = Millis::from_secs(5 * 60);
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Pauses between two attempts; they double.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How much of an answer is read, in bytes: its status line.
const ANSWER_BYTES_MAX: usize = 1024;

pub fn limit(service: Option<&Service>) -> Millis {
    service.and_then(|service| service.ready.as_ref()).map_or(READY_MAX, |ready| ready.timeout)
}

/// Tells when the port answers: with 2xx to a GET of the path, or, where none is given, by accepting a connection.
pub fn watch(port: u16, ready: Option<Ready>, wakes: Sender<Wake>) {
    std::thread::spawn(move || {
        let timeout = ready.as_ref().map_or(READY_MAX, |ready| ready.timeout);
        let deadline = Instant::now() + Duration::from_millis(timeout.0);
        let mut pause = PAUSE_MIN;
        let wake = loop {
            if probe(port, ready.as_ref().map(|ready| ready.path.as_str())).unwrap_or(false) {
                break Wake::Ready;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Wake::NeverReady;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE_MAX);
        };
        // The service may have ended meanwhile.
        let _ = wakes.send(wake);
    });
}

fn probe(port: u16, path: Option<&str>) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    // A port of the ephemeral range can be connected to itself while nobody listens on it.
    if stream.local_addr()? == address {
        return Ok(false);
    }
    let Some(path) = path else { return Ok(true) };
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    write!(stream, "GET {slash}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: */*\r\n\r\n")?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let mut length = 0;
    while length < answer.len() && !answer[..length].contains(&b'\n') {
        match stream.read(&mut answer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(is_2xx(&answer[..length]))
}

/// RFC 9112, section 4: the version, a space, three digits.
fn is_2xx(answer: &[u8]) -> bool {
    let line = answer.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let version = words.next().is_some_and(|version| version.starts_with(b"HTTP/1."));
    version && words.next().is_some_and(|status| status.len() == 3 && status[0] == b'2')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_ready() {
        assert!(is_2xx(b"HTTP/1.1 200 OK\r\nDate: x"));
        assert!(is_2xx(b"HTTP/1.0 204\r\n"));
        assert!(!is_2xx(b"HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(!is_2xx(b"HTTP/1.1 2000\r\n"));
        assert!(!is_2xx(b"SSH-2.0-x 200\r\n"));
        assert!(!is_2xx(b""));
    }
}
