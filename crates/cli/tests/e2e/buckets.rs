//! A site whose store is a bucket.

use std::fs;

use super::servers::s3;
use super::world::World;

#[test]
fn a_site_that_lost_its_store_has_lost_no_data() {
    let buckets = tempfile::tempdir().unwrap();
    fs::create_dir_all(buckets.path().join("lake")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = s3::env(&runtime.block_on(s3::serve(buckets.path())));
    let mut world = World::start_with_env(env.iter().map(|(name, value)| ((*name).into(), value.into())).collect());
    world.join("here", &["--store", "s3://lake/tombolo"]);
    let yaml = "
project: kept
data: { raw: raw.csv }
stages:
  copy: { run: 'cp inputs/raw/raw.csv outputs/copied/', in: [raw], out: [copied] }
";
    let text = "a,b\n1,2\n";
    let dir = world.project("kept", yaml, &[("raw.csv", text)]);
    // What adds to the store, or reads from it, opens the bucket itself.
    let ok = |world: &World, args: &[&str]| {
        let done = world.program().envs(env.iter().map(|(name, value)| (*name, value))).args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}\n{}", String::from_utf8_lossy(&done.stderr), world.logs());
    };
    ok(&world, &["run", &dir]);
    let objects = fs::read_dir(buckets.path().join("lake/tombolo")).unwrap().count();
    assert!(objects > 0, "nothing is in the bucket");

    // All of it but the key, which says which site it is, and what it was told when it joined.
    world.kill_agent("here");
    fs::remove_dir_all(world.site_dir("here").join("store")).unwrap();
    world.start_agent("here");
    world.wait_site("here", "up");
    let to = world.path("got");
    ok(&world, &["data", "get", "kept/copied", to.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(to.join("raw.csv")).unwrap(), text);
}
