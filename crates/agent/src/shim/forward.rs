//! A way to a service that listens on its machine's loopback alone, for an agent on another machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::TcpListener;

/// How long this machine may take to say that nobody listens at one of its own addresses.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Where the service on this port is reached from other machines by this address of its machine.
pub fn reachable(ip: IpAddr, port: u16) -> io::Result<SocketAddr> {
    let own = SocketAddr::from((ip, port));
    if ip.is_loopback() || TcpStream::connect_timeout(&own, ANSWER_WITHIN).is_ok() {
        return Ok(own);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((ip, 0)))?;
    let at = listener.local_addr()?;
    std::thread::Builder::new().name("forward".to_owned()).spawn(move || runtime.block_on(forward(listener, port)))?;
    Ok(at)
}

/// For as long as the process lives.
async fn forward(listener: TcpListener, port: u16) {
    loop {
        let mut from = match listener.accept().await {
            Ok((from, _)) => from,
            Err(error) => {
                crate::logs::mutter(&format!("a connection can't be taken up: {error}"));
                // As when there are no more file descriptors.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            // A service that hangs up is seen by who asked.
            let Ok(mut to) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            // A port of the ephemeral range can be connected to itself while nobody listens on it.
            if to.local_addr().is_ok_and(|own| to.peer_addr().is_ok_and(|other| own == other)) {
                return;
            }
            let _ = (from.set_nodelay(true), to.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// All of 127.0.0.0/8 is this machine's; only 127.0.0.1 is listened on, as by a service that keeps to itself.
    #[test]
    fn what_listens_on_loopback_alone_is_reached_by_another_address() {
        let service = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = service.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in service.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = [0; 4];
                stream.read_exact(&mut asked).unwrap();
                stream.write_all(&asked).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0))).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || runtime.block_on(forward(listener, port)));
        for word in [b"one.", b"two."] {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(word).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, word);
        }
    }
}
