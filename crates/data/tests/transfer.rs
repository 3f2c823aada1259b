//! Transfers over in-memory streams, with sources that are honest and sources that aren't.

mod help;
#[path = "help/peer.rs"]
pub mod peer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use help::{add, noise, open, packs, write};
use peer::{Mangle, Only, Peer, check_arrived, get, honest, options, source, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf};
use tombolo_core::{Digest, VersionId};
use tombolo_data::VerifyOptions;
use tombolo_data::transfer::{Amount, Dial, FetchError, FetchOptions, Gate, Source, fetch};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_arrives_and_only_its_missing_chunks_travel() {
    let mut world = world();
    let fetched = get(&world, &[honest(&world.from)]).await.unwrap();
    assert_eq!(fetched.chunks_already_here, 0);
    assert!(fetched.bytes_wire < fetched.bytes_raw, "chunks travel compressed: {fetched:?}");
    check_arrived(&world);
    let again = get(&world, &[honest(&world.from)]).await.unwrap();
    assert_eq!((again.chunks, again.bytes_wire), (0, 0));
    write(world.tree.path(), "new.bin", &noise(7, 200 << 10));
    world.version = add(&world.from, world.tree.path()).version;
    let delta = get(&world, &[honest(&world.from)]).await.unwrap();
    assert_eq!(delta.bytes_raw, 200 << 10);
    assert!(delta.bytes_wire < 240 << 10, "{delta:?}");
    check_arrived(&world);
}

/// Each lie is found, the liar named, and everything comes from the honest source.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lies_is_dropped_and_named() {
    let chunk = |change: fn(&mut Vec<u8>)| -> Mangle {
        Arc::new(move |body| {
            if body[0] == 3 {
                change(body);
            }
            true
        })
    };
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let lies: Vec<(&str, Mangle)> = vec![
        ("flipped", chunk(|body| *body.last_mut().unwrap() ^= 1)),
        ("shorter", chunk(|body| body.truncate(body.len() - 1))),
        (
            "another chunk",
            chunk(|body| {
                let other = noise(99, body.len() - 5);
                body[5..].copy_from_slice(&other);
            }),
        ),
        ("another length", chunk(|body| body[1] ^= 1)),
        (
            "a bomb",
            Arc::new(move |body| {
                if body[0] == 3 {
                    body.truncate(5);
                    body.extend_from_slice(&bomb);
                }
                true
            }),
        ),
        ("cut", Arc::new(|body| body[0] != 3)),
        (
            "nonsense",
            Arc::new(|body| {
                body[0] = 77;
                true
            }),
        ),
        (
            "another manifest",
            Arc::new(|body| {
                if body[0] == 2 {
                    body[20] ^= 1;
                }
                true
            }),
        ),
        (
            "a huge manifest",
            Arc::new(|body| {
                if body[0] == 1 {
                    body[1..].fill(0xff);
                }
                true
            }),
        ),
    ];
    for (name, mangle) in lies {
        let world = world();
        let alone = get(&world, &[source(&world.from, "liar", Some(mangle.clone()))]).await.unwrap_err();
        let FetchError::NoSourceLeft { sources, .. } = &alone else { panic!("{name}: {alone}") };
        assert_eq!(sources[0].name, "liar", "{name}");
        assert!(!world.to.has(world.version).unwrap(), "{name}");
        assert!(world.to.verify(&VerifyOptions::default()).unwrap().is_clean(), "{name}");
        let both = [source(&world.from, "liar", Some(mangle)), honest(&world.from)];
        get(&world, &both).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        check_arrived(&world);
    }
}

/// Cut after any number of answers: what was committed isn't sent again, and the rest is.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_resumes() {
    for cut_after in [0, 1, 2, 5, 11, 23, 40, 60] {
        let world = world();
        let whole = world.from.chunk_count().unwrap();
        let left = Arc::new(AtomicU64::new(cut_after));
        let mangle: Mangle = Arc::new(move |_| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        });
        get(&world, &[source(&world.from, "cut", Some(mangle))]).await.unwrap_err();
        // Another process goes on.
        let kept = open(world.to.dir()).chunk_count().unwrap();
        assert!(kept <= cut_after);
        assert!(cut_after < 11 || kept > 0, "{cut_after} answers came and nothing was kept");
        let rest = get(&world, &[honest(&world.from)]).await.unwrap();
        assert_eq!((rest.chunks_already_here, rest.chunks), (kept, whole - kept));
        check_arrived(&world);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_of_one_version_at_once_send_it_once() {
    let world = world();
    let sources = [honest(&world.from)];
    let (one, two) = tokio::join!(get(&world, &sources), get(&world, &sources));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.chunks + two.chunks, world.from.chunk_count().unwrap());
    // Another handle, as of another process, knows nothing of them.
    let other = open(world.to.dir());
    assert_eq!(fetch(&other, world.version, &sources, &options()).await.unwrap().chunks, 0);
    check_arrived(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_comes_with_its_reason() {
    let world = world();
    let gated = |grant: &[u8]| Source {
        dial: Peer {
            store: world.from.clone(),
            mangle: None,
            instead: None,
            hold: None,
            gate: Arc::new(Only(b"good".to_vec())),
        },
        grant: grant.to_vec(),
        name: "onprem".into(),
    };
    let error = get(&world, &[gated(b"bad")]).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Refused { source_name, reason, .. }
            if source_name == "onprem" && reason == "the data must stay at onprem"),
        "{error}"
    );
    get(&world, &[gated(b"bad"), gated(b"good")]).await.unwrap();
    check_arrived(&world);
}

/// A grant for one version opens no chunk of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_outside_the_version_is_refused() {
    let world = world();
    let secret = tempfile::tempdir().unwrap();
    write(secret.path(), "secret", b"secret");
    add(&world.from, secret.path());
    let (mut send, mut recv) = honest(&world.from).dial.open().await.unwrap();
    let mut request = vec![2];
    request.extend_from_slice(&world.version.0.0);
    request.extend_from_slice(&0_u32.to_le_bytes());
    request.extend_from_slice(&1_u32.to_le_bytes());
    request.extend_from_slice(&Digest(*blake3::hash(b"secret").as_bytes()).0);
    send.write_u32_le(request.len() as u32).await.unwrap();
    send.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    recv.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[4], 5, "refused");
    assert!(String::from_utf8_lossy(&answer).contains("is not in version"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_repaired_from_another_replica() {
    let world = world();
    get(&world, &[honest(&world.from)]).await.unwrap();
    let pack = packs(&world.to).remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let report = world.to.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.damaged.len(), 1);
    let repaired = get(&world, &[honest(&world.from)]).await.unwrap();
    assert_eq!(repaired.chunks, 1);
    check_arrived(&world);
}

/// A sender with a damaged chunk says so; that chunk comes from elsewhere, or the fetch says who lacks it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_source_lacks_another_brings() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    let second = open(dir.path());
    add(&second, world.tree.path());
    for (store, pack) in [(&world.from, 0), (&second, 1)] {
        let pack = packs(store).remove(pack);
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[50] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let error = get(&world, &[honest(&world.from)]).await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    get(&world, &[honest(&world.from), honest(&second)]).await.unwrap();
    check_arrived(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sender_finds_damaged_is_whole_again_when_it_is_added_again() {
    let world = world();
    let pack = packs(&world.from).remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let error = get(&world, &[honest(&world.from)]).await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(!world.from.has(world.version).unwrap(), "it is offered no more");
    assert_eq!(
        world.from.missing(&world.from.manifest(world.version).unwrap()).unwrap().len(),
        1,
        "what is whole in the pack stays"
    );
    add(&world.from, world.tree.path());
    get(&world, &[honest(&world.from)]).await.unwrap();
    check_arrived(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_source_an_empty_one_and_a_cancelled_fetch_end_clearly() {
    let world = world();
    let none = get(&world, &[]).await.unwrap_err();
    assert!(none.to_string().contains("none was named"), "{none}");
    let empty = tempfile::tempdir().unwrap();
    let lacking = get(&world, &[honest(&open(empty.path()))]).await.unwrap_err();
    assert!(lacking.to_string().contains("is not in this store"), "{lacking}");
    let options = options();
    let cancel = options.cancel.clone();
    let asked = FetchOptions { progress: Some(Arc::new(move |_, _| cancel.cancel())), ..options };
    let cancelled = fetch(&world.to, world.version, &[honest(&world.from)], &asked).await.unwrap_err();
    assert!(matches!(cancelled, FetchError::Cancelled), "{cancelled}");
    assert_eq!(world.to.versions().unwrap(), []);
    get(&world, &[honest(&world.from)]).await.unwrap();
    check_arrived(&world);
}

#[tokio::test]
async fn a_source_that_falls_silent_is_dropped() {
    struct Silent;
    impl Dial for Silent {
        type Send = tokio::io::Sink;
        type Recv = ReadHalf<DuplexStream>;
        async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
            let (near, far) = tokio::io::duplex(8);
            // Never dropped, so the stream never ends.
            std::mem::forget(far);
            Ok((tokio::io::sink(), tokio::io::split(near).0))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let version = VersionId(Digest([1; 32]));
    let sources = [Source { dial: Silent, grant: Vec::new(), name: "silent".into() }];
    let options = FetchOptions { stall: Duration::from_millis(50), ..options() };
    let error = fetch(&open(dir.path()), version, &sources, &options).await.unwrap_err();
    assert!(error.to_string().contains("silent for 50 ms"), "{error}");
}

/// Counts what it is told of, and lets so much go.
struct Counts {
    most: u64,
    told: std::sync::Mutex<(u64, Option<Amount>)>,
}

impl Gate for Counts {
    fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
        Ok(())
    }

    fn spend(&self, _grant: &[u8], amount: Amount, more: u64) -> Result<(), String> {
        let mut told = self.told.lock().unwrap();
        if told.0 + more > self.most {
            return Err(format!("{} bytes are more than the grant is for", told.0 + more));
        }
        *told = (told.0 + more, Some(amount));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_tells_what_it_sends_before_it_does_and_stops_where_it_must() {
    let world = world();
    let bytes = world.from.summary(world.version).unwrap().bytes;
    let manifest_bytes = world.from.manifest_bytes(world.version).unwrap().len() as u64;
    let counted = |most| Arc::new(Counts { most, told: Default::default() });
    let fetch = async |gate: Arc<Counts>| {
        let mut source = honest(&world.from);
        source.dial.gate = gate;
        get(&world, &[source]).await
    };
    // Nothing goes where the first of it is too much, and all that was let go was told before.
    let few = counted(100 << 10);
    let refused = fetch(few.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("more than the grant is for"), "{refused}");
    assert!(!world.to.has(world.version).unwrap());
    // The rest comes under another grant, and both together are little more than it has.
    let enough = counted(u64::MAX);
    let fetched = fetch(enough.clone()).await.unwrap();
    let (told, amount) = *enough.told.lock().unwrap();
    assert_eq!(amount, Some(Amount { bytes, manifest_bytes }));
    assert!(told <= fetched.bytes_wire && told + (64 << 10) > fetched.bytes_wire, "{told} of {fetched:?}");
    assert!(told + few.told.lock().unwrap().0 < 2 * bytes + 4 * manifest_bytes, "an honest resume stays within bounds");
    check_arrived(&world);
}
