//! Runs and workloads by the names that people type: `flights-7`, `flights-7/train`, `flights`, `train`.

use std::collections::BTreeSet;

use tombolo_api::wire::RunView;
use tombolo_core::{Name, RunId, WorkloadId};

use crate::failure::Failure;
use crate::session::Session;

/// Newest runs among which a bare name is looked up.
const RUNS_SEARCHED: usize = 100;
/// Projects whose newest run is looked through for a workload of a bare name.
const PROJECTS_SEARCHED: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Run(RunId),
    Workload(WorkloadId),
}

impl Target {
    pub fn run(&self) -> &RunId {
        match self {
            Target::Run(run) => run,
            Target::Workload(workload) => &workload.run,
        }
    }
}

/// What a text means, asking the control plane where it is no whole id.
pub async fn target(session: &Session, text: &str) -> Result<Target, Failure> {
    if let Some((run, workload)) = text.split_once('/') {
        let name = Name::new(workload).map_err(|fault| no_such(text).because(fault))?;
        return Ok(Target::Workload(WorkloadId::new(whole_run(session, run).await?, name)));
    }
    // `train-2` may be a run of the project `train`, or a stage.
    if let Ok(run) = text.parse::<RunId>()
        && session.find::<RunView>(&format!("/v1/runs/{run}")).await?.is_some()
    {
        return Ok(Target::Run(run));
    }
    let name = Name::new(text).map_err(|fault| no_such(text).because(fault))?;
    let runs = session.up_to::<RunView>("/v1/runs", RUNS_SEARCHED).await?;
    let project = runs.iter().find(|run| run.project == name.as_str()).and_then(|run| run.id.parse().ok());
    let mut found: Vec<Target> = project.into_iter().map(Target::Run).collect();
    for run in newest_of_each(&runs) {
        let view: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
        // The newest run that has it is meant, whatever older ones of other projects have.
        if view.workloads.iter().any(|workload| workload.name == name.as_str()) {
            found.push(Target::Workload(WorkloadId::new(run, name)));
            break;
        }
    }
    one_of(text, found)
}

/// What a text means, where only a run will do.
pub async fn run(session: &Session, text: &str) -> Result<RunId, Failure> {
    match target(session, text).await? {
        Target::Run(run) => Ok(run),
        Target::Workload(workload) => Err(Failure::usage(format!("{workload} is a stage or service, not a run"))
            .hint(format!("its run is {}", workload.run))),
    }
}

/// The newest run of all.
pub async fn newest(session: &Session) -> Result<RunId, Failure> {
    let runs = session.up_to::<RunView>("/v1/runs", 1).await?;
    let newest = runs.first().and_then(|run| run.id.parse().ok());
    newest.ok_or_else(|| Failure::usage("there is no run yet").hint("start one, where a tombolo.yaml is: tombolo run"))
}

async fn whole_run(session: &Session, text: &str) -> Result<RunId, Failure> {
    if let Ok(run) = text.parse::<RunId>() {
        return Ok(run);
    }
    let runs = session.up_to::<RunView>("/v1/runs", RUNS_SEARCHED).await?;
    let newest = runs.iter().find(|run| run.project == text).and_then(|run| run.id.parse().ok());
    newest.ok_or_else(|| no_such(text))
}

/// `runs` is newest first.
fn newest_of_each(runs: &[RunView]) -> Vec<RunId> {
    let mut seen = BTreeSet::new();
    let newest = runs.iter().filter(|run| seen.insert(run.project.as_str()));
    newest.filter_map(|run| run.id.parse().ok()).take(PROJECTS_SEARCHED).collect()
}

fn one_of(text: &str, mut found: Vec<Target>) -> Result<Target, Failure> {
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(Target::to_string).collect();
        return Err(Failure::usage(format!("{text:?} may mean {}", names.join(" or "))).hint("write it out"));
    }
    found.pop().ok_or_else(|| no_such(text))
}

fn no_such(text: &str) -> Failure {
    Failure::usage(format!("there is no run, stage or service {text:?}")).hint("`tombolo ps --all` lists the runs")
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Run(run) => std::fmt::Display::fmt(run, f),
            Target::Workload(workload) => std::fmt::Display::fmt(workload, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_view(id: &str, project: &str) -> RunView {
        RunView {
            id: id.into(),
            project: project.into(),
            state: "active".into(),
            by: "me".into(),
            at: 0,
            ended: None,
            code: String::new(),
            workloads: vec![],
        }
    }

    #[test]
    fn only_the_newest_run_of_a_project_counts() {
        let runs = [run_view("a-3", "a"), run_view("b-1", "b"), run_view("a-2", "a")];
        let newest: Vec<String> = newest_of_each(&runs).iter().map(RunId::to_string).collect();
        assert_eq!(newest, ["a-3", "b-1"]);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let run = Target::Run("train-1".parse().unwrap());
        let stage = Target::Workload("flights-2/train".parse().unwrap());
        assert_eq!(one_of("train", vec![stage.clone()]).unwrap(), stage);
        let failure = one_of("train", vec![run, stage]).unwrap_err();
        assert_eq!(failure.what, "\"train\" may mean train-1 or flights-2/train");
        assert!(one_of("train", vec![]).is_err());
    }
}
