//! A wall clock that jumps by hours under the control plane and the agents.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::{World, states, tree, workload};

/// Adds the seconds in a file to the wall clock of a process, and leaves those alone that run from its start or boot.
const JUMPING: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long none;
static volatile long *jump;
static long jumped(void) {
    if (!jump) {
        char *path = getenv("JUMPED");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *map = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        jump = map == MAP_FAILED ? &none : map;
    }
    return *jump;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int done = syscall(SYS_clock_gettime, id, at);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += jumped();
    return done;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int done = syscall(SYS_gettimeofday, at, zone);
    at->tv_sec += jumped();
    return done;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;
const HOUR: i64 = 3_600;

/// The file with the seconds that every clock of a world is off.
struct Jump(fs::File);

impl Jump {
    fn make(dir: &Path) -> (Jump, PathBuf, PathBuf) {
        let (code, library, seconds) = (dir.join("jumping.c"), dir.join("jumping.so"), dir.join("seconds"));
        fs::write(&code, JUMPING).unwrap();
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let jump = Jump(fs::File::create(&seconds).unwrap());
        jump.by(0);
        (jump, library, seconds)
    }

    /// From now on, and in one step: those that run have the file mapped.
    fn by(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// A whole way through both sites: upload, submission, grants, a transfer there and back.
fn a_run_comes_through(world: &World, number: usize) -> serde_json::Value {
    let yaml = "
project: little
data: { raw: { path: raw.txt } }
stages:
  there: { run: 'cp inputs/raw/raw.txt outputs/copy/', in: [raw], out: [copy], site: b, failover_after: 40s, timeout: 30m }
  back: { run: 'cp inputs/copy/raw.txt outputs/again/', in: [copy], out: [again], site: a, timeout: 30m }
";
    let text = format!("number {number}\n");
    let dir = world.project("little", yaml, &[("raw.txt", &text)]);
    let ran = world.cli(&["run", &dir, "--site", "a", "--output", "json"]);
    assert_eq!(ran.code, 0, "run {number}: {ran}\n{}", world.logs());
    let view = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&view), "back succeeded, there succeeded");
    for stage in ["there", "back"] {
        assert_eq!(workload(&view, stage)["attempts"].as_array().unwrap().len(), 1, "run {number}: {view:#}");
    }
    let got = world.path(&format!("got-{number}"));
    world.ok(&["data", "get", "again", got.to_str().unwrap(), "--site", "a"]);
    assert_eq!(tree(&got)["raw.txt"], text.as_bytes());
    view
}

#[test]
fn a_clock_that_jumps_kills_doubles_and_fails_over_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (jump, library, seconds) = Jump::make(temp.path());
    let env = vec![("LD_PRELOAD".to_owned(), library.clone().into()), ("JUMPED".to_owned(), seconds.into())];
    let mut world = World::start_with_env(env);
    world.join("a", &[]);
    world.join("b", &[]);
    for pid in world.pids() {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        assert!(maps.contains(library.to_str().unwrap()), "the clock of {pid} can jump");
    }
    let token = world.ok(&["token", "create", "ada", "--role", "member", "--expires", "1h"]).trim().to_owned();
    let letter = world.ok(&["site", "token", "--site", "c", "--expires", "1h"]).trim().to_owned();
    let go = world.path("go").display().to_string();
    let yaml = format!(
        "
project: held
stages:
  middle:
    run: 'echo \"middle $TOMBOLO_EPOCH\" >> $MARKS; until test -e {go}; do sleep 0.05; done; echo 1 > outputs/one/n'
    out: [one]
    site: b
    failover_after: 40s
    timeout: 1h
    retries: 2
  after: {{ run: 'echo \"after $TOMBOLO_EPOCH\" >> $MARKS; cp inputs/one/n outputs/two/', in: [one], out: [two], site: a }}
"
    );
    let dir = world.project("held", &yaml, &[]);
    let run = world.submit(&dir);
    world.wait_mark("middle", 1);

    // Under processes that run: by more than every limit there is, there and back.
    jump.by(2 * HOUR);
    a_run_comes_through(&world, 1);
    world.ok(&["ps", "--token", &token]);
    jump.by(-2 * HOUR);
    a_run_comes_through(&world, 2);
    world.join_with("c", &letter, &[]);

    // And between the end of a process and its next start.
    world.kill_server();
    jump.by(2 * HOUR);
    world.start_server();
    let ahead = a_run_comes_through(&world, 3);
    world.kill_agent("b");
    jump.by(-2 * HOUR);
    world.start_agent("b");
    a_run_comes_through(&world, 4);
    world.kill_server();
    world.start_server();
    let behind = a_run_comes_through(&world, 5);
    let placed = |view| workload(view, "back")["attempts"][0]["placed"].as_i64().unwrap();
    assert!(placed(&ahead) - placed(&behind) > 3 * HOUR * 1_000, "the clock did jump: {ahead:#} {behind:#}");

    assert_eq!(workload(&world.view(&run), "middle")["state"], "running");
    world.let_go("go");
    let view = world.wait_run(&run, &["succeeded", "failed", "stopped"]);
    assert_eq!(states(&view), "after succeeded, middle succeeded", "{view:#}\n{}", world.logs());
    let attempts = workload(&view, "middle")["attempts"].clone();
    assert_eq!(world.marks_of("middle"), ["1"], "{attempts:#}\n{}", world.logs());
    assert_eq!(world.marks_of("after"), ["1"]);
}
