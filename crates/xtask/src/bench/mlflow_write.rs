//! `mlflow-write`: what scripts log with MLflow's protocol, each acknowledgement durable; beside MLflow's own server and
//! FastTrackML, both on SQLite.
//!
//! The same client of ours for all, which keeps its connections: MLflow's would be the slowest part. Sides take turns.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::place::{Binary, Process, server, wait_for};
use super::{Context, Goal, Row, median, ours, peers};
use crate::process;

const SECONDS: u64 = 5;
const SECONDS_QUICK: u64 = 1;
const CLIENTS: u64 = 8;
const BATCH: u64 = 1_000;
const MLFLOW: &[&str] = &["mlflow==3.17.2"];
const FASTTRACKML: &[&str] = &["fasttrackml==0.6.0"];
const TIMES_OF_MLFLOW: f64 = 50.0;
const TIMES_OF_FASTTRACKML: f64 = 3.0;
const MEMORY_BYTES_MAX: f64 = 150e6;
const UP_MAX: Duration = Duration::from_secs(120);
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What is measured: its name, how many clients, and how much one request of it counts.
const MEASURES: [(&str, u64, u64); 4] = [
    ("log-metric in a second, one client", 1, 1),
    ("log-metric in a second, eight clients", CLIENTS, 1),
    ("metrics in a second by log-batch of 1,000, one client", 1, BATCH),
    ("create-run in a second, one client", 1, 1),
];

/// A server that speaks MLflow's protocol.
struct Side {
    name: &'static str,
    process: Process,
    at: String,
    token: Option<String>,
    experiment: String,
    /// For metrics' times, so that no two points are the same.
    clock: AtomicU64,
    rates: Vec<Vec<f64>>,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let seconds = Duration::from_secs(ctx.size(SECONDS, SECONDS_QUICK));
    let binary = Binary::find(ctx)?;
    let us = server(ctx, &binary)?;
    let mut sides =
        [Side::new("Tombolo", us.process, us.api.authority, Some(us.api.token))?, mlflow(ctx)?, fasttrackml(ctx)?];
    for (number, (measure, clients, counts)) in MEASURES.into_iter().enumerate() {
        for round in 0..ctx.runs {
            for at in 0..sides.len() {
                let side = &mut sides[(at + round) % 3];
                let rate = side.rate(number, clients, counts, seconds)?;
                ctx.say(&format!("{measure}: {} {rate:.0}", side.name));
                side.rates[number].push(rate);
            }
        }
    }
    let memory = sides.iter().map(|side| tree_memory(side.process.0.id())).collect::<Result<Vec<_>>>()?;
    let note = format!(
        "{} s a measurement, the median of {}; SQLite on all sides, FastTrackML {}, MLflow {} with one worker; ours acknowledges when it \
         is on disk, theirs as they come; {}",
        seconds.as_secs(),
        ctx.runs,
        FASTTRACKML[0].trim_start_matches("fasttrackml=="),
        MLFLOW[0].trim_start_matches("mlflow=="),
        binary.note
    );
    let mut rows = Vec::new();
    for (number, (measure, ..)) in MEASURES.into_iter().enumerate() {
        let of = |side: usize| median(sides[side].rates[number].clone());
        for (side, goal) in [(1, TIMES_OF_MLFLOW), (2, TIMES_OF_FASTTRACKML)] {
            let beside = Some((sides[side].name, of(side)));
            rows.push(ctx.row(measure, "/s", of(0), beside, Goal::RatioMin(goal)).note(&note));
        }
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let beside = Some((sides[1].name, mb(memory[1])));
    let goal = Goal::ValueMax(MEMORY_BYTES_MAX / 1e6);
    rows.push(ctx.row("memory afterwards, all processes", "MB", mb(memory[0]), beside, goal).note(&note));
    Ok(rows)
}

fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn mlflow(ctx: &Context) -> Result<Side> {
    let program = peers::python(MLFLOW, "mlflow")?;
    let at = format!("127.0.0.1:{}", port()?);
    let mut command = process::command(program);
    command.arg("server").arg("--backend-store-uri").arg(format!("sqlite:///{}", ctx.path("mlflow.db").display()));
    command.arg("--artifacts-destination").arg(ctx.fresh("mlflow-artifacts")?).args(["--workers", "1"]);
    command.args(["--host", "127.0.0.1", "--port", at.rsplit(':').next().unwrap_or_default()]);
    command.env("MLFLOW_DISABLE_TELEMETRY", "true").current_dir(ctx.fresh("mlflow")?);
    start(ctx, "MLflow", "mlflow", command, at)
}

fn fasttrackml(ctx: &Context) -> Result<Side> {
    let program = peers::python(FASTTRACKML, "fml")?;
    let at = format!("127.0.0.1:{}", port()?);
    let mut command = process::command(program);
    command.args(["server", "--listen-address", &at, "--database-uri"]);
    command.arg(format!("sqlite://{}", ctx.path("fasttrackml.db").display())).current_dir(ctx.fresh("fasttrackml")?);
    start(ctx, "FastTrackML", "fasttrackml", command, at)
}

fn start(ctx: &Context, name: &'static str, log: &str, mut command: Command, at: String) -> Result<Side> {
    ctx.say(&format!("starting {name}"));
    let mut process = Process::start(ctx, log, &mut command)?;
    wait_for(&format!("the start of {name}"), UP_MAX, || {
        if process.0.try_wait()?.is_some() {
            bail!("{name} ended:\n{}", std::fs::read_to_string(ctx.path(&format!("{log}.log")))?);
        }
        let health = Client::open(&at, None).and_then(|mut client| client.ask("GET", "/health", ""));
        Ok(health.is_ok().then_some(()))
    })?;
    Side::new(name, process, at, None)
}

impl Side {
    fn new(name: &'static str, process: Process, at: String, token: Option<String>) -> Result<Side> {
        let mut client = Client::open(&at, token.as_deref())?;
        let made = client.post("experiments/create", &json!({ "name": "bench" }))?;
        let experiment = made["experiment_id"].as_str().context("no experiment was made")?.to_owned();
        let rates = vec![Vec::new(); MEASURES.len()];
        Ok(Side { name, process, at, token, experiment, clock: AtomicU64::new(1), rates })
    }

    fn client(&self) -> Result<Client> {
        Client::open(&self.at, self.token.as_deref())
    }

    /// Of what a measure counts, in a second.
    fn rate(&self, measure: usize, clients: u64, counts: u64, time: Duration) -> Result<f64> {
        let done = AtomicU64::new(0);
        let until = Instant::now() + time;
        let began = Instant::now();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..clients).map(|_| scope.spawn(|| self.log(measure, until, &done))).collect();
            all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a client panicked")))
        })?;
        Ok((done.into_inner() * counts) as f64 / began.elapsed().as_secs_f64())
    }

    fn log(&self, measure: usize, until: Instant, done: &AtomicU64) -> Result<()> {
        let mut client = self.client()?;
        let made = client.post("runs/create", &json!({ "experiment_id": self.experiment, "start_time": 1 }))?;
        let run = made["run"]["info"]["run_id"].as_str().context("no run was made")?.to_owned();
        while Instant::now() < until {
            let at = self.clock.fetch_add(1, Ordering::Relaxed);
            let value = (at % 1000) as f64 / 1000.0;
            match measure {
                0 | 1 => {
                    let point = json!({ "run_id": run, "key": "loss", "value": value, "timestamp": at, "step": at });
                    client.post("runs/log-metric", &point)?;
                }
                2 => {
                    let point = |n| json!({ "key": format!("m{}", n % 10), "value": value, "timestamp": at, "step": at * BATCH + n });
                    let points: Vec<Value> = (0..BATCH).map(point).collect();
                    client.post("runs/log-batch", &json!({ "run_id": run, "metrics": points }))?;
                }
                _ => drop(client.post("runs/create", &json!({ "experiment_id": self.experiment, "start_time": at }))?),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Of a process and of all that it has started, in bytes.
fn tree_memory(root: u32) -> Result<u64> {
    let mut sum = ours::memory(root, "VmRSS")?;
    let children = std::fs::read_to_string(format!("/proc/{root}/task/{root}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        sum += tree_memory(child.parse()?).unwrap_or(0);
    }
    Ok(sum)
}

/// A connection that is kept.
struct Client {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Client {
    fn open(at: &str, token: Option<&str>) -> Result<Client> {
        let stream = TcpStream::connect(at).with_context(|| format!("can't reach {at}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        Ok(Client {
            stream: BufReader::new(stream),
            head: format!("Host: {at}\r\nContent-Type: application/json\r\n{token}"),
        })
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.ask("POST", &format!("/api/2.0/mlflow/{path}"), &body.to_string())?;
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer)? })
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let request = format!("{method} {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status: u16 =
            line.split(' ').nth(1).and_then(|word| word.parse().ok()).with_context(|| format!("{path}: {line:?}"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().context("a length")?;
            }
            chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                line.clear();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).context("a chunk's length")?;
                let begin = answer.len();
                answer.resize(begin + size, 0);
                self.stream.read_exact(&mut answer[begin..])?;
                line.clear();
                self.stream.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            answer.resize(length, 0);
            self.stream.read_exact(&mut answer)?;
        }
        if status != 200 {
            bail!("{path} was answered with {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(answer)
    }
}
