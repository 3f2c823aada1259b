//! A network without the machine's: one part for the control plane and one for each of two sites, which reach the
//! control plane alone. Its parts have no names and live for as long as a process in each, so nothing is left of
//! them, whatever becomes of the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::world::{SOON, wait};

/// The control plane's address, the same for both sites.
pub const CONTROL: &str = "10.77.9.1";
const ADDRESS_OF_B: &str = "10.77.2.2";

/// Within the control plane's part: no packet goes through it, only what programs there hand on.
const ROUTES: &str = "
set -e
echo 0 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip address add 10.77.9.1/32 dev lo
for n in 1 2; do
    ip link add to-$n type veth peer name line netns $(eval echo \\$SITE_$n)
    ip address add 10.77.$n.1/24 dev to-$n
    ip link set to-$n up
done
";
/// Within a site's part.
const ROUTE: &str = "
set -e
ip link set lo up
ip address add 10.77.$N.2/24 dev line
ip link set line up
ip route add default via 10.77.$N.1
";

pub struct Apart {
    control: Part,
    a: Part,
    b: Part,
}

impl Apart {
    /// None, with the reason told, where networks can't be made.
    pub fn make() -> Option<Apart> {
        match Apart::try_make() {
            Ok(net) => Some(net),
            Err(why) => {
                super::world::left_out(&format!("networks can't be made here, which needs root and `ip`: {why}"));
                None
            }
        }
    }

    fn try_make() -> Result<Apart, String> {
        let net = Apart { control: Part::make()?, a: Part::make()?, b: Part::make()? };
        let sites = [net.a.pid(), net.b.pid()].map(|pid| pid.to_string());
        done(net.control.sh(ROUTES).envs([("SITE_1", &sites[0]), ("SITE_2", &sites[1])]))?;
        done(net.a.sh(ROUTE).env("N", "1"))?;
        done(net.b.sh(ROUTE).env("N", "2"))?;
        Ok(net)
    }

    /// A program at a site, or where the control plane is.
    pub fn command(&self, who: &str, program: &str) -> Command {
        match who {
            "a" => self.a.command(program),
            "b" => self.b.command(program),
            _ => self.control.command(program),
        }
    }

    /// Whether a packet finds its way from there to site b.
    pub fn reaches_b_from(&self, who: &str) -> bool {
        let listen = format!(
            "import socket; s = socket.create_server(('{ADDRESS_OF_B}', 9000)); print('listening', flush=True); s.accept()"
        );
        let mut listener = self.command("b", "python3").args(["-c", &listen]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(listener.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        let dial = format!("import socket; socket.create_connection(('{ADDRESS_OF_B}', 9000), timeout=3)");
        let dialled = self.command(who, "python3").args(["-c", &dial]).stderr(Stdio::null()).status().unwrap();
        let _ = listener.kill();
        let _ = listener.wait();
        dialled.success()
    }

    /// Takes the line to site b away, or gives it back.
    pub fn line_to_b(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        let mut command = self.control.command("ip");
        done(command.args(["link", "set", "to-2", state])).unwrap();
    }
}

/// A network namespace, held by a process that ends with the test's thread.
struct Part(Child);

impl Part {
    fn make() -> Result<Part, String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut part = Part(command.spawn().map_err(|error| format!("setpriv: {error}"))?);
        let own = fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        let path = part.path();
        wait(SOON, "a network of its own, or no leave to make one", || match part.0.try_wait() {
            Ok(Some(status)) => Some(Err(format!("unshare --net: {status}"))),
            _ => fs::read_link(&path).is_ok_and(|net| net != own).then_some(Ok(())),
        })?;
        Ok(part)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// The program itself is the child: `nsenter` becomes it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    fn sh(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        command
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
