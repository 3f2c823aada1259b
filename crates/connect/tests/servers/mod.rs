//! Real servers for these tests, each with a directory and a port of its own, ended with the test.

#![allow(dead_code, reason = "each test program uses the servers that it needs")]

pub mod kafka;
pub mod postgres;
pub mod s3;

use std::net::TcpListener;
use std::process::Child;
use std::time::{Duration, Instant};

/// How long a server may take until it answers, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Waits until the server answers, and fails with its log where it ends instead.
pub fn wait(child: &mut Child, log: &std::path::Path, ready: impl Fn() -> bool) {
    let since = Instant::now();
    while !ready() {
        let ended = child.try_wait().expect("a child");
        if ended.is_some() || since.elapsed() > START_LIMIT {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("the server did not start ({ended:?}):\n{log}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Its user, where the tests run as root: PostgreSQL refuses to.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
