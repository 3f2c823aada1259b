//! `tombolo server`: the control plane.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tombolo_control::server::{ServerOptions, serve};

use crate::failure::Failure;
use crate::home::{Context, Home};

const EXAMPLES: &str = "\
Examples:
  tombolo server                    on this machine alone, with its data in ~/.tombolo/server
  tombolo server --listen 0.0.0.0:7070 --agent-listen 0.0.0.0:7071
  tombolo server --relay-listen 0.0.0.0:7072 --relay-url https://relay.example.org     behind NAT or a proxy

The first start makes an admin token in <dir>/admin.token, which only its owner can read. Other commands on this
machine find it by themselves.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Server {
    /// Where the database and keys are; ~/.tombolo/server unless given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The HTTP API's address
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where agents dial, over UDP; port 0 picks one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    agent_listen: SocketAddr,
    /// A relay for agents that UDP can't reach, over HTTP
    #[arg(long, value_name = "ADDRESS")]
    relay_listen: Option<SocketAddr>,
    /// Where agents reach the relay, if not at the address where it listens
    #[arg(long, value_name = "URL", requires = "relay_listen")]
    relay_url: Option<String>,
}

pub async fn run(args: Server) -> Result<(), Failure> {
    let home = Home::find()?;
    let options = ServerOptions {
        dir: args.dir.unwrap_or_else(|| home.server_dir()),
        listen: args.listen,
        agent_listen: args.agent_listen,
        relay_listen: args.relay_listen,
        relay_url: args.relay_url,
    };
    let served = serve(options, |ready| {
        let address = format!("http://{}", reachable(ready.address));
        eprintln!("the control plane answers at {address}; its admin token is in {}", ready.token_file.display());
        eprintln!("let a site in: tombolo site token, then tombolo agent join {address} --token <token> --name <name>");
        let token_file = std::path::absolute(&ready.token_file).unwrap_or(ready.token_file);
        if let Err(failure) = home.write_context(&Context { address, token_file }) {
            // The server works without it; commands then need --server and --token.
            eprint!("{failure}");
        }
    });
    served.await.map_err(|error| crate::failure::from_system(&error))
}

/// Who listens at every address is reached from this machine by its loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
