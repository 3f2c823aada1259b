//! The index against a map that holds all: any history of packs that come and go, any damage to its files.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

struct World {
    dir: tempfile::TempDir,
    index: RwLock<Index>,
    /// What lies in the directory of packs.
    packs: BTreeMap<PackId, Vec<PackEntry>>,
}

const MEMORY: usize = MEMORY_BYTES_MIN;

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let index = RwLock::new(Index::new(dir.path().to_path_buf(), MEMORY));
        World { dir, index, packs: BTreeMap::new() }
    }

    fn add(&mut self, session: u64, chunks: impl Iterator<Item = u64>) {
        let pack = PackId { session, number: self.packs.len() as u32 };
        let mut offset = 8;
        let entry = |number: u64| {
            offset += 100;
            PackEntry { digest: digest(number), offset, stored: 100, raw: 200 }
        };
        self.packs.insert(pack, chunks.map(entry).collect());
    }

    fn refresh(&self) {
        let listed = self.listing();
        let unknown = self.index.write().unwrap().take_listing(listed, Instant::now());
        for pack in unknown {
            self.index.write().unwrap().insert_pack(pack, &self.packs[&pack]);
            let due = self.index.read().unwrap().is_full();
            if due {
                maintain(&self.index).unwrap();
            }
        }
        let due = self.index.read().unwrap().is_due();
        if due {
            maintain(&self.index).unwrap();
        }
        if self.index.read().unwrap().is_incomplete() {
            self.refresh();
        }
    }

    fn listing(&self) -> Listing {
        Listing { packs: self.packs.keys().copied().collect(), ..Listing::default() }
    }

    /// As the store asks: what turns out to be damaged is found anew. Any question may be the one that meets it, since
    /// a block that no digest is looked up in is still read when chunks are counted.
    fn ask<T>(&self, ask: impl Fn(&Index) -> Result<T, Damaged>) -> T {
        loop {
            let answer = ask(&self.index.read().unwrap());
            match answer {
                Ok(answer) => return answer,
                Err(damaged) => self.index.write().unwrap().discard(damaged),
            }
            self.refresh();
        }
    }

    fn get(&self, digest: &Digest) -> Option<Location> {
        self.ask(|index| index.get(digest))
    }

    /// As a process does that opens the store.
    fn reopen(&mut self) {
        self.index = RwLock::new(Index::new(self.dir.path().to_path_buf(), MEMORY));
        self.refresh();
    }

    fn check(&self, numbers: u64) {
        let mut model: BTreeMap<Digest, BTreeSet<PackId>> = BTreeMap::new();
        for (pack, entries) in &self.packs {
            for entry in entries {
                model.entry(entry.digest).or_default().insert(*pack);
            }
        }
        for number in 0..numbers {
            let digest = digest(number);
            let found = self.get(&digest);
            match (found, model.get(&digest)) {
                (None, None) => {}
                (Some(found), Some(packs)) if packs.contains(&found.pack) => {
                    let entry =
                        self.packs[&found.pack].iter().find(|entry| place(found.pack, entry) == (digest, found));
                    assert!(entry.is_some(), "{number}: {found:?}");
                }
                (found, packs) => panic!("{number}: {found:?} instead of one of {packs:?}"),
            }
        }
        assert_eq!(self.ask(Index::count), model.len() as u64);
        let mut digests: Vec<Digest> = (0..numbers).map(digest).collect();
        for sorted in [false, true] {
            let held: Vec<bool> = digests.iter().map(|digest| model.contains_key(digest)).collect();
            assert_eq!(self.ask(|index| index.holds(&digests)), held, "sorted: {sorted}");
            digests.sort_unstable();
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| !path.ends_with("lock")).collect();
        files.sort();
        files
    }
}

/// Digests of which many begin with the same 8 bytes, as never happens, so that runs of them cross blocks.
fn digest(number: u64) -> Digest {
    let mut digest = Digest(*blake3::hash(&number.to_le_bytes()).as_bytes());
    if number.is_multiple_of(3) {
        digest.0[..8].copy_from_slice(&[7; 8]);
    }
    digest
}

#[derive(Debug, Clone)]
enum Step {
    Add {
        first: u64,
        count: u64,
    },
    Remove(prop::sample::Index),
    Refresh,
    Reopen,
    /// A byte of some file of the index is changed, or the file is cut there.
    Damage {
        file: prop::sample::Index,
        at: prop::sample::Index,
        cut: bool,
    },
    Lose(prop::sample::Index),
}

const NUMBERS: u64 = 1500;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..NUMBERS - 400, 0_u64..400).prop_map(|(first, count)| Step::Add { first, count }),
        3 => any::<prop::sample::Index>().prop_map(Step::Remove),
        6 => Just(Step::Refresh),
        2 => Just(Step::Reopen),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(file, at, cut)| Step::Damage { file, at, cut }),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn it_says_what_the_packs_say(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add { first, count } => world.add(number as u64, first..first + count),
                Step::Remove(which) if !world.packs.is_empty() => {
                    let pack = *which.get(&world.packs.keys().copied().collect::<Vec<_>>());
                    world.packs.remove(&pack);
                }
                Step::Refresh => world.refresh(),
                Step::Reopen => world.reopen(),
                Step::Damage { file, at, cut } if !world.files().is_empty() => {
                    let path = file.get(&world.files()).clone();
                    let mut bytes = std::fs::read(&path).unwrap();
                    let at = at.index(bytes.len().max(1));
                    if cut { bytes.truncate(at) } else if let Some(byte) = bytes.get_mut(at) { *byte ^= 0x10 }
                    // In place, as a disk does it: open files see it.
                    std::fs::write(&path, bytes).unwrap();
                }
                Step::Lose(file) if !world.files().is_empty() => {
                    std::fs::remove_file(file.get(&world.files())).unwrap();
                }
                _ => {}
            }
        }
        world.refresh();
        world.check(NUMBERS);
        world.reopen();
        world.check(NUMBERS);
    }
}

#[test]
fn memory_is_bounded_and_openings_read_few_footers() {
    let mut world = World::new();
    for pack in 0..300 {
        world.add(pack, pack * 1000..pack * 1000 + 1000);
        if pack % 50 == 0 {
            world.refresh();
        }
    }
    world.reopen();
    let index = world.index.read().unwrap();
    assert!(index.memory_bytes() <= MEMORY, "{} bytes for 300,000 chunks", index.memory_bytes());
    assert!(index.segments.len() <= 8, "{} segments", index.segments.len());
    drop(index);
    let listed = world.listing();
    let mut opened = Index::new(world.dir.path().to_path_buf(), MEMORY);
    assert!(opened.take_listing(listed, Instant::now()).len() < MEMORY_PACKS_MAX);
    world.check(2000);
    assert_eq!(world.files().len(), 1 + world.index.read().unwrap().segments.len(), "nothing is left lying about");
}

/// One process writes and merges while others look chunks up in what they opened before.
#[test]
fn others_read_on_while_segments_are_merged() {
    let mut world = World::new();
    for pack in 0..40 {
        world.add(pack, pack * 50..pack * 50 + 50);
    }
    world.refresh();
    let reader = RwLock::new(Index::new(world.dir.path().to_path_buf(), MEMORY));
    let take = || {
        let mut reader = reader.write().unwrap();
        let unknown = reader.take_listing(world.listing(), Instant::now());
        assert!(unknown.len() < MEMORY_PACKS_MAX, "{} packs are in no segment", unknown.len());
        unknown.iter().for_each(|pack| reader.insert_pack(*pack, &world.packs[pack]));
    };
    take();
    let later: Vec<_> = (40..80).map(|pack| (pack, pack * 50..pack * 50 + 50)).collect();
    let mut writer = World {
        dir: tempfile::tempdir().unwrap(),
        index: RwLock::new(Index::new(world.dir.path().to_path_buf(), MEMORY)),
        packs: world.packs.clone(),
    };
    later.into_iter().for_each(|(pack, chunks)| writer.add(pack, chunks));
    writer.refresh();
    for number in 0..2000 {
        assert!(reader.read().unwrap().get(&digest(number)).unwrap().is_some(), "{number}");
    }
    let world = &writer;
    let mut reader = reader.write().unwrap();
    let unknown = reader.take_listing(world.listing(), Instant::now());
    assert!(unknown.len() < MEMORY_PACKS_MAX, "{} packs are in no segment", unknown.len());
    unknown.iter().for_each(|pack| reader.insert_pack(*pack, &world.packs[pack]));
    for number in 0..4000 {
        assert!(reader.get(&digest(number)).unwrap().is_some(), "{number}");
    }
}

/// Nothing new relies on a condemned pack, though it can be read.
#[test]
fn a_condemned_pack_is_read_but_not_relied_on() {
    let mut world = World::new();
    for pack in 0..40 {
        world.add(pack, pack / 2 * 10..pack / 2 * 10 + 10);
    }
    world.refresh();
    let mut index = world.index.write().unwrap();
    // One of each two that hold the same; then both of some.
    let condemn = |fits: &dyn Fn(u64) -> bool| world.packs.keys().copied().filter(|pack| fits(pack.session)).collect();
    index.take_listing(Listing { condemned: condemn(&|pack| pack % 2 == 0), ..world.listing() }, Instant::now());
    for number in 0..200 {
        let found = index.get_relied(&digest(number)).unwrap().unwrap();
        assert_eq!(found.pack.session % 2, 1, "{number}");
    }
    index.take_listing(Listing { condemned: condemn(&|pack| pack < 20), ..world.listing() }, Instant::now());
    for number in 0..200 {
        assert_eq!(index.get_relied(&digest(number)).unwrap().is_some(), number >= 100, "{number}");
        assert!(index.get(&digest(number)).unwrap().is_some(), "{number}");
    }
}
