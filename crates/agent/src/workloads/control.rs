//! What is asked of the control plane for `Workload`s, with a token of its API.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tombolo_api::client::{Client, ClientError};
use tombolo_api::problem::UNKNOWN;
use tombolo_api::wire::{NewRun, NewVersion, RunView, VersionInfo};
use tombolo_core::spec::ProjectSpec;
use tombolo_core::{Residency, SiteId, VersionId, chain};
use tombolo_data::{AddOptions, Hold, Store};

use super::decide::Stands;

/// Why something isn't as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// It won't be, as it is now; in words, with a hint.
    Refused(String),
    /// It may be yet.
    Away(String),
}

/// How long an answer may take; the control plane itself gives up after a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);
/// How long one that doesn't answer is left alone.
const AWAY_FOR: Duration = Duration::from_secs(2);

pub struct Control {
    address: String,
    token_file: PathBuf,
    site: SiteId,
    site_dir: PathBuf,
    store: Arc<Store>,
    /// With the token that it was made for.
    client: Option<(String, Client)>,
    /// Since when it doesn't answer, and how that was said.
    away: Option<(Instant, String)>,
}

impl Control {
    pub fn new(address: String, token_file: PathBuf, site: SiteId, site_dir: &Path, store: Arc<Store>) -> Control {
        // As the agent joins.
        let address = if address.contains("://") { address } else { format!("http://{address}") };
        Control { address, token_file, site, site_dir: site_dir.to_owned(), store, client: None, away: None }
    }

    /// With the token that is in its file now: a newer one may be put there at any time.
    fn client(&mut self) -> Result<Client, Refusal> {
        // Many ask in turn, and each would wait until it is clear that nobody answers.
        if let Some((_, why)) = self.away.as_ref().filter(|(since, _)| since.elapsed() < AWAY_FOR) {
            return Err(Refusal::Away(why.clone()));
        }
        let token = std::fs::read_to_string(&self.token_file).map_err(|_| {
            Refusal::Away(format!(
                "there is no token for the control plane\nhint: kubectl create secret generic tombolo-{}-workloads --namespace NAMESPACE \
                 --from-literal=token=$(tombolo token create NAME --role member)",
                self.site
            ))
        })?;
        let token = token.trim().to_owned();
        match &self.client {
            Some((of, client)) if *of == token => Ok(client.clone()),
            _ => {
                let client = Client::new(&self.address, Some(token.clone()));
                self.client = Some((token, client.clone()));
                Ok(client)
            }
        }
    }

    pub async fn run(&mut self, run: &str) -> Result<(Stands, Option<RunView>), Refusal> {
        let (client, path) = (self.client()?, format!("/v1/runs/{run}"));
        match self.within(client.get::<RunView>(&path)).await? {
            Ok(view) => Ok((stands(&view), Some(view))),
            Err(error) if says(&error, &[404]) => Ok((Stands::Gone, None)),
            Err(error) => Err(self.failed(&error, false)),
        }
    }

    /// One that takes a request and never answers is away as well.
    async fn within<T>(&mut self, asked: impl Future<Output = T>) -> Result<T, Refusal> {
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let why = format!("the control plane did not answer within {} s", ANSWER_WITHIN.as_secs());
                self.away = Some((Instant::now(), why.clone()));
                Err(Refusal::Away(why))
            }
        }
    }

    /// A control plane that knows the token and doesn't like what it is told won't like it the next time either.
    fn failed(&mut self, error: &ClientError, may_refuse: bool) -> Refusal {
        if matches!(error, ClientError::Unreachable { .. } | ClientError::Broken(_)) {
            self.away = Some((Instant::now(), said(error)));
        }
        if may_refuse { refused(error) } else { Refusal::Away(said(error)) }
    }

    /// The body of a submission; its code is in the site's store for as long as the hold is.
    pub async fn prepare(
        &mut self,
        uid: &str,
        project: ProjectSpec,
        files: &std::collections::BTreeMap<String, String>,
        force: bool,
    ) -> Result<(Value, Hold), Refusal> {
        let client = self.client()?;
        let (dir, files) = (self.site_dir.join(super::CODE_DIR).join(uid), files.clone());
        let (store, site) = (self.store.clone(), self.site.clone());
        let stored = tokio::task::spawn_blocking(move || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            lay_out(&dir, &files)?;
            let added = store.add_tree(dir.clone(), &AddOptions::default())?;
            let hold = store.hold(added.version)?;
            let sketch = store.sketch(added.version)?;
            std::fs::remove_dir_all(&dir)?;
            Ok((added, hold, sketch))
        });
        let failed = |why: String| Refusal::Away(format!("its code can't be put into the site's store: {why}"));
        let (added, hold, sketch) =
            stored.await.map_err(|panic| failed(panic.to_string()))?.map_err(|error| failed(chain(&*error)))?;
        let version: VersionId = added.version;
        let body = NewVersion {
            version,
            bytes: added.bytes,
            files: added.files,
            site,
            dataset: None,
            residency: Residency::anywhere(),
            facts: Default::default(),
            sketch: Some(sketch),
        };
        let key = format!("workload-code-{uid}-{}", jiff::Timestamp::now().as_nanosecond());
        let told = self.within(client.post::<VersionInfo>("/v1/versions", &key, &body)).await?;
        told.map_err(|error| self.failed(&error, true))?;
        let run = NewRun { project, code: version, data: Default::default(), force };
        Ok((serde_json::to_value(run).map_err(|error| Refusal::Refused(error.to_string()))?, hold))
    }

    pub async fn submit(&mut self, key: &str, body: &Value) -> Result<RunView, Refusal> {
        let client = self.client()?;
        let sent = self.within(client.post("/v1/runs", key, body)).await?;
        sent.map_err(|error| self.failed(&error, true))
    }

    /// What is over already needs no stopping.
    pub async fn stop(&mut self, run: &str) -> Result<(), Refusal> {
        let path = format!("/v1/runs/{run}/stop");
        let (client, key) = (self.client()?, format!("workload-stop-{run}"));
        match self.within(client.post::<Value>(&path, &key, &Value::Null)).await? {
            Ok(_) => Ok(()),
            Err(error) if says(&error, &[404, 409]) => Ok(()),
            Err(error) => Err(self.failed(&error, false)),
        }
    }
}

/// A run that has failed may have replicas that go on.
fn stands(view: &RunView) -> Stands {
    const FINAL: [&str; 5] = ["succeeded", "cached", "failed", "stopped", "skipped"];
    if !view.workloads.iter().all(|one| FINAL.contains(&one.state.as_str())) {
        return Stands::Live;
    }
    match view.state.as_str() {
        "stopped" => Stands::Stopped,
        "succeeded" | "failed" => Stands::Ended,
        _ => Stands::Live,
    }
}

/// Whether the control plane itself says one of these, and not something on the way to it.
fn says(error: &ClientError, statuses: &[u16]) -> bool {
    matches!(error, ClientError::Problem(problem) if problem.kind != UNKNOWN && statuses.contains(&problem.status))
}

fn refused(error: &ClientError) -> Refusal {
    match error {
        ClientError::Problem(problem)
            if problem.kind != UNKNOWN
                && (400..500).contains(&problem.status)
                && !matches!(problem.status, 401 | 429) =>
        {
            Refusal::Refused(said(error))
        }
        _ => Refusal::Away(said(error)),
    }
}

fn said(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => {
            let hint = problem.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("{}{hint}", problem.title)
        }
        _ => chain(error),
    }
}

fn lay_out(dir: &Path, files: &std::collections::BTreeMap<String, String>) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(dir)?;
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_api::problem::Problem;

    #[test]
    fn what_may_be_yet_is_told_from_what_will_not() {
        for (status, away) in
            [(400, false), (401, true), (403, false), (404, false), (409, false), (429, true), (503, true)]
        {
            let problem = Problem {
                kind: "x".to_owned(),
                title: "no".to_owned(),
                status,
                detail: None,
                hint: Some("do".to_owned()),
            };
            let refusal = refused(&ClientError::Problem(problem));
            let expected = "no\nhint: do".to_owned();
            assert_eq!(refusal, if away { Refusal::Away(expected) } else { Refusal::Refused(expected) }, "{status}");
        }
    }

    #[test]
    fn a_proxys_word_is_not_the_control_planes() {
        let problem = |kind: &str| {
            ClientError::Problem(Problem {
                kind: kind.to_owned(),
                title: "not found".to_owned(),
                status: 404,
                detail: None,
                hint: None,
            })
        };
        assert!(says(&problem("not-found"), &[404]) && !says(&problem(UNKNOWN), &[404]));
        assert!(matches!(refused(&problem(UNKNOWN)), Refusal::Away(_)));
    }

    #[test]
    fn a_failed_run_with_replicas_that_serve_is_not_over() {
        let view = |states: &[&str]| -> RunView {
            let one = |state: &&str| serde_json::json!({"id": "r-1/x", "name": "x", "kind": "service", "state": state, "epoch": 1, "inputs": {}, "outputs": {}, "attempts": []});
            let all: Vec<Value> = states.iter().map(one).collect();
            serde_json::from_value(serde_json::json!({"id": "r-1", "project": "r", "state": "failed", "by": "x", "at": 0, "code": "", "workloads": all})).unwrap()
        };
        assert_eq!(stands(&view(&["failed", "ready"])), Stands::Live);
        assert_eq!(stands(&view(&["failed", "stopped"])), Stands::Ended);
    }

    #[test]
    fn files_are_laid_out_as_they_are_called_and_nothing_of_before_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("code/u");
        let files = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        lay_out(&at, &files(&[("a/b.py", "1"), ("c", "2")])).unwrap();
        assert_eq!(std::fs::read_to_string(at.join("a/b.py")).unwrap(), "1");
        lay_out(&at, &files(&[("c", "3")])).unwrap();
        assert!(!at.join("a").exists());
        assert_eq!(std::fs::read_to_string(at.join("c")).unwrap(), "3");
    }
}
