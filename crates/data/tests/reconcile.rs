//! Manifests of which most is held already: only what differs travels, and no lie about it is taken.

mod help;
#[path = "help/peer.rs"]
mod peer;
#[path = "help/s3.rs"]
#[allow(dead_code)]
mod s3;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use help::{add, look, materialized, open, write};
use peer::{Mangle, Only, Peer, World, check_arrived, get, honest, options, source, world_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tombolo_core::Digest;
use tombolo_data::transfer::{Dial, FetchError, Source, fetch};
use tombolo_data::{Store, StoreOptions, Timing};

/// So many that their manifest isn't sent whole for its shortness; their names do the most for it.
const FILES: usize = 800;

fn name(n: usize) -> String {
    format!("many/{}/{n:0180}", n % 7)
}

fn make(tree: &Path) {
    for n in 0..FILES {
        write(tree, &name(n), format!("{n}").as_bytes());
    }
}

/// A world whose first version is on both sides; its second, of which little is new, on one.
async fn changed() -> World {
    let mut world = world_of(make);
    get(&world, &[honest(&world.from)]).await.unwrap();
    for n in [3, 100, 777] {
        write(world.tree.path(), &name(n), b"changed");
    }
    write(world.tree.path(), "new.txt", b"new");
    world.version = add(&world.from, world.tree.path()).version;
    world
}

fn manifest_bytes(world: &World) -> u64 {
    world.from.manifest_bytes(world.version).unwrap().len() as u64
}

/// Counts the frames of a kind.
fn counting(kind: u8) -> (Mangle, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let mangle: Mangle = Arc::new(move |body| {
        counted.fetch_add(u64::from(body[0] == kind), Ordering::Relaxed);
        true
    });
    (mangle, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_manifest_only_what_differs_travels() {
    let world = changed().await;
    // A manifest that is newer and as long, and has nothing of it.
    let other = tempfile::tempdir().unwrap();
    for n in 0..FILES {
        write(other.path(), &format!("other{}", name(n)), format!("other {n}").as_bytes());
    }
    add(&world.to, other.path());
    let (mangle, items) = counting(7);
    let delta = get(&world, &[source(&world.from, "counted", Some(mangle))]).await.unwrap();
    assert!(items.load(Ordering::Relaxed) > 0, "the tree was walked");
    assert!(delta.bytes_wire < manifest_bytes(&world) / 8, "{delta:?} of {}", manifest_bytes(&world));
    // The three that changed are equal.
    assert_eq!((delta.chunks, delta.chunks_already_here), (2, FILES as u64 - 3));
    check_arrived(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_short_or_mostly_new_comes_whole() {
    let mut world = changed().await;
    for n in 0..FILES {
        write(world.tree.path(), &name(n), format!("{n} again").as_bytes());
    }
    world.version = add(&world.from, world.tree.path()).version;
    let (mangle, pieces) = counting(2);
    get(&world, &[source(&world.from, "counted", Some(mangle))]).await.unwrap();
    assert!(pieces.load(Ordering::Relaxed) > 0);
    check_arrived(&world);
    std::fs::remove_dir_all(world.tree.path().join("many")).unwrap();
    world.version = add(&world.from, world.tree.path()).version;
    let (mangle, items) = counting(7);
    get(&world, &[source(&world.from, "counted", Some(mangle))]).await.unwrap();
    assert_eq!(items.load(Ordering::Relaxed), 0);
    check_arrived(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_no_help_and_no_harm() {
    let world = changed().await;
    for entry in std::fs::read_dir(world.to.dir().join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    get(&world, &[honest(&world.from)]).await.unwrap();
    assert_eq!(materialized(&world.to, world.version), look(world.tree.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lies_about_its_tree_is_dropped_and_named() {
    let of = |kind: u8, change: fn(&mut Vec<u8>)| -> Mangle {
        Arc::new(move |body| {
            if body[0] == kind {
                change(body);
            }
            true
        })
    };
    let pages = |change: fn(&mut Vec<u8>)| of(7, change);
    let lies: Vec<(&str, Mangle)> = vec![
        ("every item", pages(|body| *body.last_mut().unwrap() ^= 1)),
        ("every page", pages(|body| body[9] ^= u8::from(body[1] == 0))),
        ("heights", pages(|body| body[1] = body[1].wrapping_add(1))),
        ("no items", pages(|body| body.truncate(1))),
        ("endless items", pages(|body| body.resize(9 << 10, 1))),
        ("chunks for items", pages(|body| body[0] = 3)),
        ("nonsense", pages(|body| body[0] = 77)),
        ("cut", Arc::new(|body| body[0] != 7)),
        ("another length", of(6, |body| body[1] ^= 1)),
        ("a huge length", of(6, |body| body[1..9].fill(0xff))),
        ("a huge head", of(6, |body| body[9..].fill(0xff))),
        ("no head", of(6, |body| body[9..].fill(0))),
        ("half a head", of(6, |body| body.truncate(5))),
    ];
    let mut world = changed().await;
    for (name, mangle) in lies {
        let alone = get(&world, &[source(&world.from, "liar", Some(mangle.clone()))]).await.unwrap_err();
        let FetchError::NoSourceLeft { sources, .. } = &alone else { panic!("{name}: {alone}") };
        assert_eq!(sources[0].name, "liar", "{name}");
        assert!(!world.to.has(world.version).unwrap(), "{name}");
        let both = [source(&world.from, "liar", Some(mangle)), honest(&world.from)];
        get(&world, &both).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(world.to.has(world.version).unwrap(), "{name}");
        // The next lie is about the next version.
        write(world.tree.path(), "new.txt", name.as_bytes());
        world.version = add(&world.from, world.tree.path()).version;
    }
    get(&world, &[honest(&world.from)]).await.unwrap();
    check_arrived(&world);
}

/// A tree that is right in itself, but another version's.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_gives_another_versions_tree_is_dropped_and_named() {
    let mut world = changed().await;
    let other = world.version;
    write(world.tree.path(), "newer.txt", b"newer");
    world.version = add(&world.from, world.tree.path()).version;
    let mut liar = source(&world.from, "liar", None);
    liar.dial.instead = Some(other);
    let error = get(&world, std::slice::from_ref(&liar)).await.unwrap_err();
    assert!(error.to_string().contains("liar: it lied: its manifest is another version's"), "{error}");
    get(&world, &[liar, honest(&world.from)]).await.unwrap();
    check_arrived(&world);
    assert!(!world.to.has(other).unwrap());
}

/// The first answer to a question for items of the version's tree.
async fn answered(world: &World, grant: &[u8], items: &[Digest]) -> (u8, String) {
    let dial = Peer {
        store: world.from.clone(),
        mangle: None,
        instead: None,
        hold: None,
        gate: Arc::new(Only(b"good".to_vec())),
    };
    let (mut send, mut recv) = dial.open().await.unwrap();
    let mut request = vec![3];
    request.extend_from_slice(&world.version.0.0);
    request.extend_from_slice(&(grant.len() as u32).to_le_bytes());
    request.extend_from_slice(grant);
    request.extend_from_slice(&(items.len() as u32).to_le_bytes());
    items.iter().for_each(|item| request.extend_from_slice(&item.0));
    send.write_u32_le(request.len() as u32).await.unwrap();
    send.write_all(&request).await.unwrap();
    send.shutdown().await.unwrap();
    let mut answer = Vec::new();
    recv.read_to_end(&mut answer).await.unwrap();
    (answer[4], String::from_utf8_lossy(&answer[5..]).into_owned())
}

/// A grant for one version opens nothing of another's manifest, and no grant opens anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_outside_the_version_is_not_given() {
    let mut world = world_of(make);
    let secret = tempfile::tempdir().unwrap();
    write(secret.path(), "secret", b"secret");
    let version = add(&world.from, secret.path()).version;
    // So short that it is one page.
    let page = [&[0][..], &world.from.manifest_bytes(version).unwrap()].concat();
    let page = Digest(*blake3::hash(&page).as_bytes());
    let (kind, why) = answered(&world, b"good", &[page]).await;
    assert!(kind == 4 && why.contains("isn't of this version's manifest"), "{why}");
    for items in [&[][..], &[page]] {
        let (kind, why) = answered(&world, b"bad", items).await;
        assert!(kind == 5 && why.contains("must stay"), "{why}");
    }
    assert_eq!(answered(&world, b"good", &[]).await.0, 6);
    world.version = version;
    assert_eq!(answered(&world, b"good", &[page]).await.0, 7);
}

/// A bucket's list tells no times; what this process has brought there it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_spared_what_it_holds_too() {
    let mut world = world_of(make);
    let dir = tempfile::tempdir().unwrap();
    let server = s3::Server::start(&dir.path().join("objects"));
    let hour = Duration::from_secs(3_600);
    let bucket = server.options(Timing { lease: hour, commit: hour / 2, condemned: 2 * hour, remembered: 3 * hour });
    let cache = dir.path().join("cache");
    let to = tokio::task::spawn_blocking(move || {
        Store::open(cache, StoreOptions { bucket: Some(bucket), ..StoreOptions::default() }).unwrap()
    });
    let to = to.await.unwrap();
    let bring = async |world: &World| {
        let sources: [Source<Peer>; 1] = [honest(&world.from)];
        fetch(&to, world.version, &sources, &options()).await.unwrap()
    };
    bring(&world).await;
    write(world.tree.path(), "new.txt", b"new");
    world.version = add(&world.from, world.tree.path()).version;
    let delta = bring(&world).await;
    assert!(delta.bytes_wire < manifest_bytes(&world) / 8, "{delta:?} of {}", manifest_bytes(&world));
    assert_eq!(to.manifest_bytes(world.version).unwrap(), world.from.manifest_bytes(world.version).unwrap());
}

#[test]
fn what_the_test_makes_is_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    make(tree.path());
    let store = open(dir.path());
    let version = add(&store, tree.path()).version;
    assert!(store.manifest_bytes(version).unwrap().len() > 160 << 10);
}
