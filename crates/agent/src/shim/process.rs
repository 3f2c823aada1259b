//! Processes by way of /proc: who descends from whom, and how nothing is left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::placement::Session;
use crate::cgroup;

/// The environment variable by which the processes of a placement are known; its value is the placement's directory.
pub const MARK: &str = "TOMBOLO_PLACEMENT";

/// How long the dead may take to go; only a process stuck in the kernel takes longer.
pub const REAP_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at what is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub ppid: i32,
    pub session: i32,
    /// Clock ticks after boot.
    pub start: u64,
    /// Dead, but not yet waited for.
    pub zombie: bool,
}

/// None where there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses can hold anything, also parentheses; the fields are counted after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        ppid: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Every process that can be seen.
fn all() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pid, stat(pid)?))).collect()
}

/// Adds all that descend from members of the set.
fn with_descendants(processes: &BTreeMap<i32, Stat>, mut set: BTreeSet<i32>) -> BTreeSet<i32> {
    loop {
        let more: Vec<i32> =
            processes.iter().filter(|(pid, s)| set.contains(&s.ppid) && !set.contains(pid)).map(|(&p, _)| p).collect();
        if more.is_empty() {
            return set;
        }
        set.extend(more);
    }
}

/// The living descendants of this process. As a subreaper it is an ancestor of everything it ever started,
/// however often that forked away.
pub fn descendants() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let processes = all();
    let mut set = with_descendants(&processes, BTreeSet::from([own]));
    set.remove(&own);
    set.into_iter().filter(|pid| !processes[pid].zombie).collect()
}

/// Stops them first, so that none forks away while the others are killed, then kills them.
pub fn kill_all(pids: &[i32]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for &pid in pids {
            // One that is gone already is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Kills what is left of a command whose shim is dead. Answers the pids that would not die.
///
/// They are found by control group, by session and by the mark in their environment; a process that has left its
/// session and cleared its environment where no control group could be made is the one kind that escapes.
pub fn kill_orphans(session: &Session, dir: &Path) -> Vec<i32> {
    if session.boot_id != boot_id() {
        return Vec::new();
    }
    let deadline = Instant::now() + REAP_MAX;
    loop {
        let orphans = orphans(session, dir);
        if orphans.is_empty() {
            cgroup::remove_all(&session.cgroups);
            return Vec::new();
        }
        if Instant::now() > deadline {
            return orphans;
        }
        kill_all(&orphans);
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn orphans(session: &Session, dir: &Path) -> Vec<i32> {
    let processes = all();
    let own = std::process::id().cast_signed();
    // A process with the shim's pid that started at another time has nothing to do with it, nor has its session.
    let recycled = processes.get(&session.shim_pid).is_some_and(|stat| stat.start != session.shim_start);
    let mark = format!("{MARK}={}", dir.display()).into_bytes();
    let mut set: BTreeSet<i32> = cgroup::members_of_all(&session.cgroups).into_iter().collect();
    for (&pid, stat) in &processes {
        let in_session = stat.session == session.shim_pid && !recycled && stat.start >= session.shim_start;
        if (in_session || is_marked(pid, &mark)) && pid != own {
            set.insert(pid);
        }
    }
    // The shim itself has the mark nowhere and the lock no more; still, it is never a victim of its own cleaning.
    set.remove(&own);
    let set = with_descendants(&processes, set);
    set.into_iter().filter(|pid| *pid != own && processes.get(pid).is_some_and(|stat| !stat.zombie)).collect()
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environ.split(|&byte| byte == 0).any(|variable| variable == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) (c) S 3 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 2 3";
        assert_eq!(parse_stat(text), Some(Stat { ppid: 3, session: 5, start: 99, zombie: false }));
        assert_eq!(parse_stat("7 (gone"), None);
    }

    #[test]
    fn this_process_started_before_its_child() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let own = stat(std::process::id().cast_signed()).unwrap();
        let its = stat(child.id().cast_signed()).unwrap();
        assert!(its.start >= own.start && its.session == own.session);
        assert!(descendants().contains(&child.id().cast_signed()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
