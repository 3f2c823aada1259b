//! Limits of links: what is read from another site's streams is read no faster than the link may be used.
//!
//! The reader holds back, and the transport's flow control makes the sender wait. All fetches from a site share one
//! pace, so that together they stay within the limit.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};
use tombolo_core::SiteId;
use tombolo_core::site::{DAY_MINUTES, Limit};
use tombolo_data::transfer::Dial;
use tombolo_net::Streams;

/// What may be read ahead of the limit's steady rate.
const AHEAD: Duration = Duration::from_millis(200);

/// The paces of the links to this site, by where they come from.
#[derive(Clone, Default)]
pub struct Paces(Arc<Mutex<BTreeMap<SiteId, Arc<Mutex<Pace>>>>>);

impl Paces {
    /// The pace of a link, from now on with this limit.
    pub fn of(&self, from: &SiteId, limit: Option<Limit>) -> Arc<Mutex<Pace>> {
        let mut all = self.0.lock().expect("nobody panics holding it");
        let pace = all.entry(from.clone()).or_insert_with(|| Arc::new(Mutex::new(Pace::new(Instant::now()))));
        pace.lock().expect("nobody panics holding it").limit = limit;
        pace.clone()
    }
}

/// When the next bytes are due.
pub struct Pace {
    limit: Option<Limit>,
    due: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { limit: None, due: now }
    }

    /// How many bytes may be read now; else until when to wait. `minute` is the local time's, of the week.
    fn allow(&self, now: Instant, minute: u16) -> Result<usize, Instant> {
        let Some(rate) = self.limit.and_then(|limit| limit.at(minute)) else { return Ok(usize::MAX) };
        let ahead = self.due.saturating_duration_since(now);
        // Waiting for half of it makes for a few large reads instead of many small ones.
        if ahead > AHEAD * 3 / 4 {
            return Err(self.due - AHEAD / 2);
        }
        let bytes = (AHEAD - ahead).as_secs_f64() * rate as f64;
        Ok((bytes as usize).max(1))
    }

    fn took(&mut self, now: Instant, minute: u16, bytes: usize) {
        if let Some(rate) = self.limit.and_then(|limit| limit.at(minute)) {
            self.due = self.due.max(now) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        }
    }
}

/// A source whose streams keep a pace.
pub struct Paced {
    pub streams: Streams,
    pub pace: Arc<Mutex<Pace>>,
}

impl Dial for Paced {
    type Send = SendStream;
    type Recv = PacedRecv<RecvStream>;

    async fn open(&self) -> io::Result<(SendStream, PacedRecv<RecvStream>)> {
        let (send, recv) = self.streams.open().await?;
        Ok((send, PacedRecv { recv, pace: self.pace.clone(), wait: None }))
    }

    fn is_held_back(recv: &Self::Recv) -> bool {
        recv.wait.is_some()
    }
}

pub struct PacedRecv<R> {
    recv: R,
    pace: Arc<Mutex<Pace>>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for PacedRecv<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let minute = minute_of_the_week();
        let allowed = loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(cx));
                this.wait = None;
            }
            match this.pace.lock().expect("nobody panics holding it").allow(Instant::now(), minute) {
                Ok(bytes) => break bytes,
                Err(until) => this.wait = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        };
        let before = buf.filled().len();
        if allowed >= buf.remaining() {
            ready!(Pin::new(&mut this.recv).poll_read(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(allowed));
            ready!(Pin::new(&mut this.recv).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        }
        let read = buf.filled().len() - before;
        this.pace.lock().expect("nobody panics holding it").took(Instant::now(), minute, read);
        Poll::Ready(Ok(()))
    }
}

fn minute_of_the_week() -> u16 {
    let now = jiff::Zoned::now();
    let day = u16::from(now.weekday().to_monday_zero_offset().unsigned_abs());
    day * DAY_MINUTES + u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf};
    use tombolo_core::VersionId;
    use tombolo_data::transfer::{self, FetchOptions, Source};
    use tombolo_data::{AddOptions, Store, StoreOptions};

    use super::*;

    const RATE: u64 = 100_000;

    fn limited(hours: Option<&str>) -> Option<Limit> {
        Some(Limit { bytes_per_s: RATE, hours: hours.map(|hours| hours.parse().unwrap()) })
    }

    #[test]
    fn readers_of_a_link_keep_its_pace_together() {
        let began = Instant::now();
        for readers in [1, 4] {
            let mut pace = Pace { limit: limited(None), due: began };
            let (mut now, mut left) = (began, vec![1_000_000 / readers; readers]);
            while left.iter().any(|left| *left > 0) {
                let turn = left.iter().position(|left| *left > 0).expect("one is not done");
                match pace.allow(now, 0) {
                    Err(until) => now = until,
                    Ok(allowed) => {
                        let read = allowed.min(left[turn]).min(1_400);
                        left[turn] -= read;
                        pace.took(now, 0, read);
                        left.rotate_left(1);
                    }
                }
            }
            let took = now - began;
            assert!((Duration::from_millis(9_700)..Duration::from_millis(10_000)).contains(&took), "{took:?}");
            // What is not used is not made up for.
            now += Duration::from_secs(60);
            assert_eq!(pace.allow(now, 0), Ok(20_000));
        }
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_sent_and_not_too_soon() {
        let pace = Paces::default().of(&"there".parse().unwrap(), limited(None));
        let (mut send, recv) = tokio::io::duplex(4 << 10);
        let bytes: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut send, &sent).await });
        let began = Instant::now();
        let mut read = Vec::new();
        PacedRecv { recv, pace, wait: None }.read_to_end(&mut read).await.unwrap();
        assert!(read == bytes && began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
    }

    /// A source in this process, at the end of a link.
    struct Far {
        store: Store,
        pace: Arc<Mutex<Pace>>,
    }

    impl Dial for Far {
        type Send = WriteHalf<DuplexStream>;
        type Recv = PacedRecv<ReadHalf<DuplexStream>>;

        async fn open(&self) -> io::Result<(Self::Send, Self::Recv)> {
            let (near, far) = tokio::io::duplex(64 << 10);
            let store = self.store.clone();
            tokio::spawn(async move {
                let (recv, send) = tokio::io::split(far);
                transfer::serve_stream(&store, send, recv, &Open).await
            });
            let (recv, send) = tokio::io::split(near);
            Ok((send, PacedRecv { recv, pace: self.pace.clone(), wait: None }))
        }

        fn is_held_back(recv: &Self::Recv) -> bool {
            recv.wait.is_some()
        }
    }

    struct Open;

    impl transfer::Gate for Open {
        fn check(&self, _grant: &[u8], _version: VersionId) -> Result<(), String> {
            Ok(())
        }
    }

    /// So slow that in the time of a stall nothing is heard to speak of.
    #[tokio::test]
    async fn a_limit_makes_no_source_silent() {
        let dir = tempfile::tempdir().unwrap();
        let store = |name: &str| Store::open(dir.path().join(name), StoreOptions::default()).unwrap();
        let (far, near) = (store("far"), store("near"));
        let mut bytes = vec![0; 2_500];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::write(dir.path().join("file"), bytes).unwrap();
        let version = far.add_tree(dir.path().join("file"), &AddOptions::default()).unwrap().version;
        let options = FetchOptions { stall: Duration::from_secs(2), ..FetchOptions::default() };
        let rate = 400;
        let pace = Paces::default().of(&"far".parse().unwrap(), Some(Limit { bytes_per_s: rate, hours: None }));
        let source = Source { dial: Far { store: far, pace }, grant: Vec::new(), name: "far".to_owned() };
        let began = Instant::now();
        transfer::fetch(&near, version, &[source], &options).await.unwrap();
        assert!(near.has(version).unwrap() && began.elapsed() > 2 * options.stall, "{:?}", began.elapsed());
    }

    #[test]
    fn the_hours_are_kept_and_limits_change_under_way() {
        let paces = Paces::default();
        let site = "there".parse().unwrap();
        let pace = paces.of(&site, limited(Some("08:00-18:00")));
        let now = Instant::now();
        let allow = |minute| pace.lock().unwrap().allow(now, minute);
        assert_eq!(allow(0), Ok(usize::MAX));
        assert_eq!(allow(600), Ok(20_000));
        pace.lock().unwrap().took(now, 600, 50_000);
        assert_eq!(allow(600), Err(now + Duration::from_millis(400)));
        assert_eq!(allow(0), Ok(usize::MAX));
        paces.of(&site, None);
        assert_eq!(allow(600), Ok(usize::MAX));
    }
}
