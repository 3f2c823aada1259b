//! The command: started once, watched, stopped where need be, and all of it gone before its end is told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tombolo_core::spec::{Command, Service};
use tombolo_core::sync::Outcome;
use tombolo_core::time::Millis;

use super::commit::CHECKPOINTED;
use super::placement::{Durable, Event, Session, ShimOrder};
use super::prepare::Prepared;
use super::{Shim, Stage, Wake, files, forward, import, process, ready, sql};
use crate::cgroup::{self, Group};
use crate::clock::now;
use crate::lease::{self, Silence};
use crate::logs::Stream;

/// How long the pipes may stay open once nothing of the command is left: somebody else has inherited them then, or the
/// disk is so busy that the log is still being written.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long a port may be in use beyond the grace that whoever has it may take to stop.
const PORT_WAIT: Duration = Duration::from_secs(10);
const PORT_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pause between two rounds of killing.
const KILL_AGAIN: Duration = Duration::from_millis(5);
/// The variables that a command inherits from the agent; everything else is the order's.
const INHERITED: [&str; 26] = [
    // By which a pod with a service account finds its cluster.
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
];
const LOOPBACK: &str = "127.0.0.1";
const SIGTERM: i32 = Signal::SIGTERM as i32;
/// How a shell tells that what it ran was ended by SIGTERM.
const SIGTERM_IN_SHELL: i32 = 128 + SIGTERM;
/// How much later than its command a shim may learn that both were told to end.
const TOLD_WAIT: Duration = Duration::from_secs(1);
/// What is known of who told a command to end.
pub const EVICTED: &str = "its site told it to end, as for a time limit, a preemption or a shutdown";
/// Where no PATH is inherited.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Enters the control groups named before `--`, then becomes the command: what a command starts is in its groups
/// from its first instruction.
const ENTER: &str = "while [ \"$1\" != -- ]; do echo $$ > \"$1\" || exit 126; shift; done; shift; exec \"$@\"";

/// What was seen of a command that has ended.
#[derive(Debug, Default)]
pub struct Ran {
    pub end: End,
    pub took: Millis,
    pub memory_peak_bytes: Option<u64>,
    pub cpu: Option<Millis>,
    /// Processes that were killed for memory, and the limit.
    pub oom_kills: u64,
    pub memory_limit_bytes: u64,
    /// Why it was stopped, where it was.
    pub stopped: Option<Cause>,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub enum End {
    Code(i32),
    Signal(i32),
    /// It could not be executed.
    Refused(String),
    NoSpace(String),
    #[default]
    Unknown,
}

/// Why a command was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Asked,
    /// By a signal that did not come from Tombolo.
    Evicted,
    TimedOut {
        after: Millis,
    },
    NeverReady {
        after: Millis,
    },
}

/// Runs the command to its end. An error means that it was not started.
pub fn run(shim: &Arc<Shim>, prepared: &Prepared, mut session: Session) -> Result<Ran, Outcome> {
    let spec = &shim.order.order.spec;
    let port = spec.service().map(|service| pick_port(shim, service)).transpose()?;
    // Several sites may share a machine: the directory tells their groups apart.
    let place = blake3::hash(shim.placement.dir().as_os_str().as_encoded_bytes()).to_hex();
    let name = format!("{}.{}.{}-{}", shim.order.workload.run, shim.order.workload.name, shim.order.epoch, &place[..8]);
    let (group, warnings) = match &spec.command {
        Command::Run(_) if !shim.order.limited => Group::create(&name, &spec.resources),
        // The others run in this process, and limit themselves.
        Command::Run(_) | Command::Sql(_) | Command::Import(_) => Default::default(),
    };
    warnings.iter().for_each(|warning| shim.log.say(&format!("warning: {warning}")));
    session.cgroups = group.dirs();
    let killed_before = cgroup::oom_kills_here();
    let (wakes, woken) = mpsc::channel();
    if let Some((path, lease)) = shim.order.lease.clone().zip(spec.failover_after) {
        let mut silence = match shim.order.host.is_some() {
            true => Silence::elsewhere(path, shim.placement.dir()),
            false => Silence::here(path),
        };
        if silence.now() >= lease && !shim.placement.is_unleased() {
            shim.log.say(&format!("not started: the site has been silent for longer than its lease of {lease}"));
            return Err(Outcome::Stopped);
        }
        let (wakes, log) = (wakes.clone(), shim.clone());
        lease::watch(silence, lease, move || {
            if log.placement.is_unleased() {
                return;
            }
            log.log.say(&format!("the site has been silent for its lease of {lease}: another may start this one now"));
            let _ = wakes.send(Wake::Stop);
        });
    }
    launch(shim, &session, &wakes)?;
    let began = Instant::now();
    let mut ran = match &spec.command {
        Command::Run(command) => {
            let environment = environment(shim, prepared, port);
            let running = Running { shim, group: &group, woken: &woken, began, port };
            running.run(command, environment, wakes)
        }
        Command::Sql(query) => sql::run(shim, query, &woken, began),
        Command::Import(source) => import::run(shim, source, &woken, began),
    };
    ran.took = Millis(began.elapsed().as_millis() as u64);
    if shim.order.limited {
        ran.oom_kills = cgroup::oom_kills_here().saturating_sub(killed_before);
        ran.memory_limit_bytes = spec.resources.memory_bytes;
    }
    cgroup::remove_all(&session.cgroups);
    Ok(ran)
}

/// The point of no return.
fn launch(shim: &Shim, session: &Session, wakes: &Sender<Wake>) -> Result<(), Outcome> {
    let mut stage = shim.stage();
    // Durable, so that not even a power cut makes an epoch run twice.
    shim.append(&Event::Launched { at: now(), session: session.clone() }, Durable::Yes)
        .map_err(files::unprepared_io("can't write to the placement's directory"))?;
    *stage = Stage::Launched(wakes.clone());
    Ok(())
}

struct Running<'a> {
    shim: &'a Arc<Shim>,
    group: &'a Group,
    woken: &'a Receiver<Wake>,
    began: Instant,
    port: Option<u16>,
}

impl Running<'_> {
    fn run(&self, command: &str, environment: BTreeMap<OsString, OsString>, wakes: Sender<Wake>) -> Ran {
        let before = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
        let mut child = match self.spawn(command, environment) {
            Ok(child) => child,
            Err(error) => return Ran { end: End::Refused(format!("can't run /bin/sh: {error}")), ..Ran::default() },
        };
        let pid = child.id().cast_signed();
        if let Err(error) = self.shim.append(&Event::Running { at: now(), pid }, Durable::No) {
            // The command runs; how it ends is what has to be written down.
            crate::logs::mutter(&format!("the start can't be written down: {error}"));
        }
        let logs = self.capture(&mut child);
        if let (Some(port), Some(service)) = (self.port, self.shim.order.order.spec.service()) {
            ready::watch(port, service.ready.clone(), wakes.clone());
        }
        std::thread::spawn(move || reap(&wakes));
        let (end, stopped) = self.watch(pid);
        drain(logs);
        let after = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
        Ran {
            end,
            stopped,
            memory_peak_bytes: self.group.memory_peak_bytes().or_else(|| peak(before.as_ref(), after.as_ref())),
            cpu: self.group.cpu().or_else(|| Some(Millis(cpu_ms(&after?).saturating_sub(cpu_ms(&before?))))),
            oom_kills: self.group.oom_kills(),
            memory_limit_bytes: self.group.memory_limit_bytes,
            ..Ran::default()
        }
    }

    fn spawn(&self, command: &str, environment: BTreeMap<OsString, OsString>) -> std::io::Result<std::process::Child> {
        let mut process = Process::new("/bin/sh");
        let mut entrances = self.group.entrances().peekable();
        if entrances.peek().is_some() {
            process.args(["-c", ENTER, "sh"]).args(entrances).args(["--", "/bin/sh"]);
        }
        process.args(["-c", command]).env_clear().envs(environment).current_dir(self.shim.placement.code_dir());
        process.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    fn capture(&self, child: &mut std::process::Child) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let shim = self.shim.clone();
            threads.push(std::thread::spawn(move || shim.log.copy(Stream::Stdout, stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            let shim = self.shim.clone();
            threads.push(std::thread::spawn(move || shim.log.copy(Stream::Stderr, stderr)));
        }
        threads
    }

    /// Waits for the command, stops it where asked to or too late, then ends whatever it left behind.
    fn watch(&self, pid: i32) -> (End, Option<Cause>) {
        let spec = &self.shim.order.order.spec;
        let timeout = spec.job().and_then(|job| job.timeout);
        let mut stopped = None;
        let mut deadline = timeout.map(|timeout| self.began + Duration::from_millis(timeout.0));
        let mut end = None;
        loop {
            let cause = match self.wait(deadline) {
                Some(Wake::Exited { pid: gone, status }) if gone == pid => {
                    end = Some(End::of(status));
                    // Told to stop, a shell ends at once, and what it has started may still be saving.
                    if stopped.is_none() {
                        let wait = if may_be_told(end.as_ref()) { TOLD_WAIT } else { Duration::ZERO };
                        deadline = Some(Instant::now() + wait);
                    }
                    continue;
                }
                Some(Wake::AllGone) => {
                    let stopped = stopped.or_else(|| self.told_late(end.as_ref()));
                    return (end.unwrap_or_default(), stopped);
                }
                Some(Wake::Exited { status, .. }) => {
                    let told = matches!(stopped, Some(Cause::Asked | Cause::Evicted))
                        && end == Some(End::Signal(Signal::SIGTERM as i32));
                    if told && End::of(status) == End::Code(CHECKPOINTED) {
                        end = Some(End::Code(CHECKPOINTED));
                    }
                    continue;
                }
                Some(Wake::Ready) => {
                    self.tell_ready();
                    continue;
                }
                Some(Wake::Stop) => Cause::Asked,
                Some(Wake::Evicted) => Cause::Evicted,
                Some(Wake::NeverReady) => Cause::NeverReady { after: ready::limit(spec.service()) },
                // The time is up: to kill, where the command has ended or was told to, else to stop.
                None if end.is_some() || stopped.is_some() => {
                    self.kill();
                    deadline = Some(Instant::now() + KILL_AGAIN);
                    continue;
                }
                None => Cause::TimedOut { after: timeout.unwrap_or_default() },
            };
            if stopped.is_none() && may_be_told(end.as_ref()) {
                // All processes were told at once; what the command has started may still be saving.
                stopped = Some(cause);
                deadline = Some(Instant::now() + Duration::from_millis(spec.grace.0));
            }
            if end.is_none() && stopped.is_none() {
                stopped = Some(cause);
                self.say_stopping(cause, spec.grace);
                let _ = killpg(Pid::from_raw(pid), Signal::SIGTERM);
                deadline = Some(Instant::now() + Duration::from_millis(spec.grace.0));
            }
        }
    }

    /// Why a command was ended by SIGTERM, where this process is told so a moment after it.
    fn told_late(&self, end: Option<&End>) -> Option<Cause> {
        match may_be_told(end).then(|| self.woken.recv_timeout(TOLD_WAIT)) {
            Some(Ok(Wake::Stop)) => Some(Cause::Asked),
            Some(Ok(Wake::Evicted)) => Some(Cause::Evicted),
            _ => None,
        }
    }

    /// None once the deadline is over.
    fn wait(&self, deadline: Option<Instant>) -> Option<Wake> {
        let Some(deadline) = deadline else { return self.woken.recv().ok() };
        self.woken.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// One round; whatever forks meanwhile is met in the next.
    fn kill(&self) {
        cgroup::kill_all(&self.group.dirs());
        let mut pids = process::descendants();
        pids.extend(cgroup::members_of_all(&self.group.dirs()));
        process::kill_all(&pids);
    }

    fn tell_ready(&self) {
        let host = self.shim.order.host.as_deref().map_or(Ok(IpAddr::from(Ipv4Addr::LOCALHOST)), own_address);
        let host = host.unwrap_or_else(|error| {
            self.shim.log.say(&format!("this machine has no address that the agent's can reach: {error}"));
            Ipv4Addr::LOCALHOST.into()
        });
        let port = self.port.unwrap_or_default();
        let address = forward::reachable(host, port).unwrap_or_else(|error| {
            self.shim.log.say(&format!("it listens on this machine's loopback alone, and can't be reached: {error}"));
            SocketAddr::from((host, port))
        });
        let address = address.to_string();
        self.shim.log.say(&format!("ready at {address}"));
        if let Err(error) = self.shim.append(&Event::Ready { at: now(), address }, Durable::No) {
            crate::logs::mutter(&format!("that the service is ready can't be written down: {error}"));
        }
    }

    fn say_stopping(&self, cause: Cause, grace: Millis) {
        let why = match cause {
            Cause::Asked => "stopping, as asked".to_owned(),
            Cause::Evicted => format!("stopping: {EVICTED}"),
            Cause::TimedOut { after } => format!("stopping: it ran longer than its timeout of {after}"),
            Cause::NeverReady { after } => format!("stopping: it was not ready after {after}"),
        };
        self.shim.log.say(&format!("{why}; SIGTERM now, SIGKILL in {grace}"));
    }
}

/// Whether all processes of a session may have been told to end at once, as schedulers and shutdowns do.
fn may_be_told(end: Option<&End>) -> bool {
    matches!(end, Some(End::Signal(SIGTERM) | End::Code(SIGTERM_IN_SHELL)))
}

/// By which address another machine reaches this one: the one that packets to there come from.
fn own_address(host: &str) -> std::io::Result<IpAddr> {
    if host == super::host() {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let mut last = std::io::Error::from(ErrorKind::NotFound);
    // The port means nothing: nothing is sent.
    for address in (host, 9).to_socket_addrs()? {
        let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let found = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(address)?;
            Ok(socket.local_addr()?.ip())
        });
        match found {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl End {
    fn of(status: WaitStatus) -> End {
        match status {
            WaitStatus::Exited(_, code) => End::Code(code),
            WaitStatus::Signaled(_, signal, _) => End::Signal(signal as i32),
            _ => End::Unknown,
        }
    }
}

/// Waits for every child, the adopted ones too, so that none stays as a zombie.
fn reap(wakes: &Sender<Wake>) {
    loop {
        let wake = match waitpid(None, None::<WaitPidFlag>) {
            Ok(status) => match status.pid() {
                Some(pid) => Wake::Exited { pid: pid.as_raw(), status },
                None => continue,
            },
            Err(Errno::EINTR) => continue,
            Err(_) => Wake::AllGone,
        };
        let over = matches!(wake, Wake::AllGone);
        if wakes.send(wake).is_err() || over {
            return;
        }
    }
}

fn drain(logs: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + DRAIN_MAX;
    for thread in logs {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn cpu_ms(usage: &Usage) -> u64 {
    let ms = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    u64::try_from(ms(usage.user_time()) + ms(usage.system_time())).unwrap_or(0)
}

/// The largest single process; none where what prepared the environment was larger, which hides it.
fn peak(before: Option<&Usage>, after: Option<&Usage>) -> Option<u64> {
    let (before, after) = (before?.max_rss(), after?.max_rss());
    (after > before).then(|| u64::try_from(after).unwrap_or(0) * 1024)
}

/// The port in `$PORT`. One that the file names may be another's, an older run's of the same service that serves until
/// this one says that all else of it is ready; refused where it stays so.
fn pick_port(shim: &Shim, service: &Service) -> Result<u16, Outcome> {
    let wanted = shim.order.port.or(service.port).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(shim.order.order.spec.grace.0) + PORT_WAIT;
    let mut said = false;
    loop {
        let error = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, wanted)) {
            Ok(listener) => {
                let address = listener.local_addr().map_err(files::unprepared_io("can't find a free port"))?;
                return Ok(address.port());
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::AddrInUse || Instant::now() > deadline {
            let why = format!(
                "port {wanted} can't be listened on: {error}\nhint: choose another `port`, or leave it out and listen \
                 on $PORT"
            );
            return Err(Outcome::Unprepared { why });
        }
        if !said {
            shim.log.say(&format!("waits for port {wanted}, which another process has"));
            let waits = Event::Waits { state: shim.order.order.state };
            shim.append(&waits, Durable::No)
                .map_err(files::unprepared_io("can't write to the placement's directory"))?;
            said = true;
        }
        std::thread::sleep(PORT_LOOK_EVERY);
    }
}

/// What the command can rely on; see the runtime contract in the guide.
fn environment(shim: &Shim, prepared: &Prepared, port: Option<u16>) -> BTreeMap<OsString, OsString> {
    let ShimOrder { workload, epoch, site, order, state_dir, env, .. } = &shim.order;
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    let mut set = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        all.insert(name.into(), value.as_ref().to_owned());
    };
    set("PATH", &PATH_DEFAULT);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            set(name, &value);
        }
    }
    // The agent's own address is on this machine or beside it, where no proxy can reach it.
    let near = shim.order.host.iter().fold(LOOPBACK.to_owned(), |near, host| format!("{near},{host}"));
    for name in ["NO_PROXY", "no_proxy"] {
        let before = std::env::var(name).ok().filter(|hosts| !hosts.is_empty());
        set(name, &before.map_or_else(|| near.clone(), |hosts| format!("{hosts},{near}")));
    }
    // So that what a script prints is seen when it prints it.
    set("PYTHONUNBUFFERED", &"1");
    env.iter().chain(&order.spec.env).for_each(|(name, value)| set(name, value));
    shim.secrets.iter().for_each(|(name, value)| set(&name.as_env(), value));
    for name in order.inputs.keys() {
        set(&format!("TOMBOLO_INPUT_{}", name.as_env()), &shim.placement.inputs_dir().join(name.as_str()));
    }
    for name in order.spec.outputs() {
        set(&format!("TOMBOLO_OUTPUT_{}", name.as_env()), &shim.placement.outputs_dir().join(name.as_str()));
    }
    set("TOMBOLO_STATE", state_dir);
    set("TOMBOLO_RUN", &workload.run.to_string());
    set("TOMBOLO_STAGE", &workload.name.as_str());
    set("TOMBOLO_SITE", &site.as_str());
    set("TOMBOLO_EPOCH", &epoch.to_string());
    set(process::MARK, &shim.placement.dir());
    if let Some(port) = port {
        set("PORT", &port.to_string());
    }
    if let Some(venv) = &prepared.venv {
        let mut path = venv.join("bin").into_os_string();
        path.push(":");
        path.push(all.get(&OsString::from("PATH")).cloned().unwrap_or_default());
        all.insert("PATH".into(), path);
        all.insert("VIRTUAL_ENV".into(), venv.into());
    }
    all
}
