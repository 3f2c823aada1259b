//! A PostgreSQL of Debian's packages.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub const PASSWORD: &str = "a-secret-of-the-test";

pub struct Postgres {
    child: Child,
    port: u16,
    bin: PathBuf,
    _directory: tempfile::TempDir,
}

impl Postgres {
    pub fn start() -> Postgres {
        let bin = bin();
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let password = directory.path().join("password");
        std::fs::write(&password, PASSWORD).expect("a file");
        if super::is_root() {
            let owned = Command::new("chown").arg("-R").arg("postgres").arg(directory.path()).status();
            assert!(owned.expect("chown").success());
        }
        let made = as_postgres(&bin.join("initdb"))
            .args(["--auth=scram-sha-256", "--username=shop", "--no-sync", "--encoding=UTF8", "--pgdata"])
            .arg(&data)
            .arg(format!("--pwfile={}", password.display()))
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = super::free_port();
        let log = directory.path().join("log");
        let mut child = as_postgres(&bin.join("postgres"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "unix_socket_directories="])
            .args(["-p", &port.to_string(), "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("postgres starts");
        let ready = || {
            let mut probe = Command::new(bin.join("pg_isready"));
            probe.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            probe.status().is_ok_and(|status| status.success())
        };
        super::wait(&mut child, &log, ready);
        Postgres { child, port, bin, _directory: directory }
    }

    pub fn url(&self) -> String {
        format!("postgres://shop@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    pub fn run(&self, sql: &str) {
        self.ask(sql);
    }

    /// What psql prints for a query, without decoration.
    pub fn ask(&self, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-v", "ON_ERROR_STOP=1", "-qAt", "-c", sql, &self.url()])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .expect("psql starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: an end at once, without a shutdown; its directory goes with it.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn as_postgres(program: &std::path::Path) -> Command {
    if !super::is_root() {
        return Command::new(program);
    }
    // It becomes the program itself, so that a signal to the child reaches it.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

fn bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is not installed; `cargo xtask test` brings it, or apt-get install postgresql")
}
