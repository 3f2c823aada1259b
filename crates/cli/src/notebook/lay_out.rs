//! The project of a notebook: two files, from which `tombolo run` would make the same.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use tombolo_api::project::FILE_NAME;
use tombolo_core::Name;
use tombolo_core::moving::NOTEBOOK_SERVICE;

use super::{Wants, secret_name};
use crate::failure::Failure;

const PROGRAM: &str = "lab.py";
const PROGRAM_TEXT: &str = include_str!("lab.py");
const JUPYTER: &str = "jupyterlab";
/// What [`PROGRAM`] is written for.
const JUPYTER_REQUIREMENT: &str = "jupyterlab>=4.2,<5";

/// Writes the project anew.
pub fn lay_out(dir: &Path, project: &Name, wants: &Wants, prefer: &BTreeSet<String>) -> Result<PathBuf, Failure> {
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(dir.join(FILE_NAME), yaml(project, wants, prefer)))
        .and_then(|()| std::fs::write(dir.join(PROGRAM), PROGRAM_TEXT));
    written.map_err(|error| Failure::system(format!("{} can't be written", dir.display())).because(error))?;
    Ok(dir.to_owned())
}

/// What somebody gave stands as JSON, which is YAML too.
fn yaml(project: &Name, wants: &Wants, prefer: &BTreeSet<String>) -> String {
    let secret = secret_name(project).expect("the project's name leaves room for it");
    let mut text = format!("# Written by `tombolo notebook`, which writes it anew.\nproject: {project}\n");
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("a text takes all");
    if let Some(dataset) = &wants.near {
        line(format_args!("data: {}", json!({ dataset.as_str(): {} })));
    }
    line(format_args!("services:\n  {NOTEBOOK_SERVICE}:"));
    line(format_args!("    run: exec python {PROGRAM}"));
    line(format_args!("    python: {}", json!(requirements(&wants.python))));
    line(format_args!("    single: true\n    access: public    # Jupyter asks for a token of its own"));
    line(format_args!("    prefix: keep\n    ready: {{ path: /{project}/{NOTEBOOK_SERVICE}/api, timeout: 5m }}"));
    line(format_args!("    secrets: {}", json!([secret.as_str()])));
    if let Some(dataset) = &wants.near {
        line(format_args!("    in: {}", json!([dataset.as_str()])));
    }
    if !prefer.is_empty() {
        line(format_args!("    placement: {}", json!({ "prefer": prefer })));
    }
    if let Some(site) = &wants.site {
        line(format_args!("    site: {}", json!(site.as_str())));
    }
    let cpus = wants.cpus.map(|milli| ("cpus", json!(milli as f64 / 1000.0)));
    let memory = wants.memory.map(|bytes| ("memory", json!(bytes)));
    let resources: serde_json::Map<_, _> =
        cpus.into_iter().chain(memory).map(|(key, value)| (key.to_owned(), value)).collect();
    if !resources.is_empty() {
        line(format_args!("    resources: {}", serde_json::Value::Object(resources)));
    }
    text
}

/// JupyterLab, unless somebody says which, and what they want beside it.
fn requirements(wanted: &[String]) -> Vec<&str> {
    let named = |requirement: &&String| {
        let rest = requirement.trim().strip_prefix(JUPYTER);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || "-_.".contains(next)))
    };
    let own = wanted.iter().find(named).is_none().then_some(JUPYTER_REQUIREMENT);
    own.into_iter().chain(wanted.iter().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use tombolo_core::SiteId;

    use super::*;
    use crate::project::Project;

    #[test]
    fn a_notebook_is_a_project_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let project = Name::new("notebook-eda").unwrap();
        let wants = Wants {
            near: Some(Name::new("raw").unwrap()),
            python: vec!["pandas>=2".to_owned(), "jupyterlab-git".to_owned()],
            cpus: Some(1500),
            memory: Some(4 << 30),
            ..Wants::default()
        };
        let prefer = BTreeSet::from(["cloud".to_owned(), "onprem".to_owned()]);
        insta::assert_snapshot!(yaml(&project, &wants, &prefer), @r##"
        # Written by `tombolo notebook`, which writes it anew.
        project: notebook-eda
        data: {"raw":{}}
        services:
          lab:
            run: exec python lab.py
            python: ["jupyterlab>=4.2,<5","pandas>=2","jupyterlab-git"]
            single: true
            access: public    # Jupyter asks for a token of its own
            prefix: keep
            ready: { path: /notebook-eda/lab/api, timeout: 5m }
            secrets: ["notebook-eda-token"]
            in: ["raw"]
            placement: {"prefer":["cloud","onprem"]}
            resources: {"cpus":1.5,"memory":4294967296}
        "##);
        lay_out(dir.path(), &project, &wants, &prefer).unwrap();
        let spec = Project::load(dir.path()).unwrap().spec;
        let lab = &spec.workloads[&Name::new(NOTEBOOK_SERVICE).unwrap()];
        let service = lab.service().unwrap();
        assert!(service.single && service.keeps_prefix && lab.leaning.is_some(), "{lab:?}");
        assert_eq!(lab.resources.cpus_milli, 1500);

        let site = Wants { site: Some(SiteId::new("onprem").unwrap()), ..Wants::default() };
        assert!(yaml(&project, &site, &BTreeSet::new()).ends_with("    site: \"onprem\"\n"));
        lay_out(dir.path(), &project, &site, &BTreeSet::new()).unwrap();
        Project::load(dir.path()).unwrap();
    }

    #[test]
    fn who_names_jupyterlab_gets_that_one() {
        let check = |wanted: &[&str], expected: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(requirements(&wanted), expected);
        };
        check(&[], &[JUPYTER_REQUIREMENT]);
        check(&["pandas"], &[JUPYTER_REQUIREMENT, "pandas"]);
        check(&["jupyterlab-git"], &[JUPYTER_REQUIREMENT, "jupyterlab-git"]);
        for own in ["jupyterlab==4.4.1", "jupyterlab", "jupyterlab ~= 4.3"] {
            check(&[own], &[own]);
        }
    }
}
