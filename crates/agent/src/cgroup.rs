//! Control groups, version 1 and 2: limits, accounting and a sure list of a command's processes, where the
//! kernel lets.
//!
//! Groups are made below the one that this process is in, so that no limit is ever escaped that was put on the
//! agent from outside. See cgroups(7).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tombolo_core::resources::{Resources, bytes, cpus};
use tombolo_core::time::Millis;

/// Period of the cpu quota, the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas.
const QUOTA_US_MIN: u64 = 1_000;
/// The group that [`delegate`] moves the agent into.
const AGENT_LEAF: &str = "tombolo-agent";
/// Before the name of every group that is made for a command.
const PREFIX: &str = "tombolo-";

/// The groups of one command.
#[derive(Debug, Default)]
pub struct Group {
    dirs: BTreeSet<PathBuf>,
    memory: Option<Hierarchy>,
    /// The memory limit in force, zero for none.
    pub memory_limit_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    dir: PathBuf,
}

impl Hierarchy {
    fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

/// How many processes were killed for memory in the group that this process is in, which somebody else has made.
pub fn oom_kills_here() -> u64 {
    let own = Own::read();
    let legacy = own.legacy.into_iter().find(|(has, _)| has == "memory").map(|(_, dir)| (Version::V1, dir));
    let found = legacy.or(own.unified.map(|dir| (Version::V2, dir)));
    found.map_or(0, |(version, dir)| Hierarchy { version, dir }.oom_kills())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Group {
    /// Makes the groups for a command and sets its limits. Answers a warning for each limit that can't be kept.
    pub fn create(name: &str, limits: &Resources) -> (Group, Vec<String>) {
        Group::create_below(&Own::read(), name, limits)
    }

    fn create_below(own: &Own, name: &str, limits: &Resources) -> (Group, Vec<String>) {
        let mut group = Group::default();
        let mut warnings = Vec::new();
        let name = format!("{PREFIX}{name}");
        if let Some(unified) = &own.unified
            && let Ok(dir) = make(unified, &name)
        {
            group.dirs.insert(dir);
        }
        match group.limit_memory(own, &name, limits.memory_bytes) {
            Err(why) if limits.memory_bytes > 0 => warnings.push(format!(
                "the memory limit of {} is not enforced here: {why}; a command that takes more is not stopped",
                bytes(limits.memory_bytes)
            )),
            Err(_) | Ok(()) => {}
        }
        if limits.cpus_milli > 0
            && let Err(why) = group.limit_cpu(own, &name, limits.cpus_milli)
        {
            warnings.push(format!(
                "the limit of {} cpus is not enforced here: {why}; a command that takes more is not slowed down",
                cpus(limits.cpus_milli)
            ));
        }
        (group, warnings)
    }

    /// Without a limit, the group still tells the peak.
    fn limit_memory(&mut self, own: &Own, name: &str, limit_bytes: u64) -> Result<(), String> {
        let hierarchy = own.hierarchy_with("memory", name)?;
        let set = |file: &str, value: &str| {
            fs::write(hierarchy.dir.join(file), value).map_err(|e| format!("can't write {file}: {e}"))
        };
        self.dirs.insert(hierarchy.dir.clone());
        if limit_bytes > 0 {
            let limit = limit_bytes.to_string();
            match hierarchy.version {
                Version::V1 => {
                    set("memory.limit_in_bytes", &limit)?;
                    // Swapping would hide that the limit is reached; the file is missing where swap isn't accounted.
                    let _ = set("memory.memsw.limit_in_bytes", &limit);
                }
                Version::V2 => {
                    set("memory.max", &limit)?;
                    let _ = set("memory.swap.max", "0");
                }
            }
            self.memory_limit_bytes = limit_bytes;
        }
        self.memory = Some(hierarchy);
        Ok(())
    }

    fn limit_cpu(&mut self, own: &Own, name: &str, cpus_milli: u64) -> Result<(), String> {
        let hierarchy = own.hierarchy_with("cpu", name)?;
        let set = |file: &str, value: String| {
            fs::write(hierarchy.dir.join(file), value).map_err(|e| format!("can't write {file}: {e}"))
        };
        self.dirs.insert(hierarchy.dir.clone());
        let quota_us = (cpus_milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_US_MIN);
        match hierarchy.version {
            Version::V1 => {
                set("cpu.cfs_period_us", PERIOD_US.to_string())?;
                set("cpu.cfs_quota_us", quota_us.to_string())
            }
            Version::V2 => set("cpu.max", format!("{quota_us} {PERIOD_US}")),
        }
    }

    pub fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.iter().cloned().collect()
    }

    /// The files into which a process writes its pid to enter.
    pub fn entrances(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs"))
    }

    /// The highest use of memory, file cache included; none where the kernel doesn't tell.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let file = match memory.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        fs::read_to_string(memory.dir.join(file)).ok()?.trim().parse().ok()
    }

    /// How many processes were killed because the limit was reached.
    pub fn oom_kills(&self) -> u64 {
        self.memory.as_ref().map_or(0, Hierarchy::oom_kills)
    }

    /// The processor time of all that were in the group, where version 2 counts it.
    pub fn cpu(&self) -> Option<Millis> {
        let text = self.dirs.iter().find_map(|dir| {
            let text = fs::read_to_string(dir.join("cpu.stat")).ok()?;
            text.contains("usage_usec").then_some(text)
        })?;
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        Some(Millis(micros.trim().parse::<u64>().ok()? / 1000))
    }
}

/// The processes in any of the groups.
pub fn members_of_all(dirs: &[PathBuf]) -> Vec<i32> {
    let texts = dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// Kills every member at once, where the kernel has `cgroup.kill`.
pub fn kill_all(dirs: &[PathBuf]) {
    for dir in dirs {
        // Version 1 has no such file, and creating one there is refused.
        let _ = fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill")).and_then(|mut file| {
            use std::io::Write;
            file.write_all(b"1")
        });
    }
}

/// Removes the groups, which must be empty. One that can't be removed is left: it holds nothing.
pub fn remove_all(dirs: &[PathBuf]) {
    for dir in dirs.iter().filter(|dir| is_ours(dir)) {
        if let Err(error) = fs::remove_dir(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(dir = %dir.display(), %error, "a control group stays behind");
        }
    }
}

/// Lets an agent that was given a group of its own (version 2, systemd's `Delegate=yes`) limit its commands: the
/// kernel wants processes only in the leaves, so that the agent has to move into one. Does nothing where other
/// processes share the group.
pub fn delegate() {
    let Some(dir) = Own::read().unified else { return };
    let own = std::process::id();
    if members_of_all(std::slice::from_ref(&dir)) != [own.cast_signed()] || dir.parent().is_none() {
        return;
    }
    let leaf = dir.join(AGENT_LEAF);
    let moved = fs::create_dir_all(&leaf)
        .and_then(|()| fs::write(leaf.join("cgroup.procs"), own.to_string()))
        .and_then(|()| fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory"));
    if let Err(error) = moved {
        tracing::debug!(dir = %dir.display(), %error, "the control group can't be divided");
    }
}

/// Only what was made here is ever removed, whatever a file on disk says.
fn is_ours(dir: &Path) -> bool {
    dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX) && name != AGENT_LEAF)
}

/// The groups that this process is in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    /// Version 2's one hierarchy.
    unified: Option<PathBuf>,
    /// Version 1's, by controller.
    legacy: Vec<(String, PathBuf)>,
}

impl Own {
    fn read() -> Own {
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Own::parse(&cgroup, &mounts)
    }

    /// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn parse(cgroup: &str, mounts: &str) -> Own {
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let mut own = Own::default();
        for line in cgroup.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                let mount = mounts.iter().find(|mount| mount.kind == "cgroup2");
                own.unified = mount.and_then(|mount| mount.locate(path)).map(|dir| match dir.ends_with(AGENT_LEAF) {
                    true => dir.parent().map(Path::to_owned).unwrap_or(dir),
                    false => dir,
                });
                continue;
            }
            for controller in controllers.split(',') {
                let has = |mount: &&Mount| mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller);
                if let Some(dir) = mounts.iter().find(has).and_then(|mount| mount.locate(path)) {
                    own.legacy.push((controller.to_owned(), dir));
                }
            }
        }
        own
    }

    /// Makes a group in the hierarchy that has the controller.
    fn hierarchy_with(&self, controller: &str, name: &str) -> Result<Hierarchy, String> {
        if let Some((_, dir)) = self.legacy.iter().find(|(has, _)| has == controller) {
            let dir = make(dir, name).map_err(|e| format!("can't make a control group in {}: {e}", dir.display()))?;
            return Ok(Hierarchy { version: Version::V1, dir });
        }
        let unified = self.unified.as_ref().ok_or("the kernel has no control groups, or none are mounted")?;
        let dir = make(unified, name).map_err(|e| format!("can't make a control group: {e}"))?;
        let has = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        if has.split_ascii_whitespace().any(|one| one == controller) {
            return Ok(Hierarchy { version: Version::V2, dir });
        }
        let enabled = fs::write(unified.join("cgroup.subtree_control"), format!("+{controller}"));
        enabled.map_err(|e| format!("the {controller} controller is not delegated to this process ({e})"))?;
        Ok(Hierarchy { version: Version::V2, dir })
    }
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// One line of mountinfo, proc_pid_mountinfo(5): fixed fields, optional ones, `-`, then type, source and options.
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (fixed, rest) = line.split_once(" - ")?;
        let mut fixed = fixed.split(' ').skip(3);
        let (root, point) = (fixed.next()?, fixed.next()?);
        let mut rest = rest.split(' ');
        let (kind, _source, options) = (rest.next()?, rest.next()?, rest.next()?);
        kind.starts_with("cgroup").then_some(Mount { root, point, kind, options })
    }

    /// Where a group's path is seen; none where it lies outside of what is mounted.
    fn locate(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        Some(Path::new(self.point).join(below))
    }
}

/// Making it twice is harmless: an earlier shim of the same epoch may have left it, empty.
fn make(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = parent.join(name);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_in_both_versions_and_in_containers() {
        let mounts = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                      31 23 0:28 / /tmp rw,relatime - tmpfs tmpfs rw,mode=755";
        let cgroup = "4:memory:/docker/x/job\n2:cpu,cpuacct:/a\n7:blkio:/\n0::/svc/tombolo-agent";
        let own = Own::parse(cgroup, mounts);
        assert_eq!(own.unified, Some("/sys/fs/cgroup/unified/svc".into()));
        let cpu: PathBuf = "/sys/fs/cgroup/cpu/a".into();
        let memory: PathBuf = "/sys/fs/cgroup/memory/job".into();
        let expected = [("memory", memory), ("cpu", cpu.clone()), ("cpuacct", cpu)];
        assert_eq!(own.legacy, expected.map(|(name, dir)| (name.to_owned(), dir)));
    }

    /// Version 2 as it is on this machine, as if version 1 were not mounted.
    #[test]
    fn a_real_group_of_version_2_counts_limits_kills_and_goes() {
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::ExitStatusExt;

        let own = Own { unified: Own::read().unified, legacy: Vec::new() };
        let Some(unified) = &own.unified else { return eprintln!("SKIPPED: version 2 is not mounted here") };
        let limits = Resources { memory_bytes: 64 << 20, cpus_milli: 500, ..Resources::default() };
        let (group, warnings) = Group::create_below(&own, &format!("test-{}", std::process::id()), &limits);
        let dirs = group.dirs();
        let [dir] = dirs.as_slice() else { return eprintln!("SKIPPED: no group can be made in {}", unified.display()) };

        let script = "echo $$ > $0/cgroup.procs; setsid sleep 1000 & echo in; exec sleep 1000";
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script]).arg(dir).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "in\n");
        let members = members_of_all(&dirs);
        assert!(members.len() == 2 && members.contains(&child.id().cast_signed()), "{members:?}");
        assert!(group.cpu().is_some(), "version 2 always counts processor time");

        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
        for (controller, file, value) in [("memory", "memory.max", "67108864\n"), ("cpu", "cpu.max", "50000 100000\n")]
        {
            if controllers.split_ascii_whitespace().any(|has| has == controller) {
                assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), value);
            } else {
                let said = format!("the {controller} controller is not delegated");
                assert!(warnings.iter().any(|warning| warning.contains(&said)), "{controller}: {warnings:?}");
                eprintln!("SKIPPED: version 2 has no {controller} controller here, so that its limit can't be tried");
            }
        }
        match dir.join("memory.peak").exists() {
            true => assert!(group.memory_peak_bytes().is_some_and(|peak| peak <= 64 << 20)),
            false => eprintln!("SKIPPED: version 2 has no memory.peak here"),
        }

        if dir.join("cgroup.kill").exists() {
            kill_all(&dirs);
        } else {
            eprintln!("SKIPPED: the kernel has no cgroup.kill");
            crate::shim::process::kill_all(&members);
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // The other one is nobody's child here; its end is told by the group.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !members_of_all(&dirs).is_empty() {
            assert!(std::time::Instant::now() < deadline, "{:?}", members_of_all(&dirs));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        remove_all(&dirs);
        assert!(!dir.exists());
    }

    #[test]
    fn without_control_groups_a_limit_is_refused_with_its_reason() {
        let why = Own::default().hierarchy_with("memory", "x").unwrap_err();
        assert!(why.contains("no control groups"), "{why}");
    }

    #[test]
    fn only_own_groups_are_removed() {
        assert!(is_ours(Path::new("/sys/fs/cgroup/tombolo-p-1.a.1")));
        assert!(!is_ours(Path::new("/sys/fs/cgroup/tombolo-agent")));
        assert!(!is_ours(Path::new("/sys/fs/cgroup/system.slice")));
    }
}
