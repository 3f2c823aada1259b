//! A single Kafka broker (KRaft mode) of the Apache project's own jars, which `cargo xtask test` brings by Maven.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Kafka {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Kafka {
    pub fn start() -> Kafka {
        let directory = tempfile::tempdir().expect("a directory");
        let (port, controller) = (super::free_port(), super::free_port());
        let settings = directory.path().join("server.properties");
        let data = directory.path().join("data");
        std::fs::write(&settings, properties(port, controller, &data)).expect("settings");
        let log = directory.path().join("log");
        let format = java(&["kafka.tools.StorageTool", "format", "-t", "dG9tYm9sby10ZXN0cy0wMA", "-c"])
            .arg(&settings)
            .output()
            .expect("java starts");
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let output = std::fs::File::create(&log).expect("a log");
        let mut child = java(&["kafka.Kafka"])
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("java starts");
        let said = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Kafka Server started"));
        super::wait(&mut child, &log, said);
        Kafka { child, port, _directory: directory }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn java(args: &[&str]) -> Command {
    let jars = jars();
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp"]).arg(format!("{}/*", jars.display()));
    command.args(args);
    command
}

/// Where `cargo xtask test` puts the jars.
fn jars() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let jars = cache.expect("a home directory").join("tombolo-ci/kafka-4.1.1");
    assert!(jars.is_dir(), "Kafka's jars are not in {}; `cargo xtask test` brings them", jars.display());
    jars
}

fn properties(port: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nlog.retention.check.interval.ms=1000\n",
        data.display()
    )
}
