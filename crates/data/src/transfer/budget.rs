//! Memory for chunks on their way, shared by all transfers of a process: fair to each, and never more than its number.
//!
//! Who asks a source for chunks takes room for them first, and gives it back when they are stored. A transfer whose
//! source is slow keeps its room for long, so it isn't turns that are shared but room: nobody may hold more than is left
//! free, and who holds least comes first. One transfer alone gets a half then, `n` that all want more get an `n+1`th
//! each, and as long as they are few whoever comes finds room at once. (Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998.)

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::chunker::CHUNK_BYTES_MAX;
use crate::session::lock;

/// Least memory that a budget has, in bytes: eight requests of a chunk each.
const BYTES_MIN: u64 = 8 * CHUNK_BYTES_MAX as u64;
/// A request is of this part of the budget, but not of more bytes than that and not of less than a chunk.
const REQUEST_PART: u64 = 64;
const REQUEST_BYTES_MAX: u64 = 8 << 20;

/// A number of bytes that the transfers of a process share; clones are one budget.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Mutex<Shared>>,
    request_bytes: u64,
}

struct Shared {
    shares: Shares,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    next: u64,
}

impl Budget {
    /// Raw bytes of chunks that are asked for and not stored yet, over all transfers; 2 MiB at least.
    pub fn new(bytes: u64) -> Budget {
        let bytes = bytes.max(BYTES_MIN);
        let shared = Shared { shares: Shares::new(bytes), waiting: HashMap::new(), next: 0 };
        Budget {
            shared: Arc::new(Mutex::new(shared)),
            request_bytes: (bytes / REQUEST_PART).clamp(CHUNK_BYTES_MAX as u64, REQUEST_BYTES_MAX),
        }
    }

    /// A transfer's part in it, until the value is dropped.
    pub(super) fn join(&self) -> Share {
        let mut shared = lock(&self.shared);
        shared.next += 1;
        let flow = Flow(shared.next);
        shared.shares.join(flow);
        Share { budget: self.clone(), flow }
    }

    /// Bytes of one request; at least those of a chunk.
    pub(super) fn request_bytes(&self) -> u64 {
        self.request_bytes
    }
}

/// One transfer's part in the budget.
pub(super) struct Share {
    budget: Budget,
    flow: Flow,
}

impl Share {
    /// Waits for room for one request.
    pub(super) async fn take(&self) -> Room {
        let bytes = self.budget.request_bytes;
        let (granted, grant) = oneshot::channel();
        // Gives back what it has got, or its place in the queue, should nobody wait for it any more.
        let room = {
            let mut shared = lock(&self.budget.shared);
            shared.next += 1;
            let ticket = Ticket(shared.next);
            shared.waiting.insert(ticket, granted);
            shared.shares.ask(self.flow, ticket, bytes);
            shared.grant();
            Room { budget: self.budget.clone(), flow: self.flow, ticket, bytes }
        };
        // The other end is kept until it is answered.
        let _ = grant.await;
        room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.budget.shared).shares.leave(self.flow);
    }
}

impl Shared {
    fn grant(&mut self) {
        while let Some(ticket) = self.shares.grant() {
            if let Some(granted) = self.waiting.remove(&ticket) {
                // Who doesn't wait any more gives it back.
                let _ = granted.send(());
            }
        }
    }
}

/// Room for some bytes.
pub(super) struct Room {
    budget: Budget,
    flow: Flow,
    ticket: Ticket,
    bytes: u64,
}

impl Room {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let more = self.bytes.saturating_sub(bytes);
        self.bytes -= more;
        let mut shared = lock(&self.budget.shared);
        shared.shares.give_back(self.flow, more);
        shared.grant();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut shared = lock(&self.budget.shared);
        match shared.waiting.remove(&self.ticket) {
            Some(_) => shared.shares.forget(self.flow, self.ticket),
            None => shared.shares.give_back(self.flow, self.bytes),
        }
        shared.grant();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flow(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ticket(u64);

/// Who holds how much, and who waits: the decision, without anybody who waits.
struct Shares {
    total: u64,
    free: u64,
    flows: BTreeMap<Flow, Held>,
}

#[derive(Default)]
struct Held {
    bytes: u64,
    waiting: VecDeque<(Ticket, u64)>,
    /// It has left, and its room comes back.
    left: bool,
}

impl Shares {
    fn new(total: u64) -> Shares {
        Shares { total, free: total, flows: BTreeMap::new() }
    }

    fn join(&mut self, flow: Flow) {
        self.flows.insert(flow, Held::default());
    }

    fn leave(&mut self, flow: Flow) {
        if let Some(held) = self.flows.get_mut(&flow) {
            held.left = true;
        }
        self.clear(flow);
    }

    fn ask(&mut self, flow: Flow, ticket: Ticket, bytes: u64) {
        let bytes = bytes.min(self.total);
        self.flows.entry(flow).or_default().waiting.push_back((ticket, bytes));
    }

    /// Takes a question out that wasn't answered.
    fn forget(&mut self, flow: Flow, ticket: Ticket) {
        if let Some(held) = self.flows.get_mut(&flow) {
            held.waiting.retain(|(other, _)| *other != ticket);
        }
        self.clear(flow);
    }

    fn give_back(&mut self, flow: Flow, bytes: u64) {
        if let Some(held) = self.flows.get_mut(&flow) {
            held.bytes -= bytes;
            self.free += bytes;
        }
        self.clear(flow);
    }

    fn clear(&mut self, flow: Flow) {
        if self.flows.get(&flow).is_some_and(|held| held.left && held.bytes == 0 && held.waiting.is_empty()) {
            self.flows.remove(&flow);
        }
    }

    /// Gives room to one of those that wait, if there is one that may have it.
    fn grant(&mut self) -> Option<Ticket> {
        let free = self.free;
        let fits = |held: &Held| {
            let (ticket, bytes) = *held.waiting.front()?;
            let rest = free.checked_sub(bytes)?;
            (held.bytes == 0 || held.bytes + bytes <= rest).then_some((held.bytes, ticket))
        };
        // Of those that hold as little, the one that has waited longest.
        let (_, flow) = self.flows.iter().filter_map(|(flow, held)| Some((fits(held)?, *flow))).min()?;
        let held = self.flows.get_mut(&flow)?;
        let (ticket, bytes) = held.waiting.pop_front()?;
        held.bytes += bytes;
        self.free -= bytes;
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a test does to the shares; indices choose among what there is.
    #[derive(Clone, Debug)]
    enum Step {
        Ask { flow: u64, bytes: u64 },
        GiveBack(prop::sample::Index),
        Forget(prop::sample::Index),
    }

    const TOTAL: u64 = 1_000;
    const REQUEST: u64 = TOTAL / 8;

    #[derive(Default)]
    struct World {
        asked: BTreeMap<Ticket, (Flow, u64)>,
        granted: BTreeMap<Ticket, (Flow, u64)>,
        tickets: u64,
    }

    impl World {
        fn ask(&mut self, shares: &mut Shares, flow: Flow, bytes: u64) {
            self.tickets += 1;
            self.asked.insert(Ticket(self.tickets), (flow, bytes));
            shares.ask(flow, Ticket(self.tickets), bytes);
        }

        fn held(&self, flow: Flow) -> u64 {
            self.granted.values().filter(|(of, _)| *of == flow).map(|(_, bytes)| bytes).sum()
        }

        /// Grants what there is to grant, and checks that no more could be.
        fn settle(&mut self, shares: &mut Shares) {
            while let Some(ticket) = shares.grant() {
                let (flow, bytes) = self.asked.remove(&ticket).expect("only who asks is granted");
                let least = self.asked.values().map(|(flow, _)| self.held(*flow)).filter(|held| *held == 0).count();
                assert!(self.held(flow) == 0 || least == 0 || shares.free < REQUEST, "one with nothing waits");
                self.granted.insert(ticket, (flow, bytes));
            }
            let used: u64 = self.granted.values().map(|(_, bytes)| bytes).sum();
            assert_eq!(shares.free + used, TOTAL);
            for (flow, _) in self.asked.values() {
                // Work-conserving: who waits has as much as is free, or there is none.
                let first = shares.flows[flow].waiting[0].1;
                assert!(
                    shares.free < REQUEST || self.held(*flow) + first > shares.free.saturating_sub(REQUEST),
                    "{flow:?} waits"
                );
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6_u64, 1..=REQUEST).prop_map(|(flow, bytes)| Step::Ask { flow, bytes }),
            2 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
            1 => any::<prop::sample::Index>().prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn room_is_never_lost_nor_idle(steps in prop::collection::vec(step(), 1..200)) {
            let (mut shares, mut world) = (Shares::new(TOTAL), World::default());
            for step in steps {
                match step {
                    Step::Ask { flow, bytes } => world.ask(&mut shares, Flow(flow), bytes),
                    Step::GiveBack(which) if !world.granted.is_empty() => {
                        let ticket = *world.granted.keys().nth(which.index(world.granted.len())).unwrap();
                        let (flow, bytes) = world.granted.remove(&ticket).unwrap();
                        shares.give_back(flow, bytes);
                    }
                    Step::Forget(which) if !world.asked.is_empty() => {
                        let ticket = *world.asked.keys().nth(which.index(world.asked.len())).unwrap();
                        let (flow, _) = world.asked.remove(&ticket).unwrap();
                        shares.forget(flow, ticket);
                    }
                    Step::GiveBack(_) | Step::Forget(_) => {}
                }
                world.settle(&mut shares);
            }
        }

        /// Those that always want more hold the same, but for a request; a newcomer has room at once.
        #[test]
        fn room_is_shared_evenly_and_a_newcomer_waits_for_nobody(flows in 1..5_u64, returns in prop::collection::vec(any::<prop::sample::Index>(), 0..300)) {
            let (mut shares, mut world) = (Shares::new(TOTAL), World::default());
            let wants = |world: &mut World, shares: &mut Shares, flows: u64| {
                for flow in 0..flows {
                    let waiting = world.asked.values().filter(|(of, _)| *of == Flow(flow)).count();
                    (waiting..3).for_each(|_| world.ask(shares, Flow(flow), REQUEST / 4));
                }
                world.settle(shares);
            };
            // The first of them is alone for a while.
            (0..40).for_each(|_| wants(&mut world, &mut shares, 1));
            prop_assert!((TOTAL / 2 - REQUEST..=TOTAL / 2).contains(&world.held(Flow(0))), "{}", world.held(Flow(0)));
            let settled = returns.len() > 60;
            for which in returns {
                // One that holds more than its part gives back first, as it is served no slower than the others.
                let most = (0..flows).map(|flow| world.held(Flow(flow))).max().unwrap();
                let rich: Vec<Ticket> = world.granted.iter().filter(|(_, (of, _))| world.held(*of) == most).map(|(ticket, _)| *ticket).collect();
                let ticket = rich[which.index(rich.len())];
                let (flow, bytes) = world.granted.remove(&ticket).unwrap();
                shares.give_back(flow, bytes);
                wants(&mut world, &mut shares, flows);
            }
            let held = || (0..flows).map(|flow| world.held(Flow(flow)));
            let (least, most) = (held().min().unwrap(), held().max().unwrap());
            prop_assert!(!settled || most - least <= REQUEST / 4, "{least} to {most} of {flows}");
            let newcomer = Flow(99);
            world.ask(&mut shares, newcomer, REQUEST);
            world.settle(&mut shares);
            prop_assert_eq!(world.held(newcomer), REQUEST);
        }
    }

    /// A slow source's transfer keeps what it has for ever; the others share the rest.
    #[test]
    fn who_is_slow_keeps_its_part_and_no_more() {
        let (mut shares, mut world) = (Shares::new(TOTAL), World::default());
        let (slow, fast) = (Flow(1), Flow(2));
        let mut turns = 0;
        for _ in 0..1_000 {
            world.ask(&mut shares, slow, REQUEST);
            world.ask(&mut shares, fast, REQUEST);
            world.settle(&mut shares);
            let came: Vec<Ticket> = world.granted.iter().filter(|(_, (of, _))| *of == fast).map(|(t, _)| *t).collect();
            for ticket in came {
                let (_, bytes) = world.granted.remove(&ticket).unwrap();
                shares.give_back(fast, bytes);
                turns += 1;
            }
            world.settle(&mut shares);
        }
        assert!(world.held(slow) <= TOTAL / 2, "{}", world.held(slow));
        assert!(turns >= 999, "{turns}");
    }

    #[tokio::test]
    async fn what_is_dropped_comes_back() {
        let budget = Budget::new(0);
        let (one, two) = (budget.join(), budget.join());
        let mut rooms = Vec::new();
        for share in [&one, &two, &one, &two] {
            rooms.push(share.take().await);
        }
        let free = || lock(&budget.shared).shares.free;
        assert_eq!(free(), BYTES_MIN / 2);
        rooms[0].shrink(10);
        assert_eq!(free(), BYTES_MIN / 2 + budget.request_bytes() - 10);
        // Of three that wait, one is dropped before it has room, one after, and one gets it.
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(one.take())).collect();
        let mut at_once = 0;
        for room in &mut waiting {
            if let std::task::Poll::Ready(room) = futures_util::poll!(room.as_mut()) {
                rooms.push(room);
                at_once += 1;
            }
        }
        assert!((1..8).contains(&at_once), "{at_once}");
        drop(waiting.pop());
        let last = waiting.pop().unwrap();
        drop(rooms);
        drop(waiting);
        drop(last.await);
        assert_eq!(free(), BYTES_MIN);
        assert!(lock(&budget.shared).waiting.is_empty());
        drop((one, two));
        assert!(lock(&budget.shared).shares.flows.is_empty());
    }
}
