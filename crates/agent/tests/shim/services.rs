//! Services: ports, readiness, and that they stay.

use std::net::TcpListener;

use tombolo_core::spec::Ready;
use tombolo_core::sync::{Outcome, Phase};
use tombolo_core::time::Millis;

use crate::site::{Site, service};

/// An HTTP server that answers 503 until the file `ready` exists.
const SERVER: &str = r#"exec python3 -c '
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("ready") else 503)
        self.end_headers()
    def log_message(self, *args):
        print("asked for", self.path)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_ready_when_it_says_so() {
    let mut site = Site::new();
    let spec = service(SERVER, |service| {
        service.ready = Some(Ready { path: "/health".into(), timeout: Millis::from_secs(60) });
    });
    site.start(&site.order(spec));
    site.running().await;
    site.line("asked for /health").await;
    assert!(site.seen.try_recv().is_err(), "ready while it answered 503");
    std::fs::write(site.placement().code_dir().join("ready"), "").unwrap();
    let Phase::Ready { address, .. } = site.next().await else { panic!("{}", site.all_logs().await) };
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    std::net::TcpStream::connect(&address).unwrap();
    site.stop();
    assert_eq!(site.finish().await.outcome, Outcome::Stopped);
    assert!(std::net::TcpStream::connect(&address).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_check_a_service_is_ready_when_its_port_accepts() {
    let mut site = Site::new();
    site.start(&site.order(service(SERVER, |_| {})));
    site.running().await;
    assert!(matches!(site.next().await, Phase::Ready { .. }));
    site.stop();
    assert_eq!(site.finish().await.outcome, Outcome::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_given_up() {
    let mut site = Site::new();
    let ready = Ready { path: "/".into(), timeout: Millis(200) };
    let finish = site.run(service("sleep 1000", |service| service.ready = Some(ready))).await;
    assert_eq!(finish.outcome, Outcome::NeverReady { after: Millis(200) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_has_failed() {
    let mut site = Site::new();
    assert_eq!(site.run(service("exit 0", |_| {})).await.outcome, Outcome::Failed { code: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut site = Site::new();
    let mut order = service("exit 0", |service| service.port = Some(port));
    order.grace = Millis(0);
    let finish = site.run(order).await;
    let Outcome::Unprepared { why } = finish.outcome else { panic!("{finish:?}") };
    assert!(why.contains(&format!("port {port} can't be listened on")), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_left_soon_is_waited_for_and_that_it_waits_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut site = Site::new();
    site.start(&site.order(service("exit 7", |service| service.port = Some(port))));
    // Whoever has the port is told to leave it only now.
    assert_eq!(site.next().await, Phase::Prepared { state: None });
    drop(taken);
    site.running().await;
    assert_eq!(site.finish().await.outcome, Outcome::Failed { code: 7 });
}
