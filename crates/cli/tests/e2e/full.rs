//! Disks that are full: a site's, and the control plane's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::{World, left_out};

/// A file system of its own that is gone with the test.
struct Mount(PathBuf);

impl Mount {
    /// None, with the reason told, where nothing may be mounted.
    fn make(dir: PathBuf, mebibytes: u32) -> Option<Mount> {
        fs::create_dir_all(&dir).unwrap();
        let size = format!("size={mebibytes}m,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output();
        if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
            left_out(&format!("no small file system can be mounted here: {mounted:?}"));
            return None;
        }
        Some(Mount(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_as_such() {
    let mut world = World::with_sites(&[("roomy", &[])]);
    let Some(mount) = Mount::make(world.site_dir("tight"), 8) else { return };
    world.join("tight", &[]);
    let yaml = "
project: big
stages:
  write: { run: 'echo \"write $TOMBOLO_EPOCH\" >> $MARKS; head -c 32000000 /dev/urandom > outputs/out/x', out: [out], site: tight }
  small: { run: 'echo 1 > outputs/ok/x', out: [ok], site: roomy }
";
    let project = world.project("big", yaml, &[]);
    let ran = world.cli(&["run", &project, "--site", "roomy"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.err.to_lowercase().contains("space"), "{ran}");
    // The site is still one: what fits runs there.
    let yaml = "project: little\nstages: { a: { run: 'echo 1 > outputs/b/x', out: [b], site: tight } }\n";
    let project = world.project("little", yaml, &[]);
    let ran = world.cli(&["run", &project, "--site", "roomy"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    // First, or the world's directory could not be removed.
    drop(mount);
}

/// Takes all the room that there is.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let block = [7; 4_096];
    while file.write_all(&block).is_ok() {}
    path
}

#[test]
fn a_full_disk_under_the_control_plane_loses_nothing_that_it_acknowledged() {
    let mut world = World::empty();
    let server = world.path("server");
    let Some(mount) = Mount::make(server.clone(), 16) else { return };
    world.start_server();
    world.join("here", &[]);
    let go = world.path("go").display().to_string();
    let yaml = format!(
        "project: p\nstages: {{ a: {{ run: 'echo \"a $TOMBOLO_EPOCH\" >> $MARKS; until test -e {go}; do sleep 0.05; done' }} }}\n"
    );
    let dir = world.project("p", &yaml, &[]);
    let run = world.submit(&dir);
    world.wait_mark("a", 1);

    let filler = fill(&server);
    let mut names = Vec::new();
    // The log of what is written has some room left within it; it is soon used up.
    let refused = (0..500).find_map(|number| {
        let name = format!("user{number}");
        let done = world.cli(&["token", "create", &name]);
        match done.code {
            0 => names.push(name),
            _ => return Some(done),
        }
        None
    });
    let refused = refused.expect("a full disk takes nothing more");
    assert_eq!(refused.code, 3, "{refused}");
    let ended = world.wait_server_end();
    assert!(!ended.success(), "what can't keep its word goes: {ended}");
    assert!(world.logs().contains("full"), "{}", world.logs());

    fs::remove_file(filler).unwrap();
    world.start_server();
    world.wait_site("here", "up");
    let tokens = world.ok(&["token", "ls", "--output", "json"]);
    assert!(names.iter().all(|name| tokens.contains(&format!("\"{name}\""))), "{names:?}: {tokens}");
    world.let_go("go");
    world.wait_run(&run, &["succeeded"]);
    assert_eq!(world.marks_of("a"), ["1"], "what ran went on");
    drop(mount);
}
