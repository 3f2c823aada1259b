//! A control plane and its sites, in a directory that is gone afterwards together with all that was started in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::net::{self, Apart};

/// How long anything that is waited for may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// Looks for what is left over before giving up.
const SWEEPS_MAX: usize = 50;

pub struct World {
    dir: tempfile::TempDir,
    server: Option<Child>,
    /// HTTP and agents; both stay as they are when the control plane is started again.
    listen: [String; 2],
    agents: BTreeMap<String, Child>,
    /// What the control plane is given beside its addresses.
    server_args: Vec<String>,
    /// What the control plane and the agents, though no other command, find in their environment.
    env: Vec<(String, OsString)>,
    net: Option<Apart>,
    /// Where marks are, if not beside everything else.
    marks: Option<PathBuf>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    /// Nothing but a directory.
    pub fn empty() -> World {
        let dir = tempfile::Builder::new().prefix("tombolo-e2e-").tempdir().unwrap();
        let agents = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let listen = ["127.0.0.1:0".to_owned(), agents];
        let (agents, server_args, env) = (BTreeMap::new(), Vec::new(), Vec::new());
        World { dir, server: None, listen, agents, server_args, env, net: None, marks: None }
    }

    /// A control plane without sites at an address of this machine that others reach.
    pub fn start_at(ip: &str, env: Vec<(String, OsString)>) -> World {
        let mut world = World::empty();
        let agents = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().to_string();
        world.listen = [format!("{ip}:0"), agents];
        world.env = env;
        world.start_server();
        world
    }

    /// From now on marks are in a directory that anybody may write to; which.
    pub fn share_marks(&mut self) -> PathBuf {
        let dir = self.path("shared");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let marks = dir.join("marks");
        // Whoever comes first would be the only one who may add to it.
        fs::write(&marks, "").unwrap();
        fs::set_permissions(&marks, fs::Permissions::from_mode(0o666)).unwrap();
        self.marks = Some(marks);
        dir
    }

    /// A control plane with a relay, and two sites, `a` and `b`, that reach it and not each other.
    pub fn apart(net: Apart) -> World {
        let at = |port: u16| format!("{}:{port}", net::CONTROL);
        let mut world = World::empty();
        world.net = Some(net);
        world.listen = [at(7070), at(7071)];
        world.server_args = vec!["--relay-listen".to_owned(), at(7072)];
        world.start_server();
        world.join("a", &[]);
        world.join("b", &[]);
        world
    }

    pub fn net(&self) -> &Apart {
        self.net.as_ref().expect("this world has a network of its own")
    }

    /// A control plane without sites that, like the agents that come, finds something in its environment.
    pub fn start_with_env(env: Vec<(String, OsString)>) -> World {
        let mut world = World::empty();
        world.env = env;
        world.start_server();
        world
    }

    /// A control plane without sites.
    pub fn start() -> World {
        let mut world = World::empty();
        world.start_server();
        world
    }

    /// Each site has a label `name` beside what is given.
    pub fn with_sites(sites: &[(&str, &[&str])]) -> World {
        let mut world = World::start();
        for (name, facts) in sites {
            world.join(name, facts);
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The control plane's, as `host:port`.
    pub fn address(&self) -> String {
        self.listen[0].clone()
    }

    pub fn site_dir(&self, site: &str) -> PathBuf {
        self.path("sites").join(site)
    }

    pub fn start_server(&mut self) {
        let context = self.path("context.json");
        let _ = fs::remove_file(&context);
        let mut command = self.command("server");
        command.args(["server", "--listen", &self.listen[0], "--agent-listen", &self.listen[1]]);
        command.args(&self.server_args);
        self.server = Some(command.spawn().unwrap());
        let address = wait(SOON, "the control plane serves", || {
            let context: Value = serde_json::from_slice(&fs::read(&context).ok()?).ok()?;
            Some(context["address"].as_str()?.trim_start_matches("http://").to_owned())
        });
        self.listen[0] = address;
    }

    /// kill -9.
    pub fn kill_server(&mut self) {
        end(self.server.take().expect("it runs"));
    }

    /// Waits until the control plane has ended by itself; how.
    pub fn wait_server_end(&mut self) -> std::process::ExitStatus {
        let mut server = self.server.take().expect("it runs");
        wait(SOON, "the control plane has ended", || server.try_wait().unwrap())
    }

    /// Pids of the control plane and the agents.
    pub fn pids(&self) -> Vec<u32> {
        self.server.iter().chain(self.agents.values()).map(Child::id).collect()
    }

    pub fn join(&mut self, site: &str, facts: &[&str]) {
        let token = self.ok(&["site", "token", "--site", site]);
        self.join_with(site, &token, facts);
    }

    pub fn join_with(&mut self, site: &str, token: &str, facts: &[&str]) {
        let address = self.address();
        let mut command = self.command(site);
        command.args(["agent", "join", &address, "--token", token.trim(), "--name", site]);
        command.args(["--cpus", "8", "--memory", "4GiB", "--disk", "10GiB"]).args(facts);
        self.agents.insert(site.to_owned(), command.spawn().unwrap());
        self.wait_site(site, "up");
    }

    /// As a person does who is at the site and may make tokens.
    pub fn add(&mut self, site: &str, args: &[&str]) {
        let mut command = self.command(site);
        command.args(["site", "add", site]).args(args);
        self.agents.insert(site.to_owned(), command.spawn().unwrap());
        self.wait_site(site, "up");
    }

    pub fn wait_site(&self, site: &str, status: &str) {
        wait(SOON, &format!("{site} is {status}"), || {
            let sites = self.try_json(&["site", "ls"])?;
            let is = |view: &Value| view["name"] == site && view["status"] == status;
            sites.as_array()?.iter().any(is).then_some(())
        });
    }

    /// kill -9.
    pub fn kill_agent(&mut self, site: &str) {
        end(self.agents.remove(site).expect("it runs"));
    }

    pub fn start_agent(&mut self, site: &str) {
        let mut command = self.command(site);
        command.args(["agent", "run", "--dir"]).arg(self.site_dir(site));
        self.agents.insert(site.to_owned(), command.spawn().unwrap());
    }

    /// The control plane or an agent, which lives until it is killed; what it says goes to the end of its log.
    fn command(&self, who: &str) -> Command {
        let log = self.path(&format!("{who}.log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = self.program_of(who);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("TOMBOLO_LOG", "info,iroh=error,noq=error").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// The program with this world's settings and nobody else's.
    pub fn program(&self) -> Command {
        self.program_of("server")
    }

    /// The program where the control plane or a site is in the network.
    fn program_of(&self, who: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_tombolo");
        let mut command = match &self.net {
            None => Command::new(program),
            Some(net) => net.command(who, program),
        };
        command.env_remove("TOMBOLO_SERVER").env_remove("TOMBOLO_TOKEN");
        // A test that is killed leaves neither control plane nor agents behind.
        command.env("TOMBOLO_DIE_WITH_PARENT", "1");
        command.env("TOMBOLO_HOME", self.dir.path()).env("TOMBOLO_LOG", "off");
        command
    }

    pub fn cli(&self, args: &[&str]) -> Done {
        self.cli_with(args, "")
    }

    pub fn cli_with(&self, args: &[&str], stdin: &str) -> Done {
        let mut command = self.program();
        command.args(args);
        self.finish(command, stdin)
    }

    /// Starts a command and waits until it has ended.
    pub fn finish(&self, mut command: Command, stdin: &str) -> Done {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that reads nothing may be over already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Done::of(child.wait_with_output().unwrap())
    }

    /// What a command prints, which must do what it is asked to.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.cli(args);
        assert_eq!(done.code, 0, "{args:?}: {done}\n{}", self.logs());
        done.out
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Nothing while the control plane is away.
    pub fn try_json(&self, args: &[&str]) -> Option<Value> {
        let done = self.cli(&[args, &["--output", "json"]].concat());
        (done.code == 0).then(|| serde_json::from_str(&done.out).ok()).flatten()
    }

    /// A project's directory. Stages find `$MARKS`, a file to leave marks in that no site brings or takes away.
    pub fn project(&self, name: &str, yaml: &str, files: &[(&str, &str)]) -> String {
        let dir = self.path("projects").join(name);
        for (file, text) in [("tombolo.yaml", yaml)].iter().chain(files) {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("$MARKS", &self.marks().display().to_string())).unwrap();
        }
        dir.display().to_string()
    }

    pub fn marks(&self) -> PathBuf {
        self.marks.clone().unwrap_or_else(|| self.path("marks"))
    }

    /// The marks of a stage, in order.
    pub fn marks_of(&self, stage: &str) -> Vec<String> {
        let text = fs::read_to_string(self.marks()).unwrap_or_default();
        let of = |line: &str| Some(line.strip_prefix(stage)?.strip_prefix(' ')?.to_owned());
        text.lines().filter_map(of).collect()
    }

    pub fn wait_mark(&self, stage: &str, count: usize) {
        wait(SOON, &format!("{count} marks of {stage}\n{}", self.logs()), || {
            (self.marks_of(stage).len() >= count).then_some(())
        });
    }

    /// Lets stages go that wait for a file of this name beside the marks.
    pub fn let_go(&self, name: &str) {
        fs::write(self.marks().with_file_name(name), "").unwrap();
    }

    /// Submits without waiting; the run's name.
    pub fn submit(&self, project: &str) -> String {
        self.ok(&["run", project, "--detach"]).trim().to_owned()
    }

    pub fn view(&self, run: &str) -> Value {
        self.json(&["ps", run])[0].clone()
    }

    /// Waits until a run is in one of these states; what it is then.
    pub fn wait_run(&self, run: &str, states: &[&str]) -> Value {
        self.wait_run_within(SOON, run, states)
    }

    pub fn wait_run_within(&self, limit: Duration, run: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        let found = poll(limit, || {
            last = self.try_json(&["ps", run])?[0].clone();
            states.contains(&last["state"].as_str()?).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{run} is not {states:?} in time: {last:#}\n{}", self.logs()))
    }

    pub fn wait_stage(&self, run: &str, stage: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        let found = poll(SOON, || {
            last = workload(&self.try_json(&["ps", run])?[0], stage);
            states.contains(&last["state"].as_str()?).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{run}/{stage} is not {states:?} in time: {last:#}\n{}", self.logs()))
    }

    /// The last words of everybody.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["server"].into_iter().chain(self.agents.keys().map(String::as_str)) {
            let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        text
    }

    /// Pids of what was started in this world by its agents and still runs, with their command lines.
    pub fn shims(&self, words: &str) -> Vec<i32> {
        let wanted = |(pid, line): (i32, String)| line.contains(words).then_some(pid);
        processes_of(self.dir.path()).into_iter().filter_map(wanted).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, child) in std::mem::take(&mut self.agents) {
            end(child);
        }
        if let Some(server) = self.server.take() {
            end(server);
        }
        for _ in 0..SWEEPS_MAX {
            let left = processes_of(self.dir.path());
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                kill_pid(pid);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Done {
    pub fn of(output: std::process::Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {}\n{}\n{}", self.code, self.out, self.err)
    }
}

/// A stage or service of a run as `ps` shows it.
pub fn workload(view: &Value, name: &str) -> Value {
    let workloads = view["workloads"].as_array().cloned().unwrap_or_default();
    workloads.into_iter().find(|workload| workload["name"] == name).unwrap_or(Value::Null)
}

/// `a succeeded, b failed`.
pub fn states(view: &Value) -> String {
    let one = |workload: &Value| {
        format!("{} {}", workload["name"].as_str().unwrap_or("?"), workload["state"].as_str().unwrap_or("?"))
    };
    let mut states: Vec<String> = view["workloads"].as_array().into_iter().flatten().map(one).collect();
    states.sort();
    states.join(", ")
}

/// Asks again and again, up to a limit.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

pub fn wait<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll(limit, look).unwrap_or_else(|| panic!("not in {limit:?}: {what}"))
}

pub fn kill_pid(pid: i32) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Processes whose command line or environment names a directory; zombies have neither.
pub fn processes_of(dir: &Path) -> Vec<(i32, String)> {
    let name = dir.display().to_string().trim_end_matches('/').to_owned();
    let this = i32::try_from(std::process::id()).unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let [line, environment] = ["cmdline", "environ"].map(|file| String::from_utf8_lossy(&read(file)).into_owned());
        if pid != this && (line.contains(&name) || environment.contains(&name)) {
            found.push((pid, line.replace('\0', " ")));
        }
    }
    found
}

/// Versions of a run's outputs by name.
pub fn outputs(view: &Value) -> BTreeMap<String, String> {
    let versions = view["workloads"].as_array().unwrap().iter().flat_map(|workload| {
        let outputs = workload["outputs"].as_object().cloned().unwrap_or_default();
        outputs.into_iter().map(|(name, output)| (name, output["version"].as_str().unwrap().to_owned()))
    });
    versions.collect()
}

/// Bytes that don't compress, so that they are found in a store as they are.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut draw = draws(seed);
    std::iter::repeat_with(|| draw(256) as u8).take(length).collect()
}

/// Numbers below what is asked for, the same ones for the same seed (xorshift).
pub fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) % below
    }
}

/// Whether tests may install Python packages.
pub fn may_install() -> bool {
    std::env::var_os("TOMBOLO_E2E").is_some_and(|value| value != "0")
}

/// Says that a test, or a part of it, can't be tried here. `cargo xtask test` lists these words in its summary.
pub fn left_out(why: &str) {
    println!("SKIPPED: {why}");
}

/// Every file below a directory with its bytes, by its path from there.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.insert(name, fs::read(path).unwrap_or_default());
            }
        }
    }
    files
}
