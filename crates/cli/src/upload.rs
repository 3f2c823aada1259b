//! Getting files into the store of a site that is on this machine, and making them known.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::ProgressBar;
use tombolo_api::wire::{NewVersion, SiteView, VersionInfo};
use tombolo_core::expect::Expect;
use tombolo_core::facts::Facts;
use tombolo_core::residency::Term;
use tombolo_core::sketch::Sketch;
use tombolo_core::{Name, Residency, SiteId};
use tombolo_data::{AddOptions, Added, Hold, SiteKey, Store, StoreOptions};

use crate::failure::Failure;
use crate::home::LocalSite;
use crate::inspect;
use crate::progress;
use crate::session::Session;

/// The sites of this machine that the control plane knows and has not revoked, the best first.
pub struct Nearest(Vec<(LocalSite, SiteView)>);

impl Nearest {
    pub async fn find(session: &Session) -> Result<Nearest, Failure> {
        let local = session.home.local_sites()?;
        let known: Vec<SiteView> = session.all("/v1/sites").await?;
        let mut known: BTreeMap<String, SiteView> = known.into_iter().map(|site| (site.name.clone(), site)).collect();
        // Another control plane's site on this machine may have the same name.
        let same = |site: &LocalSite, view: &SiteView| site.key.is_empty() || site.key == view.key;
        let mut sites = Vec::new();
        for site in local {
            if known.get(site.name.as_str()).is_some_and(|view| same(&site, view)) {
                let view = known.remove(site.name.as_str());
                sites.extend(view.map(|view| (site, view)));
            }
        }
        sites.retain(|(_, view)| view.status != "revoked");
        // Stable, so that among equals those with a living agent stay first.
        sites.sort_by_key(|(_, view)| view.status != "up");
        Ok(Nearest(sites))
    }

    /// The site for bytes of this residency: one that a rule names before one that it merely allows.
    pub fn for_residency(&self, what: &str, residency: &Residency) -> Result<&LocalSite, Failure> {
        let allowed = |(site, view): &&(LocalSite, SiteView)| residency.allows(&site.name, &view.labels);
        let named = |site: &LocalSite| {
            let term = Term::Site(site.name.clone());
            residency.0.iter().any(|selector| selector.0.contains(&term))
        };
        let mut sites: Vec<&(LocalSite, SiteView)> = self.0.iter().filter(allowed).collect();
        sites.sort_by_key(|(site, _)| !named(site));
        match sites.first() {
            Some((site, _)) => Ok(site),
            None if self.0.is_empty() => Err(Failure::usage(format!("there is no site on this machine for {what}"))
                .because("what is added goes into the store of a site whose agent was started here")
                .hint("start one: tombolo agent join <address> --token <token> --name <name>")),
            None => {
                let names: Vec<&str> = self.0.iter().map(|(site, _)| site.name.as_str()).collect();
                Err(Failure::usage(format!("{what} may be at no site of this machine"))
                    .because(format!("it may only be at {residency}; here are {}", names.join(", ")))
                    .hint("run this where such a site's agent runs, or start one here: tombolo agent join"))
            }
        }
    }

    /// The site of this name, if bytes of this residency may be there.
    pub fn named(&self, name: &SiteId, what: &str, residency: &Residency) -> Result<&LocalSite, Failure> {
        let Some((site, view)) = self.0.iter().find(|(site, _)| site.name == *name) else {
            return Err(Failure::usage(format!("site {name} is not on this machine"))
                .hint("run this where its agent runs, or leave out --site"));
        };
        match residency.forbids(name, &view.labels) {
            Some(rule) => {
                Err(Failure::usage(format!("{what} may not be at {name}")).because(format!("it may only be at {rule}")))
            }
            None => Ok(site),
        }
    }

    pub fn sites(&self) -> impl Iterator<Item = (&LocalSite, &SiteView)> {
        self.0.iter().map(|(site, view)| (site, view))
    }
}

pub async fn open(site: &LocalSite) -> Result<Store, Failure> {
    let (dir, key) = (site.store_dir.clone(), site.store_key.clone());
    blocking(move || {
        let key = key.as_deref().map(SiteKey::load).transpose()?;
        Store::open(dir, StoreOptions { create: false, key, ..StoreOptions::default() })
    })
    .await
}

/// What was added; gc leaves it alone for as long as this lives.
pub struct Stored {
    pub added: Added,
    pub site: SiteId,
    /// Of data: what was found in it.
    pub facts: Facts,
    sketch: Sketch,
    _hold: Hold,
}

/// Adds a directory or file to a site's store, with a bar of its own.
pub async fn add(site: &LocalSite, what: &str, path: &Path, ignore: Vec<String>) -> Result<Stored, Failure> {
    let store = open(site).await?;
    let bar = progress::bytes(what);
    let options = AddOptions { ignore, progress: Some(show(&bar)), ..AddOptions::default() };
    let path = path.to_owned();
    let done = blocking(move || {
        let added = store.add_tree(path, &options)?;
        let hold = store.hold(added.version)?;
        let sketch = store.sketch(added.version)?;
        Ok((added, sketch, hold))
    });
    let done = done.await;
    bar.finish_and_clear();
    let (added, sketch, _hold) = done
        .map_err(|failure: Failure| Failure { what: format!("{what} can't be added: {}", failure.what), ..failure })?;
    Ok(Stored { added, site: site.name.clone(), facts: Facts::default(), sketch, _hold })
}

/// Adds a dataset, and looks at it meanwhile.
pub async fn dataset(
    site: &LocalSite,
    name: &Name,
    path: &Path,
    expect: Option<&Expect>,
    residency: &Residency,
) -> Result<Stored, Failure> {
    let look = inspect::begin(name.as_str(), path, expect);
    let mut stored = add(site, name.as_str(), path, Vec::new()).await?;
    stored.facts = inspect::finish(look, expect, residency).await?;
    Ok(stored)
}

/// Tells the control plane of what a site's store has.
pub async fn announce(
    session: &Session,
    stored: &Stored,
    dataset: Option<&Name>,
    residency: &Residency,
) -> Result<VersionInfo, Failure> {
    let body = NewVersion {
        version: stored.added.version,
        bytes: stored.added.bytes,
        files: stored.added.files,
        site: stored.site.clone(),
        dataset: dataset.cloned(),
        residency: residency.clone(),
        facts: stored.facts.clone(),
        sketch: Some(stored.sketch.clone()),
    };
    Ok(session.create("/v1/versions", &body).await?)
}

/// `raw: 12 MiB in 1 file at onprem, 3.1 MiB of it new`.
pub fn line(what: &str, stored: &Stored) -> String {
    let Added { version, files, bytes, bytes_new, chunks_new, .. } = stored.added;
    let amount = tombolo_core::resources::bytes;
    let plural = if files == 1 { "file" } else { "files" };
    let new = match chunks_new {
        0 => "unchanged".to_owned(),
        _ => format!("{} of it new", amount(bytes_new)),
    };
    format!("{what}: {} in {files} {plural} at {}, {new} (version {})", amount(bytes), stored.site, version.short())
}

pub fn show(bar: &ProgressBar) -> tombolo_data::Progress {
    let bar = bar.clone();
    std::sync::Arc::new(move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
}

/// Work with a store, on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, tombolo_data::DataError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done.map_err(Failure::from),
        Err(panic) => Err(Failure::system("work with the chunk store ended unexpectedly").because(panic)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Selector;

    fn nearest(names: &[(&str, &str)]) -> Nearest {
        let site = |(name, region): &(&str, &str)| {
            let local = LocalSite {
                key: String::new(),
                name: SiteId::new(*name).unwrap(),
                site_dir: "/".into(),
                store_dir: "/".into(),
                store_key: None,
                pid: 1,
            };
            let view = SiteView {
                name: (*name).into(),
                labels: BTreeMap::from([("region".to_owned(), (*region).to_owned())]),
                capacity: Default::default(),
                free: Default::default(),
                prices: Default::default(),
                status: "up".into(),
                draining: false,
                drain: None,
                heard: None,
                workloads: 0,
                key: String::new(),
                gateway: None,
            };
            (local, view)
        };
        Nearest(names.iter().map(site).collect())
    }

    #[test]
    fn a_site_that_the_rule_names_comes_first() {
        let here = nearest(&[("cloud", "us"), ("onprem", "eu")]);
        let check = |residency: Residency, site: Result<&str, &str>| {
            let found = here.for_residency("raw", &residency);
            let found = found.as_ref().map(|site| site.name.as_str()).map_err(|failure| failure.what.as_str());
            assert_eq!(found, site);
        };
        check(Residency::anywhere(), Ok("cloud"));
        check(Residency::keep_at(Selector::site(SiteId::new("onprem").unwrap())), Ok("onprem"));
        check(Residency::keep_at(Selector::label("region", "eu")), Ok("onprem"));
        check(Residency::keep_at(Selector::label("region", "cn")), Err("raw may be at no site of this machine"));
        let failure = nearest(&[]).for_residency("code", &Residency::anywhere()).err().unwrap();
        assert_eq!(failure.what, "there is no site on this machine for code");
    }

    #[test]
    fn a_named_site_must_be_allowed() {
        let here = nearest(&[("cloud", "us")]);
        let (cloud, rule) = (SiteId::new("cloud").unwrap(), Residency::keep_at(Selector::label("region", "eu")));
        assert!(here.named(&cloud, "raw", &Residency::anywhere()).is_ok());
        let failure = here.named(&cloud, "raw", &rule).unwrap_err();
        assert_eq!(failure.why.as_deref(), Some("it may only be at {region: eu}"));
        assert!(here.named(&SiteId::new("mars").unwrap(), "raw", &rule).is_err());
    }
}
