//! Where the world and its store would part, the process ends: what was acknowledged stays, and nothing that
//! was not is seen by anybody.

mod store_fixtures;

use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use store_fixtures::*;
use tombolo_api::wire::{Role, TokenInfo};
use tombolo_control::engine::Engine;
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Store, TokenRecord, Write};
use tombolo_core::Timestamp;

const DIR: &str = "ENGINE_ABORT_DIR";
const FAULT: &str = "ENGINE_ABORT_FAULT";

fn secret(text: &str) -> Write {
    Write::Secret { name: name(text), sealed: vec![1], updated: Timestamp(0) }
}

fn token(id: &str) -> Write {
    let info =
        TokenInfo { id: id.into(), name: "n".into(), role: Role::Viewer, created: 0, expires: 1, revoked: false };
    Write::Token(Box::new(TokenRecord { info, hash: "the same".into() }))
}

/// Not a test by itself: the others start it as a process of its own, which is to die.
#[tokio::test]
async fn child_that_meets_a_fault() {
    let (Ok(dir), Ok(fault)) = (std::env::var(DIR), std::env::var(FAULT)) else { return };
    let store = SqliteStore::open(&Path::new(&dir).join("t.db")).await.unwrap();
    let engine = Engine::start(Arc::new(store)).await.unwrap();
    let kept = vec![secret("kept"), token("1")];
    engine.change(|_, _| Ok::<_, Infallible>(((), kept))).await.unwrap().unwrap();
    match fault.as_str() {
        "panic" => {
            let change = engine.change(|world, _| {
                world.join(site("never")).unwrap();
                if world.sites.len() == 1 {
                    panic!("a change that panics");
                }
                Ok::<_, Infallible>(((), vec![secret("never")]))
            });
            // The caller may learn that the engine is gone before the process is.
            assert!(change.await.is_err());
        }
        _ => {
            // The database refuses a second token of one hash.
            let refused = vec![secret("never"), token("2")];
            let _ = engine.change(|_, _| Ok::<_, Infallible>(((), refused))).await;
            panic!("answered, though nothing was written");
        }
    }
    // Only an abort ends this.
    std::future::pending::<()>().await;
}

async fn check_aborts(fault: &str) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_meets_a_fault", "--nocapture"])
        .env(DIR, dir.path())
        .env(FAULT, fault)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{text}");
    let store = SqliteStore::open(&dir.path().join("t.db")).await.unwrap();
    assert!(store.secret(&name("kept")).await.unwrap().is_some(), "it was acknowledged");
    assert_eq!(store.secret(&name("never")).await.unwrap(), None);
    assert_eq!(store.live().await.unwrap().sites, []);
}

#[tokio::test]
async fn a_change_that_panics_ends_the_process() {
    check_aborts("panic").await;
}

#[tokio::test]
async fn a_transaction_that_fails_ends_the_process() {
    check_aborts("transaction").await;
}
