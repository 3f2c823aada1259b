//! The flights example as it is, with the control plane, agents and shims killed while it runs. It installs Python
//! packages, so it runs only where that was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{World, draws, kill_pid, left_out, may_install, outputs, poll, states, workload};

pub(super) const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/flights");
const SITES: [(&str, &[&str]); 3] = [
    ("onprem", &["--label", "visibility=private", "--price", "cpu_hour=0.12"]),
    ("cloud", &["--label", "visibility=public", "--price", "cpu_hour=0.04"]),
    ("prod", &["--label", "visibility=public", "--price", "cpu_hour=0.10"]),
];
const SEED: u64 = 11;
const KILLS: usize = 7;
/// Of shims: a stage that loses its shim more often is given up.
const SHIM_KILLS_MAX: usize = 2;
/// A round of kills begins this long after the one before, at the most.
const PAUSE_MAX_MS: u64 = 2_000;
const LIMIT: Duration = Duration::from_secs(300);

/// The example, with a mark at each start of a script and retries enough for the kills.
fn project(world: &World) -> String {
    let yaml = fs::read_to_string(format!("{EXAMPLE}/tombolo.yaml")).unwrap();
    let marked =
        |stage: &str| format!("run: echo \"{stage} $TOMBOLO_EPOCH\" >> $MARKS; python {stage}.py\n    retries: 3");
    let changed = yaml
        .replace("    retries: 1\n", "")
        .replace("sql: features.sql", "sql: features.sql\n    retries: 3")
        .replace("run: python train.py", &marked("train"))
        .replace("run: python test.py", &marked("test"));
    assert_eq!(changed.matches("retries: 3").count(), 3, "the example is as this test knows it: {changed}");
    let dir = world.project("flights", &changed, &[]);
    copy(Path::new(EXAMPLE), Path::new(&dir));
    dir
}

/// Runs the example in this directory to its end; where the training ran, and what came out.
pub(super) fn trained(world: &World, dir: &Path) -> (String, BTreeMap<String, String>) {
    let ran = world.cli(&["run", &dir.display().to_string(), "--force", "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    let site = workload(&view, "train")["attempts"][0]["site"].as_str().unwrap().to_owned();
    (site, outputs(&view))
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false if to.exists() => {}
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

#[test]
fn kills_at_random_moments_of_a_flights_run_change_nothing_that_comes_out() {
    if !may_install() {
        return left_out("the flights example installs Python packages; TOMBOLO_E2E=1 runs it");
    }
    let seed = std::env::var("TOMBOLO_E2E_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}: TOMBOLO_E2E_SEED={seed} draws the same kills again");
    let mut world = World::with_sites(&SITES);
    let dir = project(&world);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let calm: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&calm), "features succeeded, predict ready, test succeeded, train succeeded");
    let calm_marks = ["train", "test"].map(|stage| world.marks_of(stage).len());
    assert_eq!(calm_marks, [1, 1]);
    let calm_run = calm["id"].as_str().unwrap();
    world.ok(&["stop", calm_run]);
    world.wait_run(calm_run, &["stopped"]);

    let run = world.ok(&["run", &dir, "--detach", "--force"]).trim().to_owned();
    let told = storm(&mut world, seed);
    println!("kills: {told:?}");
    let view = world.wait_run_within(LIMIT, &run, &["serving", "failed", "stopped"]);
    let context = format!("seed {seed}, kills {told:?}: {view:#}\n{}", world.logs());
    assert_eq!(view["state"], "serving", "{context}");
    assert_eq!(outputs(&view), outputs(&calm), "{context}");
    let shims = told.iter().filter(|what| **what == "shim").count();
    let mut acted = 0;
    for stage in ["train", "test"] {
        // The calm run's mark comes first.
        let epochs = world.marks_of(stage)[1..].to_vec();
        assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), epochs.len(), "{stage} {epochs:?}: {context}");
        acted += epochs.len();
    }
    assert!(acted <= 2 + shims, "only a lost shim costs another start, not {acted}: {context}");
    let attempts = |stage: &str| workload(&view, stage)["attempts"].as_array().unwrap().len();
    let placed: usize = ["features", "train", "test"].map(attempts).iter().sum();
    assert!(placed <= 3 + shims, "only a lost shim costs another placement, not {placed}: {context}");
}

/// Kills until enough is killed; what it was.
fn storm(world: &mut World, seed: u64) -> Vec<&'static str> {
    let mut draw = draws(seed);
    let mut told = Vec::new();
    for _ in 0..KILLS {
        pass(draw(PAUSE_MAX_MS));
        match draw(4) {
            0 => {
                world.kill_server();
                pass(draw(1_000));
                world.start_server();
                told.push("server");
            }
            1 => {
                let site = SITES[draw(3) as usize].0;
                world.kill_agent(site);
                pass(draw(1_000));
                world.start_agent(site);
                told.push(site);
            }
            _ if told.iter().filter(|what| **what == "shim").count() < SHIM_KILLS_MAX => {
                let found =
                    poll(Duration::from_secs(5), || Some(world.shims(" shim ")).filter(|shims| !shims.is_empty()));
                let Some(shims) = found else { continue };
                kill_pid(shims[draw(shims.len() as u64) as usize]);
                told.push("shim");
            }
            _ => {}
        }
    }
    told
}

/// The moments of kills are what is random here, not what is waited for.
fn pass(milliseconds: u64) {
    let moment = Instant::now() + Duration::from_millis(milliseconds);
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
