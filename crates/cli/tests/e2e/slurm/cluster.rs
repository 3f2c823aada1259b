//! A Slurm of two nodes on this machine, from the system's packages, gone with the test.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::world::{poll, processes_of, wait};

const CONF: &str = include_str!("slurm.conf");
const UP_MAX: Duration = Duration::from_secs(90);
/// Debian keeps daemons where a user's PATH doesn't look.
const SBIN: &str = "/usr/sbin";

pub struct Cluster {
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
    slurmctld: Option<Child>,
}

impl Cluster {
    /// Or why there can't be one.
    pub fn start() -> Result<Cluster, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("Slurm's daemons need root".to_owned());
        }
        let dir = tempfile::Builder::new().prefix("tombolo-slurm-").tempdir().unwrap();
        let place = dir.path().display().to_string();
        for part in ["state", "spool.n1", "spool.n2"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let mut conf = CONF.replace("DIR", &place).replace("HOST", host.trim());
        for port in ["CTLD_PORT", "N1_PORT", "N2_PORT"] {
            conf = conf.replace(port, &free_port());
        }
        fs::write(dir.path().join("slurm.conf"), conf).unwrap();
        let mut cluster = Cluster { dir, daemons: Vec::new(), slurmctld: None };
        cluster.munge();
        cluster.start_controller();
        for node in ["n1", "n2"] {
            let daemon = cluster.daemon("slurmd", &["-N", node]);
            cluster.daemons.push(daemon);
        }
        let idle = poll(UP_MAX, || {
            let nodes = cluster.say("sinfo", &["--noheader", "--Node", "--format=%t"]);
            (nodes.split_whitespace().filter(|state| *state == "idle").count() == 2).then_some(())
        });
        idle.ok_or_else(|| format!("Slurm doesn't come up:\n{}", cluster.logs()))?;
        Ok(cluster)
    }

    /// What Slurm's commands find it by.
    pub fn env(&self) -> Vec<(String, OsString)> {
        vec![("SLURM_CONF".to_owned(), self.path("slurm.conf").into_os_string())]
    }

    /// What a command of Slurm's prints; nothing where it fails.
    pub fn say(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).envs(self.env()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The jobs in the queue: number, state and name.
    pub fn jobs(&self) -> Vec<(String, String, String)> {
        let queue = self.say("squeue", &["--noheader", "--states=all", "--format=%i|%T|%j"]);
        let row = |line: &str| {
            let mut columns = line.splitn(3, '|').map(str::to_owned);
            Some((columns.next()?, columns.next()?, columns.next()?))
        };
        queue.lines().filter_map(row).collect()
    }

    /// The number of the job of a placement, such as `p-1/train.1`, once it is in this state.
    pub fn wait_job(&self, placement: &str, state: &str) -> String {
        wait(UP_MAX, &format!("the job of {placement} is {state}\n{}", self.logs()), || {
            let is = |(_, found, name): &(String, String, String)| name.ends_with(placement) && found == state;
            self.jobs().into_iter().find(is).map(|(id, _, _)| id)
        })
    }

    pub fn stop_controller(&mut self) {
        end(self.slurmctld.take().expect("it runs"));
    }

    pub fn start_controller(&mut self) {
        self.slurmctld = Some(self.daemon("slurmctld", &[]));
    }

    fn munge(&mut self) {
        let key = self.path("munge.key");
        let mut bytes = vec![0; 1024];
        std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        // Forced: a directory for its owner alone is a mistake to munged.
        let mut command = self.command("munged", &["--foreground", "--force"]);
        for (option, file) in [("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"), ("seed-file", "seed")] {
            command.arg(format!("--{option}={}", self.path(&format!("munge.{file}")).display()));
        }
        self.daemons.push(command.spawn().expect("munged"));
        wait(UP_MAX, "munged listens", || self.path("munge.sock").exists().then_some(()));
    }

    fn daemon(&self, program: &str, args: &[&str]) -> Child {
        let mut command = self.command(program, &["-D", "-f"]);
        command.arg(self.path("slurm.conf")).args(args).spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let log = self.path(&format!("{program}.log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(format!("{SBIN}/{program}"));
        command.args(args).envs(self.env());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
        };
        format!("{}\n{}", tail("slurmctld.log"), tail("slurmd.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let daemons = std::mem::take(&mut self.daemons);
        daemons.into_iter().chain(self.slurmctld.take()).for_each(end);
        // Steps outlive the daemon that started them.
        for (pid, _) in processes_of(self.dir.path()) {
            crate::world::kill_pid(pid);
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A port that nobody has now.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}
