//! Transfers beside each other, and several sources for one: who is slow or gone holds up nobody else.

mod help;
#[path = "help/peer.rs"]
mod peer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use help::{noise, write};
use peer::{Hold, Mangle, Peer, World, check_arrived, get, honest, options, source, world_of};
use tombolo_data::transfer::{Budget, FetchError, FetchOptions, Source, fetch};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
const BUDGET: u64 = 2 << 20;

/// More than the budget has room for.
fn large(tree: &Path) {
    write(tree, "large.bin", &noise(1, 8 << 20));
}

fn small(tree: &Path) {
    write(tree, "small.bin", &noise(2, 300 << 10));
}

fn held(world: &World, hold: &Arc<Hold>) -> Source<Peer> {
    let mut source = source(&world.from, "slow", None);
    source.dial.hold = Some(hold.clone());
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_transfer_passes_a_large_one_that_is_stuck() {
    let (large, small) = (world_of(large), world_of(small));
    let budget = Budget::new(BUDGET);
    let options = || FetchOptions { budget: budget.clone(), stall: PATIENCE, ..FetchOptions::default() };
    let hold = Hold::new(0);
    let (stuck, slow) = (held(&large, &hold), options());
    let (to, version) = (large.to.clone(), large.version);
    let first = tokio::spawn(async move { fetch(&to, version, &[stuck], &slow).await });
    // It has asked for what it may and waits for answers.
    hold.waited.subscribe().wait_for(|waited| *waited > 0).await.unwrap();
    let passes = async { fetch(&small.to, small.version, &[honest(&small.from)], &options()).await };
    let passed = tokio::time::timeout(PATIENCE, passes).await.expect("it waits for the other").unwrap();
    assert_eq!(passed.bytes_raw, 300 << 10);
    check_arrived(&small);
    assert!(!first.is_finished());
    hold.permits.add_permits(10_000);
    first.await.unwrap().unwrap();
    check_arrived(&large);
}

/// Chunks that pass are counted.
fn counted(world: &World, name: &str, dies_after: u64) -> (Source<Peer>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let passed = count.clone();
    let mangle: Mangle = Arc::new(move |body| body[0] != 3 || passed.fetch_add(1, Ordering::Relaxed) < dies_after);
    (source(&world.from, name, Some(mangle)), count)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sources_are_both_used_and_one_that_dies_is_made_up_for() {
    for dies_after in [u64::MAX, 20] {
        let world = world_of(large);
        let chunks = world.from.chunk_count().unwrap();
        let (one, by_one) = counted(&world, "one", u64::MAX);
        let (two, by_two) = counted(&world, "two", dies_after);
        let fetched = get(&world, &[one, two]).await.unwrap();
        assert_eq!(fetched.chunks, chunks);
        let (by_one, by_two) = (by_one.load(Ordering::Relaxed), by_two.load(Ordering::Relaxed));
        assert!(by_one > 20 && by_two > 20, "{by_one} and {by_two} of {chunks}");
        check_arrived(&world);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_stuck_keeps_only_what_it_was_asked_for() {
    let world = world_of(large);
    let hold = Hold::new(0);
    let (fast, by_fast) = counted(&world, "fast", u64::MAX);
    let slow = held(&world, &hold);
    let options = FetchOptions { stall: Duration::from_secs(2), ..options() };
    let fetched = fetch(&world.to, world.version, &[fast, slow], &options).await.unwrap();
    // When it was given up, the other brought what it was asked for too.
    let all = world.from.chunk_count().unwrap();
    assert_eq!((fetched.chunks, by_fast.load(Ordering::Relaxed)), (all, all));
    check_arrived(&world);
}

/// Whenever a transfer is cancelled it ends, its room is free, and the next one brings only the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_cancelled_at_any_point() {
    for after in [0, 1, 7, 60, 200] {
        let world = world_of(large);
        let budget = Budget::new(BUDGET);
        let options = || FetchOptions { budget: budget.clone(), stall: PATIENCE, ..FetchOptions::default() };
        let hold = Hold::new(after);
        let (cancelled, source) = (options(), held(&world, &hold));
        let (cancel, to, version) = (cancelled.cancel.clone(), world.to.clone(), world.version);
        let running = tokio::spawn(async move { fetch(&to, version, &[source], &cancelled).await });
        let enough = after as u64 + 1;
        hold.waited.subscribe().wait_for(|waited| *waited >= enough).await.unwrap();
        cancel.cancel();
        let ended = tokio::time::timeout(PATIENCE, running).await.expect("it doesn't end").unwrap();
        assert!(matches!(ended, Err(FetchError::Cancelled)), "{ended:?}");
        assert_eq!(world.to.versions().unwrap(), []);
        let rest = fetch(&world.to, world.version, &[honest(&world.from)], &options()).await.unwrap();
        assert_eq!(rest.chunks + rest.chunks_already_here, world.from.chunk_count().unwrap());
        check_arrived(&world);
    }
}
