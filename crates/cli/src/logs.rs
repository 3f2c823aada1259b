//! `tombolo logs`: what stages and services printed, from the sites where they ran.

mod here;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use tombolo_api::client::{Client, ClientError};
use tombolo_api::project::duration;
use tombolo_api::stream::{LogLine, LogQuery, OWN_STREAM};
use tombolo_api::wire::RunView;
use tombolo_core::{Millis, Name, RunId, Timestamp, WorkloadId};

use crate::failure::Failure;
use crate::names::{self, Target};
use crate::render;
use crate::run::{FollowOptions, Followed, follow_or_detach, verdict};
use crate::session::{Global, Output, Session};

/// Times in a row that a broken stream of lines is taken up again, and the pause between them.
const RETRIES_MAX: u32 = 30;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  tombolo logs train                the stage `train` of the newest run
  tombolo logs flights-7/train --tail 20
  tombolo logs -f flights-7         everything, as it is written, until the run has ended
  tombolo logs predict -f --since 10m
  tombolo logs train --epoch 1      an earlier attempt
  tombolo logs flights-7/train --site-dir /var/lib/tombolo/onprem     on the site's own machine

A log is read through the control plane, which keeps none of it. Where a dataset says `logs: stay`, the logs of what
reads it can only be read at their site, with --site-dir.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// A run, `<run>/<stage>`, or a stage of the newest run; the newest run unless given
    #[arg(value_name = "RUN|STAGE")]
    what: Option<String>,
    /// Go on as lines are written
    #[arg(long, short)]
    follow: bool,
    /// Only lines that are younger than this, such as 10m
    #[arg(long, value_parser = span, value_name = "SPAN")]
    since: Option<Millis>,
    /// Only the last so many lines of what is there
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// An earlier attempt, by its number
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    /// Read it from the directory of the site's agent, on its machine, without asking the control plane
    #[arg(long, value_name = "DIR")]
    site_dir: Option<PathBuf>,
}

pub fn span(text: &str) -> Result<Millis, String> {
    duration(text).map_err(|fault| fault.to_string())
}

pub async fn run(global: &Global, args: Logs) -> Result<(), Failure> {
    if args.site_dir.is_some() {
        return from_site(global, args).await;
    }
    let session = Session::open(global)?;
    let target = match &args.what {
        Some(text) => names::target(&session, text).await?,
        None => Target::Run(names::newest(&session).await?),
    };
    let since = args.since.map(|span| (render::now() - span).0);
    let request = LogRequest { follow: args.follow, since, tail: args.tail, epoch: args.epoch };
    match target {
        Target::Workload(workload) => one(&session, &workload, &request).await,
        Target::Run(_) if args.epoch.is_some() => {
            Err(Failure::usage("--epoch needs a stage").because("each stage counts its attempts by itself"))
        }
        Target::Run(run) if args.follow && since.is_none() && args.tail.is_none() && global.output == Output::Text => {
            match follow_or_detach(&session, &run, &FollowOptions::default()).await? {
                Followed::Ended(view) => verdict(&view),
                Followed::Detached => Ok(()),
            }
        }
        Target::Run(run) => whole(&session, &run, &request).await,
    }
}

async fn from_site(global: &Global, args: Logs) -> Result<(), Failure> {
    let site_dir = args.site_dir.unwrap_or_default();
    let workload = args.what.as_deref().and_then(|what| what.parse::<WorkloadId>().ok());
    let Some(workload) = workload else {
        return Err(Failure::usage("which stage?")
            .because("a site's directory knows no newest run")
            .hint("name it whole: tombolo logs <run>/<stage> --site-dir <dir>; `tombolo ps` shows both"));
    };
    let since = args.since.map(|span| Timestamp((render::now() - span).0));
    let query = LogQuery { since, tail: args.tail, follow: args.follow };
    let printer = Printer { bar: None, prefix: None, aside: false, hints: true };
    let each = |line: &LogLine| match global.output {
        Output::Text => printer.line(&workload, line),
        Output::Json => json_line(&workload, line),
    };
    tokio::select! {
        done = here::read(&site_dir, &workload, args.epoch, query, each) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn one(session: &Session, workload: &WorkloadId, request: &LogRequest) -> Result<(), Failure> {
    if session.output == Output::Json {
        return json_lines(&session.client, workload, request).await.map(drop);
    }
    let printer = Printer { bar: None, prefix: None, aside: false, hints: true };
    let printed = tokio::select! {
        printed = print(&session.client, workload, request, &printer) => printed?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    if printed == 0 {
        eprintln!("{workload} has printed nothing{}", request.within());
    }
    Ok(())
}

/// Every stage's log: one after the other, or all at once where they are followed.
async fn whole(session: &Session, run: &RunId, request: &LogRequest) -> Result<(), Failure> {
    let view: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
    let width = view.workloads.iter().map(|workload| workload.name.len()).max().unwrap_or(0);
    let printer = Printer { bar: None, prefix: Some(width), aside: false, hints: true };
    let mut followed = Vec::new();
    let mut done = Ok(0);
    for stage in view.workloads.iter().filter(|stage| stage.epoch > 0) {
        let name = Name::new(stage.name.as_str()).map_err(|fault| Failure::system(fault.to_string()))?;
        let workload = WorkloadId::new(run.clone(), name);
        if session.output == Output::Json {
            done = after(done, json_lines(&session.client, &workload, request).await);
        } else if request.follow {
            followed.push(workload);
        } else {
            done = after(done, print(&session.client, &workload, request, &printer).await);
        }
    }
    let all = followed.iter().map(|workload| print(&session.client, workload, request, &printer));
    let printed = tokio::select! {
        all = futures_util::future::join_all(all) => all.into_iter().fold(done, after)?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    if printed == 0 && session.output == Output::Text {
        eprintln!("nothing of {run} has printed anything{}; `tombolo ps {run}` shows its stages", request.within());
    }
    Ok(())
}

/// A log that can't be read hides no other: what was wrong before is told now, and what is wrong last at the end.
/// Otherwise, how many lines there were.
fn after(before: Result<u64, Failure>, now: Result<u64, Failure>) -> Result<u64, Failure> {
    if let (Err(failure), Err(_)) = (&before, &now) {
        eprint!("{failure}");
    }
    Ok(now? + before?)
}

#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    pub follow: bool,
    /// Milliseconds since 1970.
    pub since: Option<i64>,
    pub tail: Option<usize>,
    pub epoch: Option<u64>,
}

impl LogRequest {
    /// Words for what is asked, where that is not all.
    fn within(&self) -> &'static str {
        if self.since.is_some() { " in that time" } else { "" }
    }

    fn path(&self, workload: &WorkloadId) -> String {
        let mut query = format!("follow={}", self.follow);
        let parts = [
            ("since", self.since.map(|at| at.to_string())),
            ("tail", self.tail.map(|lines| lines.to_string())),
            ("epoch", self.epoch.map(|epoch| epoch.to_string())),
        ];
        for (key, value) in parts {
            query.extend(value.map(|value| format!("&{key}={value}")));
        }
        format!("/v1/workloads/{}/{}/logs?{query}", workload.run, workload.name)
    }
}

/// Where lines go: data to stdout, talk to stderr, around a bar if there is one.
pub struct Printer {
    pub bar: Option<ProgressBar>,
    /// Lines begin with their stage's name, in so many columns.
    pub prefix: Option<usize>,
    /// Lines go to stderr, as where stdout is for one JSON document.
    pub aside: bool,
    /// Print also the hints that Tombolo itself wrote to a log; not where they are told at the end.
    pub hints: bool,
}

impl Printer {
    fn line(&self, workload: &WorkloadId, line: &LogLine) {
        if !self.hints && line.stream == OWN_STREAM && line.text.starts_with("hint: ") {
            return;
        }
        let text = match self.prefix {
            Some(width) => format!("{:<width$} | {}\n", workload.name, line.text),
            None => format!("{}\n", line.text),
        };
        self.around(|| if self.aside { eprint!("{text}") } else { render::text(&text) });
    }

    pub fn talk(&self, text: &str) {
        self.around(|| eprintln!("{text}"));
    }

    /// Whether anybody sees the bar.
    pub fn has_bar(&self) -> bool {
        self.bar.as_ref().is_some_and(|bar| !bar.is_hidden())
    }

    /// What the bar says, where there is one.
    pub fn state(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn around(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Prints a workload's log; how many lines it had. A stream that breaks is taken up where it broke.
pub async fn print(
    client: &Client,
    workload: &WorkloadId,
    request: &LogRequest,
    printer: &Printer,
) -> Result<u64, Failure> {
    read(client, workload, request, |line| printer.line(workload, line)).await
}

async fn json_lines(client: &Client, workload: &WorkloadId, request: &LogRequest) -> Result<u64, Failure> {
    read(client, workload, request, |line| json_line(workload, line)).await
}

fn json_line(workload: &WorkloadId, line: &LogLine) {
    let object = serde_json::json!({
        "workload": workload, "at": line.at, "stream": line.stream, "text": line.text
    });
    render::text(&format!("{object}\n"));
}

async fn read(
    client: &Client,
    workload: &WorkloadId,
    request: &LogRequest,
    mut each: impl FnMut(&LogLine),
) -> Result<u64, Failure> {
    let mut lines = 0;
    let mut request = request.clone();
    let mut place = Place::default();
    let mut retries = 0;
    loop {
        let mut came = false;
        place.resume();
        let path = request.path(workload);
        let done = client.events(&path, |line: LogLine| {
            if place.is_new(&line) {
                came = true;
                lines += 1;
                each(&line);
            }
            true
        });
        match done.await {
            Ok(()) => return Ok(lines),
            Err(ClientError::Broken(_) | ClientError::Unreachable { .. })
                if retries < RETRIES_MAX && place.last > 0 => {}
            // Its site is away for a while.
            Err(ClientError::Problem(problem)) if problem.status == 503 && request.follow && retries < RETRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
        retries = if came { 0 } else { retries + 1 };
        // What `tail` left out must not come now.
        if place.last > 0 {
            (request.since, request.tail) = (Some(place.last), None);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// How far a log was read: several lines may have the same time.
#[derive(Debug, Default)]
struct Place {
    last: i64,
    /// Lines with the time `last` that were printed, and how many of them a resumed stream repeats.
    at_last: usize,
    to_skip: usize,
}

impl Place {
    fn resume(&mut self) {
        self.to_skip = self.at_last;
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        if line.at.0 == self.last && self.to_skip > 0 {
            self.to_skip -= 1;
            return false;
        }
        self.to_skip = 0;
        match line.at.0 == self.last {
            true => self.at_last += 1,
            false => (self.last, self.at_last) = (line.at.0, 1),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Timestamp;

    #[test]
    fn a_resumed_log_repeats_nothing_and_misses_nothing() {
        let line = |at: i64, text: &str| LogLine { at: Timestamp(at), stream: "stdout".into(), text: text.into() };
        let mut place = Place::default();
        let mut printed = Vec::new();
        for stream in [
            vec![line(1, "a"), line(2, "b"), line(2, "c")],
            vec![line(2, "b"), line(2, "c"), line(2, "d"), line(3, "e")],
        ] {
            place.resume();
            printed.extend(stream.into_iter().filter(|line| place.is_new(line)).map(|line| line.text));
        }
        assert_eq!(printed, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn what_is_asked_is_in_the_path() {
        let workload: WorkloadId = "flights-7/train".parse().unwrap();
        let request = LogRequest { follow: true, since: Some(5), tail: Some(3), epoch: None };
        assert_eq!(request.path(&workload), "/v1/workloads/flights-7/train/logs?follow=true&since=5&tail=3");
    }
}
