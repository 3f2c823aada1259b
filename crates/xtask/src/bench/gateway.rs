//! `gateway`: requests for 1 KB through a site's gateway, to a service there and at another site; beside nginx
//! as a proxy before the same service. wrk asks.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::place::{Place, Process, wait_for};
use super::{Context, Goal, Row, median};
use crate::process;

const SECONDS: u64 = 15;
const SECONDS_QUICK: u64 = 2;
/// Connections that ask for as much as there is.
const CONNECTIONS: &str = "32";
const RATIO_MIN: f64 = 0.5;
const ADDED_MS_MAX: f64 = 1.0;
const UP_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES: usize = 1024;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    for (program, package) in [("nginx", "nginx-light"), ("wrk", "wrk")] {
        if process::which(program).is_none() {
            process::apt_install(&[package])?;
        }
    }
    let seconds = ctx.size(SECONDS, SECONDS_QUICK);
    let mut place = Place::start(ctx)?;
    place.join(ctx, "other", "home/other")?;
    let (direct, gateways) = service(ctx, &place)?;
    let proxy = Proxy::start(ctx, &direct)?;
    let (near, far) = (&gateways[0], &gateways[1]);
    let path = "/bench-gateway/web/";
    let ways = [
        ("near", format!("{near}{path}")),
        ("nginx", format!("http://{}/", proxy.at)),
        ("far", format!("{far}{path}")),
        ("direct", format!("http://{direct}/")),
    ];
    let (mut rates, mut tails) = (vec![Vec::new(); ways.len()], vec![Vec::new(); ways.len()]);
    for _ in 0..ctx.runs {
        for (at, (name, url)) in ways.iter().enumerate() {
            let full = wrk(url, seconds, CONNECTIONS, "2")?;
            let calm = wrk(url, seconds, "1", "1")?;
            ctx.say(&format!("{name}: {:.0}/s, alone p99 {:.3} ms", full.rate, calm.p99_ms));
            rates[at].push(full.rate);
            tails[at].push(calm.p99_ms);
        }
    }
    let [near, nginx, far, _] = std::array::from_fn(|at| median(rates[at].clone()));
    let [near_ms, nginx_ms, far_ms, direct_ms] = std::array::from_fn(|at| median(tails[at].clone()));
    let note = format!(
        "wrk with {CONNECTIONS} kept connections; all on the same machine; the service is an nginx that sends {BODY_BYTES} \
         bytes; {}",
        place.binary.note
    );
    let added = format!(
        "p99 of one connection, less the {direct_ms:.3} ms of asking the service itself; {}",
        place.binary.note
    );
    let peer = |value: f64| Some(("nginx as a proxy", value));
    Ok(vec![
        ctx.row("requests in a second, same site", "/s", near, peer(nginx), Goal::RatioMin(RATIO_MIN)).note(&note),
        ctx.row("requests in a second, other site", "/s", far, peer(nginx), Goal::RatioMin(RATIO_MIN)).note(&note),
        ctx.row(
            "added p99, same site",
            "ms",
            near_ms - direct_ms,
            peer(nginx_ms - direct_ms),
            Goal::ValueMax(ADDED_MS_MAX),
        )
        .note(&added),
        ctx.row(
            "added p99, other site",
            "ms",
            far_ms - direct_ms,
            peer(nginx_ms - direct_ms),
            Goal::ValueMax(ADDED_MS_MAX),
        )
        .note(&added),
    ])
}

/// Runs a service at the site `bench`; where it is itself, and the gateways of its own and of the other site.
fn service(ctx: &Context, place: &Place) -> Result<(String, [String; 2])> {
    let dir = ctx.fresh("project")?;
    let serve = "mkdir -p w && sed \"s/PORT/$PORT/\" nginx.conf > w/nginx.conf && exec nginx -p \"$PWD/w\" -c \"$PWD/w/nginx.conf\"";
    let yaml = format!(
        "project: bench-gateway\nservices:\n  web:\n    run: {}\n    site: bench\n    access: public\n    ready: /\n",
        serde_json::Value::from(serve)
    );
    std::fs::write(dir.join("tombolo.yaml"), yaml)?;
    // No file: nginx's workers, nobody's where root starts it, may not look into our scratch directory.
    let server = format!("location / {{ return 200 {}; }}", "x".repeat(BODY_BYTES));
    std::fs::write(dir.join("nginx.conf"), configuration("PORT", "", &server))?;
    process::output(place.run_command(ctx).arg("--detach"))?;
    let endpoint = wait_for("the service's first answer", UP_MAX, || {
        let listed = place.server.api.get("/v1/endpoints")?;
        let one = listed[0].clone();
        Ok(one["replicas"].as_array().is_some_and(|replicas| !replicas.is_empty()).then_some(one))
    })?;
    let url = |site: &str| {
        let urls = endpoint["urls"].as_array().context("an endpoint has addresses")?;
        let at = urls.iter().find(|url| url["site"] == site).with_context(|| format!("{site} serves no endpoints"))?;
        let url = at["url"].as_str().context("an address is a text")?;
        Ok::<_, anyhow::Error>(url.trim_end_matches("/bench-gateway/web/").to_owned())
    };
    let run = place.server.api.get("/v1/runs/bench-gateway-1")?;
    let direct = run["workloads"][0]["address"].as_str().context("the service has no address")?.to_owned();
    Ok((direct, [url("bench")?, url("other")?]))
}

/// nginx before a service, with connections that are kept on both sides.
struct Proxy {
    at: String,
    _process: Process,
}

impl Proxy {
    fn start(ctx: &Context, to: &str) -> Result<Proxy> {
        let dir = ctx.fresh("proxy")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let upstream = format!("upstream service {{ server {to}; keepalive 64; }}");
        let server =
            "location / { proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        let file = dir.join("nginx.conf");
        std::fs::write(&file, configuration(&port.to_string(), &upstream, server))?;
        let mut command = process::command("nginx");
        let process = Process::start(ctx, "nginx", command.arg("-p").arg(&dir).arg("-c").arg(&file))?;
        let at = format!("127.0.0.1:{port}");
        wait_for("nginx", UP_MAX, || Ok(std::net::TcpStream::connect(&at).ok().map(drop)))?;
        Ok(Proxy { at, _process: process })
    }
}

fn configuration(port: &str, before: &str, server: &str) -> String {
    format!(
        "daemon off; worker_processes 2; pid nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path t1; proxy_temp_path t2;\n\
         fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; {before}\n\
         server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
    )
}

struct Asked {
    rate: f64,
    p99_ms: f64,
}

fn wrk(url: &str, seconds: u64, connections: &str, threads: &str) -> Result<Asked> {
    let duration = format!("{seconds}s");
    let said = process::output(process::command("wrk").args([
        "--latency",
        "-t",
        threads,
        "-c",
        connections,
        "-d",
        &duration,
        url,
    ]))?;
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        bail!("{url} did not answer well:\n{said}");
    }
    let after = |word: &str| {
        let line = said.lines().map(str::trim).find_map(|line| line.strip_prefix(word));
        line.map(str::trim).with_context(|| format!("wrk says no {word}:\n{said}"))
    };
    let rate = after("Requests/sec:")?.parse().context("wrk's rate is no number")?;
    Ok(Asked { rate, p99_ms: milliseconds(after("99%")?)? })
}

fn milliseconds(text: &str) -> Result<f64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: f64 = digits.parse().with_context(|| format!("{text} is no time"))?;
    match &text[digits.len()..] {
        "us" => Ok(number / 1000.0),
        "ms" => Ok(number),
        "s" => Ok(number * 1000.0),
        other => bail!("{other} is no unit of time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [("250.00us", 0.25), ("1.50ms", 1.5), ("2.00s", 2000.0)] {
            assert!((milliseconds(text).unwrap() - expected).abs() < 1e-9, "{text}");
        }
        assert!(milliseconds("5m").is_err() && milliseconds("ms").is_err());
    }
}
