//! `tombolo agent`: this machine as a site.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use tombolo_agent::driver::slurm::{self, SlurmConfig};
use tombolo_agent::{AgentError, AgentOptions, Encrypt, JoinOptions, Started, is_public};
use tombolo_core::site::SiteInfo;
use tombolo_core::{Millis, Resources, SiteId};

use crate::failure::{self, Failure};
use crate::home::{Home, LocalSite};
use crate::logs::span;
use crate::site::facts::{FactOptions, SiteFile, bytes};

const EXAMPLES: &str = "\
Examples:
  tombolo agent join 127.0.0.1:7070 --token <token> --name onprem --label visibility=private
  tombolo agent join control.example:7070 --token <token> --site-file site.yaml
  tombolo agent join control.example:7070 --token <token> --name cloud --store s3://bucket/tombolo
  tombolo agent join control.example:7070 --token <token> --name lab --encrypt on
  tombolo agent join control.example:7070 --token <token> --name hpc --slurm --partition gpu --dir /shared/me/hpc
  tombolo agent run --dir ~/.tombolo/sites/onprem

`tombolo site token` makes the token to join with. An agent dials out and needs no port that others can reach.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Agent {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a control plane as a new site, then run
    Join(Box<Join>),
    /// Run a site that has joined
    Run(RunAgain),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Join {
    /// The control plane's address
    address: String,
    /// The join token: for one site, once
    #[arg(long = "token", id = "token", value_name = "TOKEN", env = "TOMBOLO_JOIN_TOKEN", hide_env_values = true)]
    join_token: Option<String>,
    /// The site's name
    #[arg(long)]
    name: Option<SiteId>,
    /// Run the site if it has joined already, with what its site file says of Kubernetes now
    #[arg(long, requires = "dir")]
    or_run: bool,
    #[command(flatten)]
    place: Place,
}

/// What a site is to be; the same whoever brings the token.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    slurm: SlurmOptions,
    /// Where the site's data, work and keys are; ~/.tombolo/sites/<name> unless given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Labels, prices and capacity as YAML; options go before it
    #[arg(long, value_name = "FILE")]
    site_file: Option<PathBuf>,
    /// A bucket that is the site's store: s3://, gs:// or az://; credentials come from the environment
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Whether a new store is encrypted; on where the site has the label visibility=public, off elsewhere
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    encrypt: Option<Encrypt>,
    /// The key of an encrypted store: a file with 64 hex digits. Sites that share a bucket share its key; without this
    /// one is made in the site's directory
    #[arg(long, value_name = "FILE")]
    store_key: Option<PathBuf>,
    /// Only join
    #[arg(long)]
    no_run: bool,
    #[command(flatten)]
    facts: FactOptions,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
struct SlurmOptions {
    /// The site is the Slurm cluster of this login node: shims become jobs, and --dir is on a file system that the nodes
    /// share
    #[arg(long, requires = "dir")]
    slurm: bool,
    /// The partition for jobs; the cluster's default unless given
    #[arg(long, requires = "slurm")]
    partition: Option<String>,
    /// The account for jobs; the user's default unless given
    #[arg(long, requires = "slurm")]
    account: Option<String>,
    /// A further option for sbatch, such as --sbatch=--qos=high; may be repeated
    #[arg(long = "sbatch", requires = "slurm", value_name = "OPTION", allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Place {
    pub fn site_file(&self) -> Result<SiteFile, Failure> {
        Ok(self.site_file.as_deref().map(SiteFile::load).transpose()?.unwrap_or_default())
    }

    pub fn facts(&self) -> &FactOptions {
        &self.facts
    }

    pub fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// The directory, if it is that of a site that has joined; what is said of its cluster now is kept there.
    fn joined(&self) -> Result<Option<PathBuf>, Failure> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let kubernetes = self.site_file()?.kubernetes;
        Ok(tombolo_agent::rejoin(dir, kubernetes).map_err(told)?.then(|| dir.clone()))
    }
}

impl SlurmOptions {
    fn config(&self) -> Option<SlurmConfig> {
        let SlurmOptions { slurm, partition, account, options } = self;
        slurm.then(|| SlurmConfig { partition: partition.clone(), account: account.clone(), options: options.clone() })
    }
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct RunAgain {
    /// The site's directory
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Args)]
struct Running {
    /// The UDP address for other sites; loopback where the control plane is on this machine
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where to serve endpoints, over TCP; unless given where it was before, or at any port of this machine's loopback
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<SocketAddr>,
    /// How old what nobody needs must be for gc to take it; an hour unless given
    #[arg(long, value_parser = span, value_name = "SPAN")]
    gc_grace: Option<Millis>,
    /// Memory for data on its way here, over all transfers; 64 MiB unless given
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    transit: Option<u64>,
}

pub async fn run(args: Agent) -> Result<(), Failure> {
    let home = Home::find()?;
    match args.verb {
        Verb::Run(args) => run_agent(&home, args.dir, args.running).await,
        Verb::Join(args) => {
            let Join { address, join_token, name, or_run, place } = *args;
            if or_run && let Some(dir) = place.joined()? {
                return run_agent(&home, dir, place.running).await;
            }
            let join_token = join_token.ok_or_else(|| {
                Failure::usage("there is no token to join with")
                    .hint("make one with tombolo site token, and give it with --token")
            })?;
            let address = if address.contains("://") { address } else { format!("http://{address}") };
            add(&home, address, join_token, name, place).await
        }
    }
}

/// Joins with a token, then runs what has joined.
pub async fn add(
    home: &Home,
    address: String,
    token: String,
    name: Option<SiteId>,
    place: Place,
) -> Result<(), Failure> {
    let dir = join(home, address, token, name, &place).await?;
    if place.no_run {
        eprintln!("start it: tombolo agent run --dir {}", dir.display());
        return Ok(());
    }
    run_agent(home, dir, place.running).await
}

/// Joins, and says where the site is.
async fn join(
    home: &Home,
    address: String,
    token: String,
    name: Option<SiteId>,
    args: &Place,
) -> Result<PathBuf, Failure> {
    let file = args.site_file()?;
    let id = match (&name, &file.name) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => {
            SiteId::new(name.clone()).map_err(|fault| Failure::usage("the site file's name is wrong").because(fault))?
        }
        (None, None) => return Err(Failure::usage("the site has no name").hint("give one with --name")),
    };
    let dir = args.dir.clone().unwrap_or_else(|| home.site_dir(&id));
    let mut capacity = this_machine(&dir);
    let slurm = args.slurm.config();
    if let Some(config) = &slurm {
        let nodes = slurm::capacity(config).await.map_err(|said| {
            Failure::usage("Slurm can't be asked what it has")
                .because(said)
                .hint("run this on a login node, where sinfo, sbatch, squeue and scancel work")
        })?;
        (capacity.cpus_milli, capacity.gpus) = (nodes.cpus_milli, nodes.gpus);
        if nodes.memory_bytes > 0 {
            capacity.memory_bytes = nodes.memory_bytes;
        }
    }
    file.change_capacity(&mut capacity)?;
    args.facts.change_capacity(&mut capacity)?;
    let mut labels = file.labels;
    args.facts.change_labels(&mut labels)?;
    let mut prices = file.prices.into();
    args.facts.change_prices(&mut prices)?;
    let info = SiteInfo { id: id.clone(), labels, capacity, prices, containers: file.containers };
    let options = JoinOptions {
        address,
        token,
        dir: dir.clone(),
        info,
        store: args.store.clone(),
        encrypt: args.encrypt.unwrap_or_default(),
        store_key: args.store_key.clone(),
        slurm,
        kubernetes: file.kubernetes,
    };
    let config = tombolo_agent::join(options).await.map_err(told)?;
    eprintln!("site {id} has joined; it is in {}", dir.display());
    if let Some(key) = &config.store_key {
        let key = dir.join(key);
        eprintln!("its store is encrypted: keep a copy of {}, nothing can be read without it", key.display());
    } else if args.encrypt.is_none() && is_public(&config.info) {
        eprintln!("its store was made before, and is not encrypted");
    }
    Ok(dir)
}

fn on_or_off(text: &str) -> Result<Encrypt, String> {
    match text {
        "on" => Ok(Encrypt::On),
        "off" => Ok(Encrypt::Off),
        _ => Err("it is either on or off".to_owned()),
    }
}

async fn run_agent(home: &Home, dir: PathBuf, running: Running) -> Result<(), Failure> {
    let dir = std::path::absolute(&dir)
        .map_err(|error| Failure::usage(format!("{} is no path", dir.display())).because(error))?;
    let this =
        std::env::current_exe().map_err(|error| Failure::system("this program can't find itself").because(error))?;
    let options = AgentOptions {
        dir: dir.clone(),
        shim_command: vec![this.into_os_string(), OsString::from("shim")],
        listen: running.listen,
        gc_grace: running.gc_grace.map(|span| Duration::from_millis(span.0)),
        transfer_bytes: running.transit,
        gateway: running.gateway,
    };
    let ran = tombolo_agent::run(options, |started| {
        eprintln!("site {} runs; endpoints are at http://{}", started.site, started.gateway);
        let Started { site: name, key, store: store_dir, store_key, gateway: _ } = started;
        let site = LocalSite { name, key, site_dir: dir, store_dir, store_key, pid: std::process::id() };
        if let Err(failure) = home.write_local_site(&site) {
            // The site works without it; `tombolo run` on this machine then doesn't know of its store.
            eprint!("{failure}");
        }
    });
    ran.await.map_err(told)
}

fn told(error: AgentError) -> Failure {
    match error {
        AgentError::Client(error) => error.into(),
        AgentError::Data(error) => error.into(),
        AgentError::NotJoined(dir) => Failure::usage(format!("{} holds no site that has joined", dir.display()))
            .hint("join with: tombolo agent join <address> --token <token> --name <name>"),
        AgentError::Joined { dir, site } => Failure::usage(format!("{} is the site {site} already", dir.display()))
            .hint(format!("start it with: tombolo agent run --dir {}", dir.display())),
        AgentError::Encryption { what, hint } => Failure::usage(what).hint(hint),
        AgentError::Running(dir) => Failure::usage(format!("another agent runs on {}", dir.display())),
        other => failure::from_system(&other),
    }
}

/// What this machine has: all its cores, its memory, and what is free on the disk of `dir`.
fn this_machine(dir: &Path) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_total(&text));
    // The directory itself may not be there yet.
    let disk = dir.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok());
    Resources {
        cpus_milli: cores * 1000,
        memory_bytes: memory.unwrap_or(0),
        disk_bytes: disk.map_or(0, |disk| disk.blocks_available() * disk.fragment_size()),
        ..Resources::default()
    }
}

/// In bytes, from `/proc/meminfo` as proc(5) describes it.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        let here = this_machine(Path::new("/nowhere/at/all"));
        assert!(here.cpus_milli >= 1000 && here.memory_bytes > 0 && here.disk_bytes > 0, "{here:?}");
    }
}
