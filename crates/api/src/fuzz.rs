//! What readers of strangers' texts must keep to, whatever bytes they are given; see `tombolo_data::fuzz`, whose twin for
//! this crate it is. Not part of the program: it is built for tests and by `cargo xtask fuzz` only.

use std::io;

use ed25519_dalek::SigningKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_core::retention::Rules;
use tombolo_core::source::Source;
use tombolo_core::spec::ProjectSpec;
use tombolo_core::sync::{Desired, Report};
use tombolo_core::tag::Tag;
use tombolo_core::{Digest, Epoch, Name, RunId, SiteId, Timestamp, VersionId, WorkloadId};

use crate::frames;
use crate::grant::{Begun, Grant};
use crate::project::{self, Loader};
use crate::run_token::{Claimed, RunToken};
use crate::stream::{Call, Down, Opening, Said, Sources, Up};
use crate::wire::{
    Join, MoveRequest, NewJoinToken, NewLink, NewPlan, NewPrune, NewRelease, NewRestore, NewRun, NewSecret, NewTag,
    NewToken, NewVersion, SitePatch,
};

/// A target: any bytes go in, and a panic is a fault.
pub type Target = fn(&[u8]);

/// All targets of this crate by their names, which are those of the programs in `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("api-grant", grant),
    ("api-token", token),
    ("api-stream", stream),
    ("api-body", body),
    ("api-project", project),
    ("api-names", names),
];

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// The one grant that the key has signed.
fn granted() -> Grant {
    let site = |name| SiteId::new(name).expect("a name");
    Grant {
        version: VersionId(Digest([1; 32])),
        from: site("a"),
        to: site("b"),
        to_key: "kb".to_owned(),
        until: Timestamp(1_000_000),
        bytes: Some(1 << 20),
    }
}

/// No grant is good but the one that was signed; and what a grant may say at all survives its signing.
pub fn grant(bytes: &[u8]) {
    let key = key();
    if let Ok(grant) = Grant::open(bytes, &key.verifying_key()) {
        assert_eq!(grant, granted(), "a grant that nobody has signed");
    }
    let wanted = granted();
    let wanted = (wanted.version, &wanted.from, wanted.to_key.as_str());
    let mut begun = Begun::default();
    for now in [i64::MIN, 0, 1_500_000, i64::MAX] {
        let good = begun.check(bytes, &key.verifying_key(), wanted, Timestamp(now));
        assert!(good.is_err() || Grant::open(bytes, &key.verifying_key()).is_ok());
    }
    if let Ok(grant) = serde_json::from_slice::<Grant>(bytes) {
        let signed = grant.sign(&key);
        assert_eq!(Grant::open(&signed, &key.verifying_key()).as_ref(), Ok(&grant));
        let mut begun = Begun::default();
        for now in [i64::MIN, 0, i64::MAX] {
            let wanted = (grant.version, &grant.from, grant.to_key.as_str());
            let _ = begun.check(&signed, &key.verifying_key(), wanted, Timestamp(now));
        }
    }
}

/// No token is true but the one that was signed.
pub fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(claimed) = Claimed::read(&text) else { return };
    let signed = RunToken {
        site: "here".parse().expect("a name"),
        workload: "run-1/train".parse().expect("one"),
        epoch: Epoch(2),
    };
    if claimed.check(&key().verifying_key()) {
        assert_eq!(claimed.claim, signed, "a token that nobody has signed");
    }
    let again = Claimed::read(&claimed.claim.sign(&key())).expect("a token of our own");
    assert!(again.check(&key().verifying_key()) && again.claim == claimed.claim);
}

/// Every message of the agent's stream, alone and in frames.
pub fn stream(bytes: &[u8]) {
    let (kind, text) = bytes.split_first().unwrap_or((&0, &[]));
    match kind % 8 {
        0 => same::<Opening>(text),
        1 => same::<Up>(text),
        2 => same::<Down>(text),
        3 => same::<Sources>(text),
        4 => same::<Call>(text),
        5 => same::<Said>(text),
        6 => same::<Report>(text),
        _ => same::<Desired>(text),
    }
    // All bytes are there, so that there is nothing to wait for.
    let mut rest = text;
    let mut reading = std::pin::pin!(async { while frames::read::<Up>(&mut rest).await.is_ok() {} });
    let polled = reading.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(polled.is_ready(), "it waits");
}

/// Every body that the API takes.
pub fn body(bytes: &[u8]) {
    let (kind, text) = bytes.split_first().unwrap_or((&0, &[]));
    match kind % 14 {
        0 => same::<NewRun>(text),
        1 => same::<NewPlan>(text),
        2 => same::<NewVersion>(text),
        3 => same::<NewTag>(text),
        4 => same::<NewRestore>(text),
        5 => same::<NewPrune>(text),
        6 => same::<NewRelease>(text),
        7 => same::<MoveRequest>(text),
        8 => same::<SitePatch>(text),
        9 => same::<NewLink>(text),
        10 => same::<NewJoinToken>(text),
        11 => same::<Join>(text),
        12 => same::<NewToken>(text),
        _ => same::<NewSecret>(text),
    }
}

/// What was read says the same when it is written and read once more: what is kept of it is what was asked for.
fn same<T: Serialize + DeserializeOwned>(text: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(text) else { return };
    let written = serde_json::to_value(&read).expect("what was read is written");
    let again: T = serde_json::from_value(written.clone()).expect("what was written is read");
    assert_eq!(serde_json::to_value(&again).expect("it was written before"), written);
}

/// A project's directory with a query and nothing else.
struct Small;

impl Loader for Small {
    fn read(&self, path: &str) -> io::Result<String> {
        if path == "q.sql" { Ok("select 1".to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn exists(&self, path: &str) -> bool {
        path == "q.sql"
    }
}

/// Any text is a project, whose spec is the same after a way through JSON, or has faults at places that there are.
pub fn project(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match project::parse(&text, "tombolo.yaml", &Small) {
        Ok(spec) => {
            let written = serde_json::to_value(&spec).expect("a spec is plain data");
            let again: ProjectSpec = serde_json::from_value(written.clone()).expect("its own text");
            assert_eq!(serde_json::to_value(&again).expect("it was written before"), written);
            for name in spec.workloads.keys() {
                let found = [(name.as_str(), "why".to_owned(), "hint".to_owned())];
                assert!(!project::faults_of(&text, "tombolo.yaml", found).faults.is_empty());
            }
        }
        Err(faults) => {
            assert!(!faults.faults.is_empty() && faults.faults.len() <= project::FAULTS_MAX);
            let lines = text.split('\n').count() + text.matches('\r').count();
            for fault in &faults.faults {
                assert!((1..=lines).contains(&fault.line) && fault.column >= 1, "{}:{}", fault.line, fault.column);
            }
            let _ = faults.to_string();
        }
    }
}

/// Names and other small texts: what is read is written the same way.
pub fn names(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    fn same<T: std::str::FromStr + std::fmt::Display>(text: &str) {
        if let Ok(read) = text.parse::<T>() {
            assert_eq!(read.to_string(), text);
        }
    }
    if let Ok(name) = Name::new(text) {
        assert_eq!(name.to_string(), text);
    }
    same::<RunId>(text);
    same::<SiteId>(text);
    same::<WorkloadId>(text);
    same::<Tag>(text);
    if let Ok(version) = text.parse::<VersionId>() {
        assert_eq!(version.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(rules) = text.parse::<Rules>() {
        assert_eq!(rules.to_string().parse::<Rules>().ok(), Some(rules));
    }
    if let Ok(source) = Source::parse(text, None) {
        assert_eq!(source.check(), Ok(()), "{source}");
    }
    let _ = (project::size(text), project::duration(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the targets would say nothing of what is good.
    #[test]
    fn the_seeds_that_are_signed_are_good() {
        let seed = |name: &str| {
            let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
            std::fs::read(seeds.join(name).join("signed")).unwrap()
        };
        assert_eq!(Grant::open(&seed("api-grant"), &key().verifying_key()), Ok(granted()));
        let claimed = Claimed::read(std::str::from_utf8(&seed("api-token")).unwrap()).unwrap();
        assert!(claimed.check(&key().verifying_key()));
    }

    include!("../../../fuzz/seeds.rs");

    #[test]
    fn every_target_has_seeds_and_keeps_to_its_word_on_them() {
        check_targets(TARGETS, &[b"\x00{}", b"\x01[]"]);
    }
}
