//! A site is a site: a project gives the same at any kind of one.

use super::world::{World, outputs, workload};

const TWO: &str = "
project: SITE
stages:
  make: {run: 'echo made by $TOMBOLO_STAGE; echo 7 > outputs/number/n', out: [number], site: SITE}
  read: {run: 'n=$(cat inputs/number/n); echo $((n * 6)) > outputs/answer/n; exit 0', in: [number], out: [answer], site: SITE}
";

/// The same project, but for the site's name, gives the same bytes at a host and at another site; what is printed and how
/// it ends are the same.
pub(super) fn check(world: &World, host: &str, other: &str) {
    let run_at = |site: &str| {
        let run = world.submit(&world.project(site, &TWO.replace("SITE", site), &[]));
        let view = world.wait_run(&run, &["succeeded", "failed"]);
        assert_eq!(view["state"], "succeeded", "{view:#}\n{}", world.logs());
        let logs = world.ok(&["logs", &format!("{run}/make")]);
        (outputs(&view), logs.contains("made by make"))
    };
    let (here, there) = (run_at(host), run_at(other));
    assert_eq!(here, there);
    assert!(here.1);
    // An exit code is the command's own.
    let yaml = format!("project: bad\nstages:\n  x: {{run: 'echo no >&2; exit 7', site: {other}}}\n");
    let view = world.wait_run(&world.submit(&world.project("bad", &yaml, &[])), &["failed"]);
    assert_eq!(workload(&view, "x")["why"], "exited with code 7");
}
