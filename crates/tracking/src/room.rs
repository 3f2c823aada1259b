//! How much of requests is in memory at once: bodies are read and pages are made in turns.

use axum::body::HttpBody;
use axum::extract::Request;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A body up to this long is small, in bytes; MLflow's own limit for a batch.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Small bodies, and other requests, at once.
const SMALL_MAX: usize = 64;
/// Bodies at once that are longer, or don't say how long they are.
const LARGE_MAX: usize = 2;
/// Searches and histories at once, each of which may fill an answer.
const PAGES_MAX: usize = 4;

/// Whoever finds no place waits for one; the one who serves the router says for how long.
pub struct Room {
    small: Semaphore,
    large: Semaphore,
    pages: Semaphore,
}

impl Default for Room {
    fn default() -> Room {
        let [small, large, pages] = [SMALL_MAX, LARGE_MAX, PAGES_MAX].map(Semaphore::new);
        Room { small, large, pages }
    }
}

/// Held until the request is answered.
pub struct Place<'r>(
    #[expect(dead_code, reason = "what is held is given back when it is dropped")] [Option<SemaphorePermit<'r>>; 2],
);

/// What a request takes of the room.
#[derive(Clone, Copy)]
pub struct Size {
    small: bool,
    page: bool,
}

impl Size {
    pub fn of(request: &Request) -> Size {
        let small = request.body().size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BYTES_MAX);
        Size { small, page: makes_a_page(request.uri().path()) }
    }
}

impl Room {
    /// A place for a request, before anything of its body is read.
    pub async fn take(&self, size: Size) -> Place<'_> {
        let page = if size.page { self.pages.acquire().await.ok() } else { None };
        let bodies = if size.small { &self.small } else { &self.large };
        Place([page, bodies.acquire().await.ok()])
    }
}

fn makes_a_page(path: &str) -> bool {
    ["/search", "/search-datasets", "/get-history", "/get-history-bulk-interval"].iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures_util::poll;

    use super::*;

    fn request(path: &str, body: Body) -> Request {
        Request::builder().uri(path).body(body).unwrap()
    }

    #[tokio::test]
    async fn large_bodies_and_pages_wait_for_each_other_and_small_ones_for_neither() {
        let unsaid = || Body::from_stream(futures_util::stream::empty::<Result<&str, std::io::Error>>());
        let small = || request("/runs/log-batch", Body::from("{}"));
        for (kind, max) in [
            (
                Box::new(|| request("/runs/log-inputs", Body::from(vec![b' '; (1 << 20) + 1])))
                    as Box<dyn Fn() -> Request>,
                LARGE_MAX,
            ),
            (Box::new(|| request("/runs/log-inputs", unsaid())), LARGE_MAX),
            (Box::new(|| request("/runs/search", Body::from("{}"))), PAGES_MAX),
        ] {
            let room = Room::default();
            let mut held = Vec::new();
            for _ in 0..max {
                held.push(room.take(Size::of(&kind())).await);
            }
            let asked = kind();
            let waits = room.take(Size::of(&asked));
            tokio::pin!(waits);
            assert!(poll!(&mut waits).is_pending(), "{}", asked.uri());
            drop(room.take(Size::of(&small())).await);
            held.pop();
            assert!(poll!(&mut waits).is_ready(), "{}", asked.uri());
        }
    }
}
