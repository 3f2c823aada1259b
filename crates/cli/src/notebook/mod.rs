//! `tombolo notebook`: JupyterLab as a service of a small project, which runs, moves and ends as any other.
//!
//! Jupyter asks for its own token, also at the gateways, whose endpoint is `public`: a browser can bring a token to
//! Jupyter by a link and is then known by a cookie, while a gateway's token is a header that no browser sends. The port
//! of the service at its site is closed to others on that machine by the same token.

mod lay_out;

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;
use tombolo_api::wire::{DatasetInfo, EndpointView, NewSecret, RunView};
use tombolo_core::moving::{NOTEBOOK_PROJECT, NOTEBOOK_SERVICE};
use tombolo_core::{EndpointId, Name, RunId, SiteId};

use crate::failure::Failure;
use crate::home::Notebook as Kept;
use crate::project::Project;
use crate::run::{FollowOptions, Followed, SubmitOptions, follow_or_detach, last_event, submit, verdict};
use crate::session::{Global, Output, Session};
use crate::{plan, render};

/// Newest runs among which a notebook's own is looked for.
const RUNS_SEARCHED: usize = 500;

const EXAMPLES: &str = "\
Examples:
  tombolo notebook                          JupyterLab somewhere; the link opens it
  tombolo notebook --near raw               where the dataset raw is, and with it as inputs/raw
  tombolo notebook --name eda --python pandas --python 'scikit-learn>=1.5' --memory 4GiB
  tombolo notebook --name eda               the link of that one again; where it was stopped, it goes on
  tombolo move notebook-eda/lab --to cloud  moves it, with all files and at the same link
  tombolo ps notebook-eda                   what it does
  tombolo stop notebook-eda                 ends it

A notebook is the service `lab` of a project: `notebook`, or `notebook-<name>`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Notebook {
    /// What it is called, where there is more than one
    #[arg(long)]
    name: Option<Name>,
    #[command(flatten)]
    wants: Wants,
    /// Begin anew, without an earlier one's files, which are then gone from it
    #[arg(long)]
    new: bool,
}

/// What a new notebook is to have.
#[derive(Debug, Clone, Default, PartialEq, Args)]
struct Wants {
    /// A dataset that it reads, as inputs/<DATASET>; it runs at a site that has it, where one has room
    #[arg(long, value_name = "DATASET")]
    near: Option<Name>,
    /// A requirement to install beside JupyterLab; may be given again
    #[arg(long, value_name = "REQ")]
    python: Vec<String>,
    /// Processors that it needs
    #[arg(long, value_parser = crate::site::facts::cpus)]
    cpus: Option<u64>,
    /// Memory that it needs, such as 4GiB
    #[arg(long, value_parser = crate::site::facts::bytes)]
    memory: Option<u64>,
    /// The only site where it may run
    #[arg(long)]
    site: Option<SiteId>,
}

/// What is printed of one that runs.
#[derive(Debug, Serialize)]
struct Opened {
    run: String,
    endpoint: String,
    sites: Vec<String>,
    links: Vec<Link>,
}

#[derive(Debug, Serialize)]
struct Link {
    /// Whose gateway it goes through.
    site: String,
    url: String,
}

pub async fn run(global: &Global, args: Notebook) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let project = project_name(args.name.as_ref())?;
    let before = newest(&session, &project).await?.filter(|_| !args.new);
    let kept = session.home.notebook(&project)?.filter(|kept| kept.server == session.client.base());
    let (run, token, after) = match before {
        Some(_) if args.wants != Wants::default() => return Err(there_already(&project, &args)),
        Some(view) => resume(&session, &project, &view, kept).await?,
        None => begin(&session, &project, &args.wants).await?,
    };
    let again = again(args.name.as_ref());
    let options = FollowOptions { after, logs: false, events: true };
    match follow_or_detach(&session, &run, &options).await? {
        Followed::Ended(view) => verdict(&view)?,
        Followed::Detached => {
            eprintln!("{run} goes on; `{again}` prints its link when it is ready");
            return Ok(());
        }
    }
    let opened = links(&session, &run, &project, &token).await?;
    show(&session, &opened, &again);
    Ok(())
}

/// `notebook-eda`; the plain word where no name is given.
fn project_name(name: Option<&Name>) -> Result<Name, Failure> {
    let Some(name) = name else { return Ok(Name::new(NOTEBOOK_PROJECT).expect("a fixed name")) };
    // Its secret's name is longer.
    Name::new(format!("{NOTEBOOK_PROJECT}-{name}")).and_then(|project| secret_name(&project).map(|_| project)).map_err(
        |fault| Failure::usage(format!("a notebook can't be called {name}")).because(fault).hint("take a shorter name"),
    )
}

fn secret_name(project: &Name) -> Result<Name, tombolo_core::ids::BadName> {
    Name::new(format!("{project}-token"))
}

fn again(name: Option<&Name>) -> String {
    match name {
        Some(name) => format!("tombolo notebook --name {name}"),
        None => "tombolo notebook".to_owned(),
    }
}

fn there_already(project: &Name, args: &Notebook) -> Failure {
    let again = again(args.name.as_ref());
    Failure::usage(format!("there is a notebook {project} already, and what it has and where it may be stays as it is"))
        .hint(format!(
            "go on with it: `{again}`; or start another with --name; or begin anew, without its files: --new"
        ))
}

async fn newest(session: &Session, project: &Name) -> Result<Option<RunView>, Failure> {
    let runs = session.up_to::<RunView>("/v1/runs", RUNS_SEARCHED).await?;
    Ok(runs.into_iter().find(|run| run.project == project.as_str()))
}

/// The run, the token that opens it, and the last event before.
type Begun = (RunId, String, i64);

async fn resume(session: &Session, project: &Name, view: &RunView, kept: Option<Kept>) -> Result<Begun, Failure> {
    let run: RunId =
        view.id.parse().map_err(|fault| Failure::system("the control plane's answer names no run").because(fault))?;
    if matches!(view.state.as_str(), "active" | "serving") {
        let Some(kept) = kept else {
            return Err(Failure::usage(format!("{run} runs, and its token is not known here"))
                .because("it was started from another machine, or by another user")
                .hint(format!("stop it and start it again for a new one: tombolo stop {run}")));
        };
        return Ok((run, kept.token, 0));
    }
    let token = match kept {
        Some(kept) => kept.token,
        None => new_token(session, project).await?,
    };
    let after = last_event(session, &run).await?;
    let _: serde_json::Value = session.create(&format!("/v1/runs/{run}/retry"), &serde_json::json!({})).await?;
    eprintln!("{run} goes on");
    Ok((run, token, after))
}

async fn begin(session: &Session, project: &Name, wants: &Wants) -> Result<Begun, Failure> {
    let prefer = match (&wants.near, &wants.site) {
        (Some(dataset), None) => sites_with(session, dataset).await?,
        (_, _) => BTreeSet::new(),
    };
    let dir = lay_out::lay_out(&session.home.notebooks_dir().join(project.as_str()), project, wants, &prefer)?;
    let project_files = Project::load(&dir)?;
    let options = SubmitOptions::default();
    let plan = plan::of_project(session, &project_files, None, &options.pins).await?;
    eprint!("{}", plan::text(&plan));
    plan::refuse_hopeless(&plan, &project_files)?;
    let token = new_token(session, project).await?;
    let submitted = submit(session, &project_files, &options).await?;
    eprintln!("run {}", submitted.id);
    Ok((submitted.id, token, 0))
}

/// Where all of a dataset's newest version is.
async fn sites_with(session: &Session, dataset: &Name) -> Result<BTreeSet<String>, Failure> {
    let found = session.find::<DatasetInfo>(&format!("/v1/datasets/{dataset}")).await?;
    let found = found
        .ok_or_else(|| Failure::usage(format!("there is no dataset {dataset}")).hint("`tombolo data ls` lists them"))?;
    Ok(found.latest.replicas.into_iter().collect())
}

/// One that the next start asks for, as a secret of the control plane's and a file of this user's.
async fn new_token(session: &Session, project: &Name) -> Result<String, Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let token = data_encoding::HEXLOWER.encode(&bytes);
    let secret = secret_name(project).expect("the project's name leaves room for it");
    let body = NewSecret { value: token.clone() };
    let _: serde_json::Value = session.client.put(&format!("/v1/secrets/{secret}"), &body).await?;
    let kept = Kept { server: session.client.base().to_owned(), token: token.clone() };
    session.home.write_notebook(project, &kept)?;
    Ok(token)
}

async fn links(session: &Session, run: &RunId, project: &Name, token: &str) -> Result<Opened, Failure> {
    let service = Name::new(NOTEBOOK_SERVICE).expect("a fixed name");
    let id = EndpointId { project: project.clone(), service }.to_string();
    let endpoints: Vec<EndpointView> = session.client.get("/v1/endpoints").await?;
    let endpoint = endpoints.into_iter().find(|endpoint| endpoint.name == id);
    let endpoint = endpoint.filter(|endpoint| !endpoint.urls.is_empty()).ok_or_else(|| {
        Failure::system(format!("{id} has no address")).because("no site's gateway is known").hint("tombolo site ls")
    })?;
    let local: BTreeSet<String> = session
        .home
        .local_sites()?
        .into_iter()
        .filter(|site| site.is_alive())
        .map(|site| site.name.to_string())
        .collect();
    let link = |at: tombolo_api::wire::EndpointUrl| Link { url: format!("{}lab?token={token}", at.url), site: at.site };
    let mut links: Vec<Link> = endpoint.urls.into_iter().map(link).collect();
    // This machine's own come first, as the others' may be loopback addresses of other machines.
    links.sort_by_key(|link| !local.contains(&link.site));
    let mut sites: Vec<String> = endpoint.replicas.into_iter().map(|replica| replica.site).collect();
    sites.dedup();
    Ok(Opened { run: run.to_string(), endpoint: id, sites, links })
}

fn show(session: &Session, opened: &Opened, again: &str) {
    if session.output == Output::Json {
        render::json(opened);
        return;
    }
    eprintln!("JupyterLab answers at {}; whoever has a link can use it:", opened.sites.join(", "));
    let rows = opened.links.iter().map(|link| format!("{}\n", link.url)).collect::<String>();
    render::text(&rows);
    let run = &opened.run;
    eprintln!(
        "move it: tombolo move {run}/{NOTEBOOK_SERVICE} --to <site>; stop it: tombolo stop {run}; these links again: {again}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_what_is_called_by_them() {
        let name = |text: &str| Name::new(text).unwrap();
        assert_eq!(project_name(None).unwrap().as_str(), "notebook");
        assert_eq!(project_name(Some(&name("eda"))).unwrap().as_str(), "notebook-eda");
        assert!(project_name(Some(&name(&"a".repeat(48)))).is_ok());
        let failure = project_name(Some(&name(&"a".repeat(49)))).unwrap_err();
        assert!(failure.what.contains("can't be called") && failure.hint.is_some(), "{failure}");
    }
}
