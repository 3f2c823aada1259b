//! Requests at an even pace over connections that are kept, from a process of its own: `cargo xtask load`, which the
//! benchmarks start where the load has to come from.
//!
//! wrk sends as fast as it is answered, so that what is slow is asked less often, and that is what a move must not hide: here
//! every request has its time beforehand, and its latency counts from then. Debian has no wrk2.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

/// Nothing that is asked takes longer, unless it is lost.
const ANSWER_MAX: Duration = Duration::from_secs(90);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// From the process's start until the first request.
const LEAD: Duration = Duration::from_millis(200);
/// A thread a connection: enough stack for a request.
const STACK_BYTES: usize = 256 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// `host:port` that is asked, and the path there
    at: String,
    path: String,
    /// Requests in a second, over all connections
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    connections: u32,
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its body and, where all went well, its answer's.
    pub id: u64,
    /// When it was due, since the epoch.
    pub due: Duration,
    /// From then until its answer's last byte.
    pub took: Duration,
    /// Why it failed.
    pub failed: Option<String>,
}

/// Asks until standard input ends, then prints a line for each request.
pub fn run(args: &Args) -> Result<()> {
    let (ended, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now() + LEAD;
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + LEAD;
    let every = Duration::from_secs(1) * args.connections / args.rate;
    let mut threads = Vec::new();
    for number in 0..args.connections {
        let (ended, next) = (ended.clone(), next.clone());
        let (at, path) = (args.at.clone(), args.path.clone());
        let first = every * number / args.connections;
        let asking = move || {
            let mut line = Line::new(at, path);
            let (mut asked, mut due) = (Vec::new(), first);
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep((began + due).saturating_duration_since(Instant::now()));
                let id = next.fetch_add(1, Ordering::Relaxed);
                let failed = line.ask(id).err().map(|error| format!("{error:#}").replace(['\n', '\r'], " "));
                let took = Instant::now().saturating_duration_since(began + due);
                asked.push(Asked { id, due: epoch + due, took, failed });
                due += every;
            }
            asked
        };
        threads.push(std::thread::Builder::new().stack_size(STACK_BYTES).spawn(asking)?);
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    ended.store(true, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    for thread in threads {
        for asked in thread.join().ok().context("a connection's thread panicked")? {
            writeln!(out, "{}", asked.line())?;
        }
    }
    Ok(())
}

impl Asked {
    fn line(&self) -> String {
        let failed = self.failed.as_deref().unwrap_or_default();
        format!("{} {} {} {failed}", self.id, self.due.as_micros(), self.took.as_micros())
    }

    fn of_line(line: &str) -> Option<Asked> {
        let mut parts = line.splitn(4, ' ');
        let id = parts.next()?.parse().ok()?;
        let mut micros = || Some(Duration::from_micros(parts.next()?.parse().ok()?));
        let (due, took) = (micros()?, micros()?);
        let failed = Some(parts.next()?.to_owned()).filter(|failed| !failed.is_empty());
        Some(Asked { id, due, took, failed })
    }
}

/// One connection, made anew only where it broke.
struct Line {
    at: String,
    path: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Line {
    fn new(at: String, path: String) -> Line {
        Line { at, path, stream: None }
    }

    /// Posts a number, which is to come back.
    fn ask(&mut self, id: u64) -> Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.at).context("no connection")?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                BufReader::new(stream)
            }
        };
        let (at, path, body) = (&self.at, &self.path, id.to_string());
        let request = format!("POST {path} HTTP/1.1\r\nHost: {at}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.get_mut().write_all(request.as_bytes()).context("it could not be sent")?;
        let (status, answer, kept) = answer(&mut stream)?;
        if kept {
            self.stream = Some(stream);
        }
        if status != 200 || answer != body.as_bytes() {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        // A service behind a gateway may come and go; the gateway's own connections stay.
        if !kept {
            bail!("the connection was not kept");
        }
        Ok(())
    }
}

/// An answer's status and body, and whether its connection is kept.
fn answer(stream: &mut BufReader<TcpStream>) -> Result<(u16, Vec<u8>, bool)> {
    let mut line = String::new();
    stream.read_line(&mut line).context("no answer")?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no answer but {line:?}"))?;
    let (mut length, mut kept) = (None, true);
    loop {
        line.clear();
        if stream.read_line(&mut line).context("the answer broke off")? == 0 {
            bail!("the answer broke off");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<usize>().ok(),
            "connection" => kept = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let length = length.filter(|length| *length <= ANSWER_BYTES_MAX).context("an answer without a fitting length")?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("the answer broke off")?;
    Ok((status, body, kept))
}

/// A load that runs until it is ended.
pub struct Load(Child);

impl Load {
    /// Starts it by a command that runs this program.
    pub fn start(command: &mut Command, at: &str, path: &str, rate: u32, connections: u32) -> Result<Load> {
        command.args(["load", at, path, "--rate", &rate.to_string(), "--connections", &connections.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Load(command.spawn().context("can't start the load")?))
    }

    /// All that was asked, in the order in which it was due.
    pub fn end(mut self) -> Result<Vec<Asked>> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        self.0.stdout.take().context("the load has no output")?.read_to_string(&mut text)?;
        if !self.0.wait()?.success() {
            bail!("the load failed");
        }
        let parsed: Option<Vec<Asked>> = text.lines().map(Asked::of_line).collect();
        let mut asked = parsed.context("what the load says can't be read")?;
        asked.sort_by_key(|one| one.due);
        Ok(asked)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Gone already where it was ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often a service was asked each number: it appends each to a file of its own in a directory, a line for each.
pub fn served(dir: &Path) -> Result<BTreeMap<u64, usize>> {
    let mut times = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("can't list {}", dir.display()))? {
        let text = std::fs::read_to_string(entry?.path())?;
        for line in text.lines() {
            *times.entry(line.parse().with_context(|| format!("{line:?} is no number"))?).or_default() += 1;
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_again() {
        let well = Asked { id: 7, due: Duration::from_micros(12), took: Duration::from_micros(3), failed: None };
        let ill = Asked { failed: Some("503: no replica".to_owned()), ..well.clone() };
        for asked in [well, ill] {
            assert_eq!(Asked::of_line(&asked.line()), Some(asked));
        }
        assert_eq!(Asked::of_line("7 12"), None);
    }

    #[test]
    fn a_request_that_is_not_answered_well_has_failed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0",
            "HTTP/1.1 503 Gone\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n3",
        ];
        std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in answers {
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                stream.read_exact(&mut [0]).unwrap();
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut line = Line::new(at, "/x".to_owned());
        let said: Vec<_> = (0..4).map(|id| line.ask(id).map_err(|error| error.to_string())).collect();
        let wanted: [Result<(), &str>; 4] = [Ok(()), Err("200: 0"), Err("503: no"), Err("the connection was not kept")];
        assert_eq!(said, wanted.map(|one| one.map_err(str::to_owned)));
    }

    #[test]
    fn what_was_served_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1\n2\n").unwrap();
        std::fs::write(dir.path().join("b"), "2\n3\n").unwrap();
        assert_eq!(served(dir.path()).unwrap(), BTreeMap::from([(1, 1), (2, 2), (3, 1)]));
    }
}
