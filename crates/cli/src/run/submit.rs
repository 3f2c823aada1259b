//! From a project's directory to a run: code and data into a store nearby, then the submission.

use std::collections::BTreeMap;

use tombolo_api::wire::{DatasetInfo, NewRun, RunView};
use tombolo_core::spec::{DataSpec, Objective};
use tombolo_core::{Name, Residency, RunId, SiteId, VersionId};

use crate::failure::Failure;
use crate::home::LocalSite;
use crate::inspect;
use crate::project::{IGNORE_FILE, Project};
use crate::session::Session;
use crate::upload::{self, Nearest, Stored};

/// Code that is larger goes to every site as well, but is rarely meant to.
const CODE_BYTES_USUAL: u64 = 256 << 20;

#[derive(Debug, Clone, Default)]
pub struct SubmitOptions {
    /// Don't reuse what earlier runs made.
    pub force: bool,
    /// Instead of the project's own.
    pub objective: Option<Objective>,
    /// The site on this machine that gets code and data; none: the nearest that may have them.
    pub site: Option<SiteId>,
    /// Versions of datasets that are read instead of the newest.
    pub pins: BTreeMap<Name, VersionId>,
}

#[derive(Debug, Clone)]
pub struct SubmittedRun {
    pub id: RunId,
}

/// Adds what the run needs to a site's store, and submits it once.
pub async fn submit(session: &Session, project: &Project, options: &SubmitOptions) -> Result<SubmittedRun, Failure> {
    let ignore = project.ignored()?;
    let nearest = Nearest::find(session).await?;
    let mut stored = Vec::new();
    let mut data = options.pins.clone();
    for (name, spec) in project.spec.data.iter().filter(|(name, _)| !options.pins.contains_key(*name)) {
        let added = match &spec.path {
            Some(path) => Some(dataset(session, &nearest, options, name, spec, project.dir.join(path)).await?),
            None => None,
        };
        match added {
            Some(added) => {
                data.insert(name.clone(), added.added.version);
                stored.push(added);
            }
            None => known(session, name).await?,
        }
    }
    // Code next to the data: what the first stages need is then in one place.
    let beside = options.site.clone().or_else(|| stored.first().map(|stored: &Stored| stored.site.clone()));
    let site = site_for(&nearest, beside.as_ref(), "the code", &Residency::anywhere())?;
    let code = upload::add(site, "code", &project.dir, ignore).await?;
    upload::announce(session, &code, None, &Residency::anywhere()).await?;
    eprintln!("{}", upload::line("code", &code));
    if code.added.bytes > CODE_BYTES_USUAL {
        eprintln!("hint: leave out what the stages don't need with {IGNORE_FILE}, or name it as data");
    }

    let mut spec = project.spec.clone();
    spec.objective = options.objective.unwrap_or(spec.objective);
    let body = NewRun { project: spec, code: code.added.version, data, force: options.force };
    let view: RunView = session.create("/v1/runs", &body).await?;
    let id =
        view.id.parse().map_err(|fault| Failure::system("the control plane's answer names no run").because(fault))?;
    Ok(SubmittedRun { id })
}

async fn dataset(
    session: &Session,
    nearest: &Nearest,
    options: &SubmitOptions,
    name: &Name,
    spec: &DataSpec,
    path: std::path::PathBuf,
) -> Result<Stored, Failure> {
    let site = site_for(nearest, options.site.as_ref(), name.as_str(), &spec.residency)?;
    let added = upload::dataset(site, name, &path, spec.expect.as_ref(), &spec.residency).await?;
    upload::announce(session, &added, Some(name), &spec.residency).await?;
    eprintln!("{}", upload::line(name.as_str(), &added));
    inspect::refused(name.as_str(), &added.facts, spec.expect.as_ref())?;
    Ok(added)
}

fn site_for<'n>(
    nearest: &'n Nearest,
    wanted: Option<&SiteId>,
    what: &str,
    residency: &Residency,
) -> Result<&'n LocalSite, Failure> {
    match wanted {
        Some(site) => nearest.named(site, what, residency),
        None => nearest.for_residency(what, residency),
    }
}

/// A dataset that the project only names must have been added before.
async fn known(session: &Session, name: &Name) -> Result<(), Failure> {
    match session.find::<DatasetInfo>(&format!("/v1/datasets/{name}")).await? {
        Some(_) => Ok(()),
        None => Err(Failure::usage(format!("there is no dataset {name}"))
            .because("the project names it without a path, so it must have been added before")
            .hint(format!("add it: tombolo data add {name} <path>"))),
    }
}
