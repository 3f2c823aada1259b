//! What the command line remembers on this machine: which control plane it talks to, and which sites are here.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tombolo_core::{Name, SiteId};

use crate::failure::Failure;

/// Sites of this machine that are looked at.
const LOCAL_SITES_MAX: usize = 1_000;

/// `$TOMBOLO_HOME`, or `~/.tombolo`.
#[derive(Debug, Clone)]
pub struct Home(pub PathBuf);

/// `context.json`: the control plane that is used where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Such as `http://127.0.0.1:7070`.
    pub address: String,
    pub token_file: PathBuf,
}

/// `notebooks/<project>.json`: what opens a notebook that was started from this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notebook {
    /// The control plane that has it.
    pub server: String,
    pub token: String,
}

/// Characters of a site's key in its file's name.
const KEY_SHOWN: usize = 16;

/// `local-sites/<name>.<key>.json`: a site whose agent was started on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSite {
    pub name: SiteId,
    /// The agent's public key: another control plane's site may have the same name. Empty where an older program wrote.
    #[serde(default)]
    pub key: String,
    pub site_dir: PathBuf,
    pub store_dir: PathBuf,
    /// The file of the key that the store is encrypted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_key: Option<PathBuf>,
    pub pid: u32,
}

impl LocalSite {
    /// Whether its agent's process is there.
    pub fn is_alive(&self) -> bool {
        i32::try_from(self.pid).is_ok_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok())
    }
}

impl Home {
    pub fn find() -> Result<Home, Failure> {
        if let Some(home) = std::env::var_os("TOMBOLO_HOME").filter(|home| !home.is_empty()) {
            return std::path::absolute(home)
                .map(Home)
                .map_err(|error| Failure::usage("$TOMBOLO_HOME is no path").because(error));
        }
        match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(Home(PathBuf::from(home).join(".tombolo"))),
            None => Err(Failure::usage("there is no home directory to keep settings in")
                .because("neither $TOMBOLO_HOME nor $HOME is set")
                .hint("set TOMBOLO_HOME to a directory of your own")),
        }
    }

    pub fn server_dir(&self) -> PathBuf {
        self.0.join("server")
    }

    /// Where an agent keeps its site unless told otherwise.
    pub fn site_dir(&self, site: &SiteId) -> PathBuf {
        self.0.join("sites").join(site.as_str())
    }

    fn context_file(&self) -> PathBuf {
        self.0.join("context.json")
    }

    fn local_sites_dir(&self) -> PathBuf {
        self.0.join("local-sites")
    }

    pub fn context(&self) -> Result<Option<Context>, Failure> {
        read(&self.context_file())
    }

    /// Where the projects are that `tombolo notebook` makes.
    pub fn notebooks_dir(&self) -> PathBuf {
        self.0.join("notebooks")
    }

    fn notebook_file(&self, project: &Name) -> PathBuf {
        self.notebooks_dir().join(format!("{project}.json"))
    }

    pub fn notebook(&self, project: &Name) -> Result<Option<Notebook>, Failure> {
        read(&self.notebook_file(project))
    }

    pub fn write_notebook(&self, project: &Name, notebook: &Notebook) -> Result<(), Failure> {
        write(&self.notebook_file(project), notebook)
    }

    pub fn write_context(&self, context: &Context) -> Result<(), Failure> {
        write(&self.context_file(), context)
    }

    pub fn remove_context(&self) -> Result<(), Failure> {
        let file = self.context_file();
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(&file, error)),
            _ => Ok(()),
        }
    }

    pub fn write_local_site(&self, site: &LocalSite) -> Result<(), Failure> {
        let key: String = site.key.chars().take(KEY_SHOWN).collect();
        write(&self.local_sites_dir().join(format!("{}.{key}.json", site.name)), site)
    }

    /// The sites of this machine whose stores are there, those with a living agent first, then by name.
    pub fn local_sites(&self) -> Result<Vec<LocalSite>, Failure> {
        let dir = self.local_sites_dir();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unusable(&dir, error)),
        };
        let mut sites = Vec::new();
        for entry in entries.take(LOCAL_SITES_MAX) {
            let path = entry.map_err(|error| unusable(&dir, error))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                sites.extend(read::<LocalSite>(&path)?.filter(|site| site.store_dir.is_dir()));
            }
        }
        sites.sort_by_key(|site| (!site.is_alive(), site.name.clone(), site.key.clone()));
        Ok(sites)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Failure::system(format!("{} can't be understood", path.display()))
            .because(error)
            .hint("remove it; `tombolo server` and `tombolo agent run` write what they need anew")
    })
}

/// Whole or not at all, and only for its owner.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let text = serde_json::to_vec_pretty(value).expect("plain data");
    let tmp = path.with_extension(format!("tmp{}", std::process::id()));
    let written = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        file.write_all(&text)?;
        std::fs::rename(&tmp, path)
    });
    written.map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, error: std::io::Error) -> Failure {
    Failure::system(format!("{} can't be used", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().join("deep/home"));
        assert!(home.context().unwrap().is_none() && home.local_sites().unwrap().is_empty());
        let context = Context { address: "http://127.0.0.1:7070".into(), token_file: "/t".into() };
        home.write_context(&context).unwrap();
        assert_eq!(home.context().unwrap(), Some(context));

        let store_dir = dir.path().join("store");
        std::fs::create_dir(&store_dir).unwrap();
        let site = |name: &str, pid: u32, store_dir: PathBuf| LocalSite {
            key: String::new(),
            name: SiteId::new(name).unwrap(),
            site_dir: dir.path().into(),
            store_dir,
            store_key: None,
            pid,
        };
        // No process has the highest pid there is, and a store that is gone is no site.
        let dead = site("a", i32::MAX as u32, store_dir.clone());
        let alive = site("b", std::process::id(), store_dir);
        let gone = site("c", std::process::id(), dir.path().join("nowhere"));
        for site in [&dead, &alive, &gone] {
            home.write_local_site(site).unwrap();
        }
        assert_eq!(home.local_sites().unwrap(), [alive, dead]);
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().into());
        std::fs::write(dir.path().join("context.json"), "{").unwrap();
        let failure = home.context().unwrap_err();
        assert!(failure.what.contains("context.json can't be understood") && failure.hint.is_some(), "{failure}");
    }
}
