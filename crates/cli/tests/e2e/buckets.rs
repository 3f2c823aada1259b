//! A site whose store is a bucket.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::servers::s3;
use super::world::World;

const KEPT: &str = "
project: kept
data: { raw: raw.csv }
stages:
  copy: { run: 'cp inputs/raw/raw.csv outputs/copied/', in: [raw], out: [copied] }
";
const TEXT: &str = "a,b\n1,2\n";

/// A control plane whose agents find an object store, and the settings with which others find it: what adds to a site's
/// store, or reads from it, opens the bucket itself.
fn world_with_buckets(buckets: &Path) -> (World, Vec<(&'static str, String)>, tokio::runtime::Runtime) {
    fs::create_dir_all(buckets.join("lake")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = s3::env(&runtime.block_on(s3::serve(buckets)));
    let world = World::start_with_env(env.iter().map(|(name, value)| ((*name).into(), value.into())).collect());
    (world, env, runtime)
}

fn run(world: &World, env: &[(&'static str, String)], args: &[&str]) -> Output {
    world.program().envs(env.iter().map(|(name, value)| (*name, value))).args(args).output().unwrap()
}

fn ok(world: &World, env: &[(&'static str, String)], args: &[&str]) {
    let done = run(world, env, args);
    assert!(done.status.success(), "{args:?}: {}\n{}", String::from_utf8_lossy(&done.stderr), world.logs());
}

#[test]
fn a_site_that_lost_its_store_has_lost_no_data() {
    let buckets = tempfile::tempdir().unwrap();
    let (mut world, env, _runtime) = world_with_buckets(buckets.path());
    world.join("here", &["--store", "s3://lake/tombolo"]);
    let dir = world.project("kept", KEPT, &[("raw.csv", TEXT)]);
    ok(&world, &env, &["run", &dir]);
    let objects = fs::read_dir(buckets.path().join("lake/tombolo")).unwrap().count();
    assert!(objects > 0, "nothing is in the bucket");

    // All of it but the key, which says which site it is, and what it was told when it joined.
    world.kill_agent("here");
    fs::remove_dir_all(world.site_dir("here").join("store")).unwrap();
    world.start_agent("here");
    world.wait_site("here", "up");
    let to = world.path("got");
    ok(&world, &env, &["data", "get", "kept/copied", to.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(to.join("raw.csv")).unwrap(), TEXT);
}

#[test]
fn an_encrypted_bucket_is_shared_by_sites_that_have_its_key() {
    let buckets = tempfile::tempdir().unwrap();
    let (mut world, env, _runtime) = world_with_buckets(buckets.path());
    world.join("here", &["--store", "s3://lake/tombolo", "--label", "visibility=public"]);
    let dir = world.project("kept", KEPT, &[("raw.csv", TEXT)]);
    ok(&world, &env, &["run", &dir]);
    let format = fs::read_to_string(buckets.path().join("lake/tombolo/gc/format")).unwrap();
    assert!(format.starts_with("tombolo-bucket 2 encrypted "), "{format}");

    // Without the key nobody joins with that bucket, and the token is good for another try.
    let (token, address) = (world.ok(&["site", "token", "--site", "there"]), world.address());
    let mut join = vec!["agent", "join", &address, "--token", token.trim(), "--name", "there", "--no-run"];
    join.extend(["--store", "s3://lake/tombolo"]);
    let done = run(&world, &env, &join);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("is encrypted under the key") && said.contains("hint: copy `store.key`"), "{said}");
    let key = world.site_dir("here").join("store.key");
    let (key, store) = (key.to_str().unwrap(), ["--store", "s3://lake/tombolo"]);
    world.join_with("there", &token, &[&store[..], &["--store-key", key]].concat());

    // What the one has made the other has, though the one is lost.
    world.kill_agent("here");
    for entry in fs::read_dir(world.path("local-sites")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("here.") {
            fs::remove_file(path).unwrap();
        }
    }
    let to = world.path("got");
    ok(&world, &env, &["data", "get", "kept/copied", to.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(to.join("raw.csv")).unwrap(), TEXT);
}

/// Whatever a site is by default, a store stays as it was made.
#[test]
fn a_store_that_is_there_already_keeps_its_form() {
    let world = World::start();
    let join = |site: &str, more: &[&str]| {
        let (token, address) = (world.ok(&["site", "token", "--site", site]), world.address());
        let args = ["agent", "join", &address, "--token", token.trim(), "--name", site, "--no-run"];
        let done = world.cli(&[&args[..], more].concat());
        (done.code, done.err)
    };
    let public = ["--label", "visibility=public"];
    tombolo_data::Store::open(world.site_dir("old").join("store"), Default::default()).unwrap();
    let (code, said) = join("old", &["--encrypt", "on"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("stays as it was made") && said.contains("hint: leave out --encrypt on"), "{said}");
    let (code, said) = join("old", &public);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("its store was made before, and is not encrypted"), "{said}");
    assert!(!world.site_dir("old").join("store.key").exists());

    let (code, said) = join("new", &public);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("its store is encrypted: keep a copy of") && said.contains("sites/new/store.key"), "{said}");
    let (code, said) = join("open", &[&public[..], &["--encrypt", "off"]].concat());
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("encrypted"), "{said}");
    assert!(!world.site_dir("open").join("store.key").exists());
    let (code, said) = join("odd", &["--encrypt", "perhaps"]);
    assert_eq!((code, said.contains("it is either on or off")), (2, true), "{said}");
}
