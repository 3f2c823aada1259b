//! When this site was last in touch with the control plane, for agent and shims alike.
//!
//! A workload with `failover_after` may be started elsewhere once its site was silent for so long; then it
//! must be over here. The agent sees to that while it lives. When it is dead the shims do: each reads this
//! file and stops its command by itself. The time is the machine's since boot, which no clock change moves;
//! after a reboot nothing of before runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tombolo_core::Millis;

const LOOK_EVERY_MS: u64 = 1_000;

/// The file, in a site's directory.
pub fn path(site_dir: &Path) -> PathBuf {
    site_dir.join("lease")
}

/// Milliseconds since the machine's start, suspension included.
pub fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000
}

/// Notes a contact: the sending of a report that was answered.
pub fn renew(path: &Path, contact: u64) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, contact.to_string())?;
    std::fs::rename(&draft, path)
}

/// The last contact; none where there was none since the machine's start.
pub fn contact(path: &Path) -> Option<u64> {
    let contact = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (contact <= since_boot()).then_some(contact)
}

/// The same where the agent may have been on another machine, whose time since its start means nothing here: by the
/// file's age. `dir` is one on the same file system.
pub fn contact_elsewhere(path: &Path, dir: &Path) -> Option<u64> {
    Some(since_boot().saturating_sub(age(path, dir)?.as_millis() as u64))
}

/// For how long the site has been silent, as the file has it.
pub fn silence(path: &Path) -> Millis {
    Millis(since_boot() - contact(path).unwrap_or(0).min(since_boot()))
}

/// Reads the file for a shim, which may be on another machine than the agent that writes it: that one's time since its
/// boot means nothing there.
pub enum Silence {
    Here(PathBuf),
    Elsewhere {
        path: PathBuf,
        /// What was in the file, and since when at the latest, by this machine's clock.
        seen: Option<String>,
        since: u64,
        looked: u64,
    },
}

impl Silence {
    pub fn here(path: PathBuf) -> Silence {
        Silence::Here(path)
    }

    /// `dir` is one on the same file system, in which a file is made to learn the time there.
    pub fn elsewhere(path: PathBuf, dir: &Path) -> Silence {
        let now = since_boot();
        // Of what was written before this looked, the file system knows the age.
        let since = age(&path, dir).map_or(0, |age| now.saturating_sub(age.as_millis() as u64));
        let seen = std::fs::read_to_string(&path).ok();
        Silence::Elsewhere { path, seen, since, looked: now }
    }

    pub fn now(&mut self) -> Millis {
        match self {
            Silence::Here(path) => silence(path),
            Silence::Elsewhere { path, seen, since, looked } => {
                let now = since_boot();
                let read = std::fs::read_to_string(path).ok();
                if read.is_some() && *seen != read {
                    // It came at some time since the last look, and is no younger than that.
                    (*seen, *since) = (read, *looked);
                }
                *looked = now;
                Millis(now - *since)
            }
        }
    }
}

/// How old a file is by the clock that stamps it.
fn age(path: &Path, dir: &Path) -> Option<Duration> {
    let probe = dir.join("now");
    std::fs::write(&probe, b"").ok()?;
    let now = std::fs::metadata(&probe).and_then(|metadata| metadata.modified());
    let _ = std::fs::remove_file(&probe);
    let then = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(now.ok()?.duration_since(then).unwrap_or_default())
}

/// Calls `over` once, when the site has been silent for as long as the lease lasts.
pub fn watch(mut silence: Silence, lease: Millis, over: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            let silence = silence.now();
            if silence >= lease {
                return over();
            }
            // Never later than the lease, and often enough to see a renewal that was lost with a restarted agent.
            std::thread::sleep(Duration::from_millis((lease.0 - silence.0).clamp(1, LOOK_EVERY_MS)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_runs_from_the_last_contact() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert!(silence(&path).0 + 5_000 >= since_boot(), "never in touch: silent since the start");
        assert!(contact(&path).is_none());
        let now = since_boot();
        renew(&path, now - 40_000.min(now)).unwrap();
        assert!(silence(&path).0 >= 40_000.min(now));
        renew(&path, now).unwrap();
        assert!(silence(&path).0 < 20_000);
        assert!(since_boot() - contact_elsewhere(&path, dir.path()).unwrap() < 20_000);
        assert!(contact_elsewhere(&dir.path().join("none"), dir.path()).is_none());
        // From before a reboot: the machine has not been up for as long.
        renew(&path, now + 3_600_000).unwrap();
        assert!(contact(&path).is_none());
    }

    /// Whatever the other machine's clock says: what counts is when the file was seen to change.
    #[test]
    fn silence_elsewhere_is_measured_by_the_clock_of_who_looks() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert!(Silence::elsewhere(path.clone(), dir.path()).now().0 + 5_000 >= since_boot(), "never in touch");
        renew(&path, u64::MAX).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(50)).unwrap();
        let mut silence = Silence::elsewhere(path.clone(), dir.path());
        let before = silence.now().0;
        assert!((45_000.min(since_boot() - 1)..120_000).contains(&before), "{before}");
        renew(&path, 1).unwrap();
        assert!(silence.now().0 < 45_000);
        // Gone for a moment, as on a file system that hangs: no news.
        std::fs::remove_file(&path).unwrap();
        assert!(silence.now().0 < 45_000);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
