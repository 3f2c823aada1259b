//! What gateways are told: where requests go, when they wait, and who may ask.

use tombolo_core::routes::{Access, EndpointId};
use tombolo_core::world::EndpointToken;
use tombolo_core::{Millis, Timestamp};

use crate::play::{Play, id};

/// `p/x: p-1/x#1@a`, with `waits` where requests do.
fn routes(play: &Play) -> String {
    let (_, routes) = play.world.routes();
    let mut lines = Vec::new();
    for (id, route) in routes.iter() {
        let mut words = vec![format!("{id}:")];
        words.extend(route.replicas.iter().map(|one| format!("{}#{}@{}", one.workload, one.epoch, one.site)));
        words.extend(route.waits.then(|| "waits".to_owned()));
        lines.push(words.join(" "));
    }
    lines.join("; ")
}

fn table(play: &mut Play, rows: &[(&str, &str)]) {
    for (step, expected) in rows {
        play.step(step);
        assert_eq!(routes(play), *expected, "after {step:?}");
    }
}

/// One that answers at `a` and may be moved.
fn service(words: &str) -> Play {
    let mut play = Play::new(&["a cpus=4", "b cpus=4"]);
    play.submit("p-1", &[&format!("x service site=a {words}")]);
    play.world.workloads.get_mut(&id("p-1/x")).unwrap().spec.site = None;
    table(&mut play, &[("", "p/x:"), ("start p-1/x", "p/x:"), ("ready p-1/x", "p/x: p-1/x#1@a")]);
    play
}

#[test]
fn a_switch_goes_over_in_one_step() {
    let mut play = service("");
    table(
        &mut play,
        &[
            ("move p-1/x b", "p/x: p-1/x#1@a"),
            ("copied p-1/x#1@a 1", "p/x: p-1/x#1@a"),
            ("prepared p-1/x#2@b", "p/x: p-1/x#1@a"),
            ("start p-1/x#2@b", "p/x: p-1/x#1@a"),
            ("ready p-1/x#2@b", "p/x: p-1/x#2@b"),
            ("end p-1/x#1@a stopped", "p/x: p-1/x#2@b"),
            ("stop p-1/x", "p/x:"),
            ("end p-1/x#2@b stopped", ""),
        ],
    );
}

#[test]
fn requests_wait_in_the_gap_of_a_checkpoint_and_at_no_other_time() {
    let mut play = service("single");
    table(
        &mut play,
        &[
            ("move p-1/x b", "p/x: p-1/x#1@a"),
            ("copied p-1/x#1@a 1", "p/x: p-1/x#1@a"),
            ("prepared p-1/x#2@b", "p/x: waits"),
            ("end p-1/x#1@a stopped", "p/x: waits"),
            ("start p-1/x#2@b", "p/x: waits"),
            ("ready p-1/x#2@b", "p/x: p-1/x#2@b"),
            // Ended by itself, it is started again some time: nobody is told to wait for that.
            ("end p-1/x#2@b failed", "p/x:"),
        ],
    );
    // Undone, it answers at home again; stopped on the way, nobody waits for it any more.
    let mut play = service("single");
    ["move p-1/x b", "copied p-1/x#1@a 1", "prepared p-1/x#2@b"].iter().for_each(|step| play.step(step));
    table(
        &mut play,
        &[
            ("end p-1/x#1@a stopped", "p/x: waits"),
            ("call-off p-1/x", "p/x: waits"),
            ("end p-1/x#2@b stopped", "p/x: waits"),
            ("ready p-1/x#3@a", "p/x: p-1/x#3@a"),
        ],
    );
    let mut play = service("single");
    ["move p-1/x b", "copied p-1/x#1@a 1", "prepared p-1/x#2@b"].iter().for_each(|step| play.step(step));
    table(&mut play, &[("", "p/x: waits"), ("stop p-1/x", "p/x:"), ("end p-1/x#1@a stopped", "p/x:")]);
    table(&mut play, &[("end p-1/x#2@b stopped", "")]);
}

/// Its site will end it: it ends in good order first, and requests wait for the next.
#[test]
fn a_service_whose_site_will_end_it_is_followed_at_once() {
    let mut play = service("");
    table(
        &mut play,
        &[
            ("ending p-1/x", "p/x: waits"),
            ("ending p-1/x", "p/x: waits"),
            ("end p-1/x stopped", "p/x: waits"),
            ("ready p-1/x#2@a", "p/x: p-1/x#2@a"),
            // The next as well; its site was faster this time.
            ("ending p-1/x#2@a", "p/x: waits"),
            ("end p-1/x#2@a evicted", "p/x: waits"),
            ("start p-1/x#3@a", "p/x: waits"),
            // Nobody is told to wait for what fails.
            ("end p-1/x#3@a failed", "p/x:"),
        ],
    );
    assert_eq!(play.world.workloads[&id("p-1/x")].failures, 1, "only the last end counts");
    // It can't be moved meanwhile; who stops it stops it.
    let mut play = service("");
    play.step("ending p-1/x");
    let refused = play.try_move("p-1/x", "b", &[]).unwrap_err();
    assert!(refused.to_string().contains("another is about to take its place"), "{refused}");
    table(&mut play, &[("stop p-1/x", "p/x:"), ("end p-1/x stopped", "")]);
}

#[test]
fn replicas_and_newer_runs_are_one_endpoint() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x service replicas=2 site=a", "j"]);
    play.submit("q-1", &["x service site=b"]);
    play.step("start p-1/j");
    play.step("end p-1/j ok");
    table(
        &mut play,
        &[
            ("ready p-1/x", "p/x: p-1/x#1@a; q/x:"),
            ("ready p-1/x-2", "p/x: p-1/x#1@a p-1/x-2#1@a; q/x:"),
            ("ready q-1/x", "p/x: p-1/x#1@a p-1/x-2#1@a; q/x: q-1/x#1@b"),
            ("end p-1/x-2 failed", "p/x: p-1/x#1@a; q/x: q-1/x#1@b"),
        ],
    );
    play.submit("p-2", &["x service site=b"]);
    table(&mut play, &[("ready p-2/x", "p/x: p-2/x#1@b; q/x: q-1/x#1@b"), ("revoke b", "p/x:; q/x:")]);
}

#[test]
fn the_stricter_access_of_two_runs_counts() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["x service public"]);
    let access = |play: &Play| play.world.routes().1.values().map(|route| route.access).collect::<Vec<_>>();
    play.step("ready p-1/x");
    assert_eq!(access(&play), [Access::Public]);
    play.submit("p-2", &["x service"]);
    assert_eq!(access(&play), [Access::Token], "what is about to answer asks for one");
}

#[test]
fn tokens_go_to_gateways_and_their_end_too() {
    let mut play = service("");
    let (before, _) = play.world.routes();
    let endpoint: EndpointId = "p/x".parse().unwrap();
    let expires = play.now + Millis(1_000);
    let (hash, by) = ("h".to_owned(), "ann".to_owned());
    play.world.admit(EndpointToken {
        id: "e".into(),
        endpoint: endpoint.clone(),
        hash,
        by,
        created: play.now,
        expires,
    });
    let woken = play.world.take_changes().wake;
    assert_eq!(woken.len(), 2, "every site hears of it");
    let (version, routes) = play.world.routes();
    assert!(version > before && routes[&endpoint].admits("h", play.now));
    play.step("wait 1");
    assert_eq!(play.world.routes().0, version, "nothing has changed");
    assert!(play.world.shut_out("e").is_some() && play.world.shut_out("e").is_none());
    play.settle();
    assert!(!play.world.routes().1[&endpoint].admits("h", Timestamp(0)));
}
