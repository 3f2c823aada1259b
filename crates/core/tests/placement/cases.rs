//! What the planner decides in telling cases, and how it says so.

use crate::text::check;

/// An on-prem site where the data is, and a cloud that computes faster, for money.
const TWO: &str = "
    site onprem cpus=8 region=eu egress=0.08
    site cloud cpus=64 region=us cpu_hour=0.05 containers
    link onprem cloud 12.5MB/s
    link cloud onprem 12.5MB/s
";

#[track_caller]
fn two(rest: &str, expected: &str) {
    check(&format!("{TWO}{rest}"), expected);
}

#[test]
fn data_gravity() {
    let train = "task train cpus=4 run=600 run@cloud=150 in=raw\n";
    two(
        &format!("{train} version raw 10GB at=onprem"),
        "
        10 min 0 s, $0.00, exact
        train -> onprem at 0 ms
          - cloud: 5 min 50 s slower: 9.3 GiB to move",
    );
    two(
        &format!("{train} version raw 1GB at=onprem"),
        "
        3 min 50 s, $0.08, exact
        train -> cloud at 1 min 20 s
          + raw from onprem: 954 MiB, 1 min 20 s
          - onprem: $0.08 cheaper, but 6 min 10 s slower: runs 7 min 30 s longer",
    );
    // The cloud has nearly all of the bytes already.
    two(
        &format!("{train} version raw 10GB at=onprem cloud@100MB"),
        "
        2 min 38 s, $0.02, exact
        train -> cloud at 8.0 s
          + raw from onprem: 95.4 MiB of 9.3 GiB, 8.0 s
          - onprem: $0.02 cheaper, but 7 min 22 s slower: runs 7 min 30 s longer",
    );
    // The other replica is nearer.
    two(
        &format!("{train} version raw 10GB at=onprem,lake \n site lake cpus=1\n link lake cloud 1000MB/s"),
        "
        2 min 40 s, $0.01, exact
        train -> cloud at 10.0 s
          + raw from lake: 9.3 GiB, 10.0 s
          x lake: needs 4 cpus, has 1
          - onprem: $0.0083 cheaper, but 7 min 20 s slower: runs 7 min 30 s longer",
    );
}

#[test]
fn objectives() {
    let train = "task train cpus=4 run=600 run@cloud=150 in=raw\n version raw 1GB at=onprem\n";
    two(
        &format!("{train} objective time"),
        "
        3 min 50 s, $0.08, exact
        train -> cloud at 1 min 20 s
          + raw from onprem: 954 MiB, 1 min 20 s
          - onprem: $0.08 cheaper, but 6 min 10 s slower: runs 7 min 30 s longer",
    );
    two(
        &format!("{train} objective cost"),
        "
        10 min 0 s, $0.00, exact
        train -> onprem at 0 ms
          - cloud: 6 min 10 s faster, but $0.08 dearer",
    );
    two(
        &format!("{train} objective 0.9"),
        "
        3 min 50 s, $0.08, exact
        train -> cloud at 1 min 20 s
          + raw from onprem: 954 MiB, 1 min 20 s
          - onprem: $0.08 cheaper, but 6 min 10 s slower: runs 7 min 30 s longer",
    );
    two(
        &format!("{train} objective 0.1"),
        "
        10 min 0 s, $0.00, exact
        train -> onprem at 0 ms
          - cloud: 6 min 10 s faster, but $0.08 dearer",
    );
}

#[test]
fn residency_is_kept_by_all_that_derives() {
    let stages = "
        version raw 100MB at=onprem keep=region:eu
        task features cpus=1 run=60 in=raw
        task train cpus=4 run=600 run@cloud=10 from=features:5MB";
    two(
        stages,
        "
        11 min 0 s, $0.00, exact
        features -> onprem at 0 ms
          x cloud: raw may only be at {region: eu}
        train -> onprem at 1 min 0 s
          x cloud: features-out derives from raw, which may only be at {region: eu}",
    );
    two(
        &format!("{stages}!"),
        "
        1 min 10 s, $0.00, exact
        features -> onprem at 0 ms
          x cloud: raw may only be at {region: eu}
        train -> cloud at 1 min 0 s
          + features-out from onprem: 4.8 MiB, 400 ms
          - onprem: $0.00093 cheaper, but 9 min 49 s slower: runs 9 min 50 s longer",
    );
}

#[test]
fn refusals() {
    check(
        "
        site a cpus=2
        site b cpus=16 draining
        site c cpus=16 unreachable
        site d cpus=16
        site e cpus=16 containers
        site f cpus=16 containers zone=x
        task t cpus=4 run=60 image only=zone:x
        task u cpus=4 run=60 image
        task v cpus=4 gpu=a100*1
        task w from=v:1MB",
        "
        1 min 0 s, $0.00, exact
        t -> f at 0 ms
          x a: `site` asks for {zone: x}
          x b: `site` asks for {zone: x}
          x c: `site` asks for {zone: x}
          x d: `site` asks for {zone: x}
          x e: `site` asks for {zone: x}
        u -> e at 0 ms
          x a: has no containers
          x b: has no containers
          x c: has no containers
          x d: has no containers
          - f: just as good, later by name
        v: no site can have it
          x a: needs 4 cpus, has 2
          x b: needs 1 x a100, has 0
          x c: needs 1 x a100, has 0
          x d: needs 1 x a100, has 0
          x e: needs 1 x a100, has 0
          x f: needs 1 x a100, has 0
        w: it waits for v, which no site can have
          x a: waits for v, which no site can have
          x b: is draining
          x c: is not reachable
          x d: waits for v, which no site can have
          x e: waits for v, which no site can have
          x f: waits for v, which no site can have",
    );
}

#[test]
fn gpus_by_kind() {
    check(
        "
        site a cpus=8 gpu=t4*4
        site b cpus=8 gpu=a100*2 gpu_hour=2
        site c cpus=8 gpu=a100*1 gpu_hour=1
        task t cpus=1 gpu=a100*1 run=3600
        task u cpus=1 gpu=a100*2 run=3600
        objective cost",
        "
        1 h 0 min, $5.00, exact
        t -> c at 0 ms
          x a: needs 1 x a100, has 0
          - b: $1.00 dearer
        u -> b at 0 ms
          x a: needs 2 x a100, has 0
          x c: needs 2 x a100, has 1",
    );
}

#[test]
fn full_sites_make_wait_or_go_elsewhere() {
    let world = "
        site a cpus=4
        site b cpus=4 cpu_hour=1
        version raw 625MB at=a
        task t cpus=4 run=100 in=raw\n";
    check(
        &format!("{world} busy a cpus=2 for=20"),
        "
        2 min 0 s, $0.00, exact
        t -> a at 20.0 s
          - b: 30.0 s slower: 596 MiB to move",
    );
    check(
        &format!("{world} busy a cpus=2 for=500"),
        "
        2 min 30 s, $0.11, exact
        t -> b at 50.0 s
          + raw from a: 596 MiB, 50.0 s
          - a: $0.11 cheaper, but 7 min 29 s slower: waits 8 min 20 s for room",
    );
    check(
        &format!("{world} busy a cpus=2 \n busy b cpus=1"),
        "
        0 ms, $0.00, exact
        t: no site can have it
          x a: is full, and what runs there is not known to end
          x b: is full, and what runs there is not known to end",
    );
}

#[test]
fn a_diamond_spreads_where_there_is_no_room() {
    check(
        "
        site a cpus=2
        site b cpus=2
        link a b 100MB/s
        link b a 100MB/s
        task split cpus=1 run=10
        task left cpus=2 run=100 from=split:100MB
        task right cpus=2 run=90 from=split:100MB
        task join cpus=1 run=10 from=left:100MB from=right:100MB",
        "
        2 min 0 s, $0.00, exact
        split -> a at 0 ms
          - b: 1.0 s slower
        left -> a at 10.0 s
          - b: 1 min 32 s slower: 95.4 MiB to move
        right -> b at 11.0 s
          + split-out from a: 95.4 MiB, 1.0 s
          - a: 1 min 30 s slower: waits 1 min 40 s for room
        join -> a at 1 min 50 s
          + right-out from b: 95.4 MiB, 1.0 s
          - b: 1.0 s slower: 95.4 MiB to move",
    );
}

#[test]
fn a_chain_stays_together_when_egress_is_dear() {
    check(
        "
        site a cpus=2 cpu_hour=1 egress=5
        site b cpus=2 cpu_hour=0.9
        version raw 1GB at=a
        task one cpus=2 run=3600 in=raw
        task two cpus=2 run=3600 from=one:1GB
        task three cpus=2 run=3600 from=two:1GB
        objective cost",
        "
        3 h 0 min, $6.00, exact
        one -> a at 0 ms
          - b: $4.46 dearer
        two -> a at 1 h 0 min
          - b: $4.46 dearer
        three -> a at 2 h 0 min
          - b: $4.46 dearer",
    );
}

#[test]
fn what_is_moved_for_one_is_there_for_the_next() {
    check(
        "
        site a cpus=1 egress=0.1
        site b cpus=8
        version raw 1GB at=a
        task one cpus=2 run=10 in=raw
        task two cpus=2 run=5 in=raw",
        "
        1 min 30 s, $0.09, exact
        one -> b at 1 min 20 s
          + raw from a: 954 MiB, 1 min 20 s
          x a: needs 2 cpus, has 1
        two -> b at 1 min 20 s
          x a: needs 2 cpus, has 1",
    );
}

#[test]
fn what_is_decided_is_kept() {
    check(
        "
        site a cpus=2
        site b cpus=2
        task past done=b
        task now cpus=2 run=100 running=b:30 from=past:10MB
        task promised cpus=1 run=10 placed=b from=past:10MB
        task lost done=gone
        task next cpus=1 run=10 from=now:125MB from=promised:1MB
        task never cpus=1 run=10 from=lost:1MB",
        "
        50.0 s, $0.00, exact
        past -> b at 0 ms
          x a: already placed at b
          x gone: already placed at b
        now -> b at 0 ms
          x a: already placed at b
          x gone: already placed at b
        lost -> gone at 0 ms
          x a: already placed at gone
          x b: already placed at gone
        promised -> b at 30.0 s
          x a: already placed at b
          x gone: already placed at b
        next -> b at 40.0 s
          - a: 120 ms slower: 120 MiB to move
          x gone: is not reachable
        never: no site can have it
          x a: no reachable site has lost-out
          x b: no reachable site has lost-out
          x gone: is not reachable",
    );
}

#[test]
fn a_service_stays_and_takes_its_room_for_ever() {
    check(
        "
        site a cpus=2 cpu_hour=0.01
        site b cpus=2 cpu_hour=0.02
        task train cpus=2 run=60
        task predict cpus=1 service from=train:1MB
        task later cpus=2 run=60 from=train:1MB priority=-1
        objective cost",
        "
        2 min 0 s, $0.24, exact
        train -> a at 0 ms
          - b: 100 ms faster, but $0.00033 dearer
        predict -> a at 1 min 0 s
          - b: leaves no room for other tasks
        later -> b at 1 min 0 s
          + train-out from a: 977 KiB, 100 ms
          x a: is full, and what runs there is not known to end",
    );
}

#[test]
fn what_waits_ahead_is_waited_for() {
    let sites = "
        site near cpus=4
        site far cpus=4
        busy near cpus=4 for=10
        busy far cpus=4 for=60
        task train cpus=2 run=30
    ";
    check(
        sites,
        "
        40.0 s, $0.00, exact
        train -> near at 10.0 s
          - far: 50.0 s slower: waits 1 min 0 s for room",
    );
    // Two that need all of it, one after the other; what is behind them fits beside neither.
    check(
        &format!("{sites} queue near cpus=4 for=40 \n queue near cpus=3 for=40"),
        "
        1 min 30 s, $0.00, exact
        train -> far at 1 min 0 s
          - near: 30.0 s slower: waits 1 min 30 s for room",
    );
    // A service in the queue never gives its room back.
    check(
        &format!("{sites} queue near cpus=3 \n"),
        "
        1 min 30 s, $0.00, exact
        train -> far at 1 min 0 s
          x near: is full, and what runs there is not known to end",
    );
}

#[test]
fn nobody_overtakes_the_queue() {
    // There is room for the task now, and the one that is ahead of it waits for that very room.
    check(
        "site a cpus=4
        busy a cpus=2 for=100
        queue a cpus=4 for=50
        task small cpus=1 run=10",
        "
        2 min 40 s, $0.00, exact
        small -> a at 2 min 30 s",
    );
}
