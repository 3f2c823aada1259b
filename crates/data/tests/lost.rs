//! Power cuts: what was acknowledged outlives the loss of everything that wasn't synced, and nothing half is there.
//!
//! A child works on a store under strace, is killed now and then, and another goes on with what it left. From their
//! system calls a simulated disk (see `help/disk.rs`) tells what may be left at any instant, were the power to fail.
//! Each such image has to open, to hold what was acknowledged until then byte for byte, to be clean, and to be of use.
//!
//! `TOMBOLO_TEST_LOST_SECONDS` says how long histories are tried, `TOMBOLO_TEST_LOST_SEED` which is the first.

#[path = "help/disk.rs"]
mod disk;
mod help;
#[path = "help/peer.rs"]
mod peer;
#[path = "help/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use disk::{Disk, Image, Luck};
use help::{add, look, materialized, noise, table, write};
use peer::honest;
use tombolo_core::{Millis, Timestamp, VersionId};
use tombolo_data::transfer::{FetchOptions, Seal, fetch};
use tombolo_data::{SiteKey, Store, StoreOptions, VerifyOptions};
use trace::Call;

const ROOT: &str = "TOMBOLO_TEST_LOST_ROOT";
/// The history's seed, the number of the life's first tree, and 1 for the last life.
const LIFE: &str = "TOMBOLO_TEST_LOST_LIFE";
const SECONDS: &str = "TOMBOLO_TEST_LOST_SECONDS";
const SEED: &str = "TOMBOLO_TEST_LOST_SEED";

const SECONDS_DEFAULT: u64 = 45;
/// One without a key and one with a key, at least.
const HISTORIES_MIN: u64 = 2;
/// Children that work on a store one after the other; all but the last one are killed.
const LIVES: u64 = 3;
const STEPS: u64 = 9;
const DAMAGED_AT: u64 = 6;
/// Trees of other numbers come from another store.
const FOREIGN: u64 = 1000;
const FOREIGN_TREES: u64 = 3;
const CUTS: u64 = 90;
/// One image in so many is worked on after it was looked at.
const WORKED_ON: u64 = 6;
const LUCKS: [Luck; 8] = [
    Luck { pages: 0, entries: 0 },
    Luck { pages: 100, entries: 100 },
    Luck { pages: 0, entries: 100 },
    Luck { pages: 100, entries: 0 },
    Luck { pages: 50, entries: 50 },
    Luck { pages: 90, entries: 10 },
    Luck { pages: 10, entries: 90 },
    Luck { pages: 90, entries: 90 },
];

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// A tree that shares half of its files with the next and some with all.
fn make_tree(dir: &Path, number: u64) {
    for part in 0..6 {
        write(dir, &format!("part/{part}.bin"), &noise(number + part, 7000));
    }
    write(dir, "own.bin", &noise(number << 32, 50_000));
    write(dir, "table.csv", &table(number % 3, 900));
    write(dir, "small.txt", number.to_string().as_bytes());
}

fn store_dir(root: &Path) -> PathBuf {
    root.join("made/here/store")
}

fn options(key: Option<SiteKey>, create: bool) -> StoreOptions {
    // Small packs, so that there are many, and segments of the index are made and merged.
    StoreOptions { key, create, pack_bytes: 12 << 10, ..StoreOptions::default() }
}

fn is_sealed(seed: u64) -> bool {
    seed % 2 == 1
}

/// A single write, so that it is said whole or not at all.
fn say(what: &str) {
    let out = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    std::fs::File::from(out).write_all(format!("ack {what}\n").as_bytes()).unwrap();
}

fn join(versions: &BTreeSet<VersionId>) -> String {
    versions.iter().map(|version| format!(" {version}")).collect()
}

/// What a child does that is recorded; without the variables it is no test.
#[test]
fn child() {
    let (Ok(root), Ok(life)) = (std::env::var(ROOT), std::env::var(LIFE)) else { return };
    let numbers: Vec<u64> = life.split(' ').map(|number| number.parse().unwrap()).collect();
    let [seed, first, is_last] = numbers[..] else { panic!("{life}") };
    let root = PathBuf::from(root);
    let key = is_sealed(seed).then(|| {
        let path = root.join("site.key");
        let key = if path.exists() { SiteKey::load(&path) } else { SiteKey::create(&path) };
        say("key");
        key.unwrap()
    });
    let store = Store::open(store_dir(&root), options(key, true)).unwrap();
    say("made");
    let foreign = Store::open(root.with_extension("foreign"), StoreOptions::default()).unwrap();
    let mut child = Child { store, foreign, lately: Vec::new() };
    for step in 0..STEPS {
        child.add(first + step);
        match step % 3 {
            0 => child.fetch(seed + first + step),
            1 => child.pin(step > 3),
            _ => child.collect(),
        }
        if is_last == 1 && step == DAMAGED_AT {
            child.mend();
        }
    }
}

struct Child {
    store: Store,
    foreign: Store,
    /// Versions that weren't removed, with the numbers of their trees.
    lately: Vec<(VersionId, u64)>,
}

impl Child {
    fn have(&mut self, version: VersionId, number: u64) {
        say(&format!("have {version} {number}"));
        self.lately.push((version, number));
    }

    fn add(&mut self, number: u64) {
        let tree = tempfile::tempdir().unwrap();
        make_tree(tree.path(), number);
        self.have(add(&self.store, tree.path()).version, number);
    }

    fn fetch(&mut self, which: u64) {
        let versions = self.foreign.versions().unwrap();
        let version = versions[which as usize % versions.len()];
        let options = FetchOptions { seal: Seal { bytes: 20 << 10, after: Duration::ZERO }, ..peer::options() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fetch(&self.store, version, &[honest(&self.foreign)], &options)).unwrap();
        self.have(version, FOREIGN);
    }

    fn pin(&self, and_remove: bool) {
        let versions = self.lately.iter().rev().take(2).map(|(version, _)| *version).collect();
        say(&format!("pinning pin{}", join(&versions)));
        self.store.pin("pin", &versions).unwrap();
        say("pinned pin");
        if and_remove {
            say("unpinning pin");
            self.store.unpin("pin").unwrap();
            say("unpinned pin");
        }
    }

    fn collect(&mut self) {
        let keep = self.lately.iter().rev().step_by(2).take(3).map(|(version, _)| *version).collect();
        say(&format!("keep{}", join(&keep)));
        self.store.gc(&keep, Timestamp(i64::MAX), Millis(0)).unwrap();
        self.lately.retain(|(version, _)| keep.contains(version));
    }

    /// Damages a pack, sets it aside and brings what was lost.
    fn mend(&mut self) {
        say("damaging");
        self.store.unpin("pin").unwrap();
        self.collect();
        let packs = std::fs::read_dir(self.store.dir().join("packs")).unwrap();
        let pack = packs.map(|entry| entry.unwrap().path()).min().unwrap();
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        std::fs::File::options().write(true).open(&pack).unwrap().write_all(&bytes).unwrap();
        let report = self.store.verify(&VerifyOptions::default()).unwrap();
        assert_eq!(report.quarantined.len(), 1);
        for (_, number) in std::mem::take(&mut self.lately) {
            if number == FOREIGN { (0..FOREIGN_TREES).for_each(|which| self.fetch(which)) } else { self.add(number) }
        }
        say("mended");
    }
}

/// What was acknowledged, and so has to be there.
#[derive(Clone, Default)]
struct Promise {
    key: bool,
    made: bool,
    /// Somebody has damaged it, and it isn't mended yet.
    is_damaged: bool,
    /// With the numbers of their trees.
    versions: BTreeMap<VersionId, u64>,
    /// What a pin may be; more than one while it is changed.
    pins: BTreeMap<String, Vec<Option<BTreeSet<VersionId>>>>,
}

impl Promise {
    /// What is said before it is done counts from when it begins to be said, what is done from when that was said.
    fn hear(&mut self, said: &str, begins: bool) {
        let mut words = said.split_whitespace();
        let what = words.next().unwrap();
        if begins != matches!(what, "pinning" | "unpinning" | "keep" | "damaging") {
            return;
        }
        let versions = |words: std::str::SplitWhitespace| words.map(|word| word.parse().unwrap()).collect();
        match what {
            "key" => self.key = true,
            "made" => self.made = true,
            "damaging" => {
                self.is_damaged = true;
                self.pins.clear();
            }
            "mended" => self.is_damaged = false,
            "have" => {
                let version = words.next().unwrap().parse().unwrap();
                self.versions.insert(version, words.next().unwrap().parse().unwrap());
            }
            "keep" => {
                let kept: BTreeSet<VersionId> = versions(words);
                let pins: Vec<_> = self.pins.values().filter(|pin| pin.len() == 1).cloned().collect();
                let pinned = |version: &VersionId| pins.iter().flatten().flatten().any(|pin| pin.contains(version));
                self.versions.retain(|version, _| kept.contains(version) || pinned(version));
            }
            _ => {
                let pin = self.pins.entry(words.next().unwrap().to_owned()).or_insert_with(|| vec![None]);
                match what {
                    "pinning" => pin.push(Some(versions(words))),
                    "unpinning" => pin.push(None),
                    _ => drop(pin.drain(..pin.len() - 1)),
                }
            }
        }
    }
}

/// What children did to a store, in order.
struct History {
    seed: u64,
    root: PathBuf,
    foreign: BTreeMap<VersionId, u64>,
    lives: Vec<Vec<Call>>,
}

/// None where a child was killed in the middle of a call, which may have been made or not.
fn record(seed: u64) -> Option<History> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap().join("disk");
    std::fs::create_dir(&root).unwrap();
    let foreign = foreign_store(&root.with_extension("foreign"));
    let (mut random, mut model) = (Random(seed), Disk::new(&root));
    let (mut lives, mut at) = (Vec::new(), 0);
    for life in 0..LIVES {
        let kill = (life + 1 < LIVES).then(|| match random.below(6) {
            0 => ("rename", 1 + random.below(12)),
            1 => ("unlink", 1 + random.below(12)),
            2 => ("fsync", 1 + random.below(8)),
            _ => ("fsync", 1 + random.below(60)),
        });
        let log = root.with_extension("log");
        let child = trace::strace(&log, kill)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(ROOT, &root)
            // The trees of one life are those of the next, but for some.
            .env(LIFE, format!("{seed} {} {}", life * STEPS / 2, u8::from(kill.is_none())))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .expect("strace runs; `cargo xtask test` installs it");
        let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
        let good = child.status.success() || kill.is_some() && signal == Some(9);
        assert!(good, "{}", String::from_utf8_lossy(&child.stderr));
        let (mut calls, end) = trace::parse(&std::fs::read_to_string(&log).unwrap(), at);
        at = end;
        calls.retain(|call| call.changes(&root) || said(call).is_some());
        replay(&mut model, &calls, |_, _| {});
        if model.now() != files(&root) {
            let cut_off = |call: &Call| call.result.is_none() && call.name != "fsync";
            assert!(calls.iter().any(cut_off), "the simulated disk isn't the real one");
            return None;
        }
        lives.push(calls);
    }
    Some(History { seed, root, foreign, lives })
}

fn foreign_store(dir: &Path) -> BTreeMap<VersionId, u64> {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let make = |number| {
        let tree = tempfile::tempdir().unwrap();
        make_tree(tree.path(), number);
        (add(&store, tree.path()).version, number)
    };
    (FOREIGN..FOREIGN + FOREIGN_TREES).map(make).collect()
}

fn said(call: &Call) -> Option<String> {
    let is_write = call.name == "write" && call.args[1].starts_with("\"\\x61\\x63\\x6b\\x20");
    is_write.then(|| String::from_utf8(call.bytes(1)).unwrap()[4..].to_owned())
}

/// Plays the calls of one life, and shows the disk after each event with the call and whether it began there.
fn replay(disk: &mut Disk, calls: &[Call], mut show: impl FnMut(&Disk, (&Call, bool))) {
    let mut events: Vec<(usize, &Call, bool)> = calls.iter().map(|call| (call.began, call, true)).collect();
    events.extend(calls.iter().filter_map(|call| call.ended.map(|ended| (ended, call, false))));
    events.sort_by_key(|(at, _, _)| *at);
    for (_, call, begins) in events {
        match begins {
            _ if said(call).is_some() => {}
            true => disk.began(call),
            false => disk.ended(call),
        }
        show(disk, (call, begins));
    }
    disk.killed();
}

fn files(dir: &Path) -> Image {
    let mut image = Image::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(dir.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path.clone());
                image.insert(path, None);
            } else {
                image.insert(path, Some(std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    image
}

fn lay_out(image: &Image, to: &Path) {
    for (path, bytes) in image {
        match bytes {
            None => std::fs::create_dir_all(to.join(path)).unwrap(),
            Some(bytes) => {
                std::fs::create_dir_all(to.join(path).parent().unwrap()).unwrap();
                std::fs::write(to.join(path), bytes).unwrap();
            }
        }
    }
}

/// What trees look like, made when they are first asked for.
#[derive(Default)]
struct Looks(BTreeMap<u64, BTreeMap<String, Vec<u8>>>);

impl Looks {
    fn of(&mut self, number: u64) -> &BTreeMap<String, Vec<u8>> {
        self.0.entry(number).or_insert_with(|| {
            let tree = tempfile::tempdir().unwrap();
            make_tree(tree.path(), number);
            look(tree.path())
        })
    }
}

impl History {
    /// Cuts the power at instants that the seed chooses; says how many images were looked at.
    fn cut(&self, looks: &mut Looks) -> u64 {
        let events: usize = self.lives.iter().map(|calls| calls.len() * 2).sum();
        let (mut random, mut disk) = (Random(self.seed ^ 0xc075), Disk::new(&self.root));
        let (mut promise, mut images, mut lately) = (Promise::default(), 0, Vec::new());
        for calls in &self.lives {
            replay(&mut disk, calls, |disk, (call, begins)| {
                if let Some(said) = said(call) {
                    promise.hear(&said, begins);
                }
                lately.push(format!("{} {} {:.300}", if begins { "begins" } else { "ends" }, call.name, shown(call)));
                // More often where something was just acknowledged.
                let often = if said(call).is_some() { 3 } else { 1 };
                if random.below(events as u64) < CUTS * often {
                    let luck = LUCKS[random.below(LUCKS.len() as u64) as usize];
                    let image = disk.image(luck, &mut |bound| random.below(bound));
                    let work_on = random.below(WORKED_ON) == 0;
                    images += 1;
                    if let Err((why, dir)) = self.check(&image, &promise, work_on, looks) {
                        let lately = lately[lately.len().saturating_sub(40)..].join("\n");
                        panic!(
                            "{SEED}={} {luck:?}: {why}\nthe image is in {}; before it\n{lately}",
                            self.seed,
                            dir.display()
                        );
                    }
                }
            });
        }
        images
    }

    fn check(
        &self,
        image: &Image,
        promise: &Promise,
        work_on: bool,
        looks: &mut Looks,
    ) -> Result<(), (String, PathBuf)> {
        let temp = tempfile::tempdir().unwrap();
        lay_out(image, temp.path());
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.check_laid_out(temp.path(), promise, work_on, looks)
        }));
        let why = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => "it panicked".to_owned(),
        };
        Err((why, temp.keep()))
    }

    fn check_laid_out(&self, root: &Path, promise: &Promise, work_on: bool, looks: &mut Looks) -> Result<(), String> {
        let key_file = root.join("site.key");
        let key = match is_sealed(self.seed) && (promise.key || key_file.exists()) {
            true => Some(SiteKey::load(&key_file).map_err(|error| format!("the key: {error}"))?),
            false => None,
        };
        if is_sealed(self.seed) && key.is_none() {
            return Ok(());
        }
        let store = Store::open(store_dir(root), options(key, !promise.made)).map_err(|error| error.to_string())?;
        self.look(&store, promise, looks)?;
        if work_on && !promise.is_damaged {
            let tree = tempfile::tempdir().unwrap();
            make_tree(tree.path(), 777);
            let mut more = promise.clone();
            more.versions.insert(add(&store, tree.path()).version, 777);
            let keep = more.versions.keys().copied().collect();
            store.gc(&keep, Timestamp(i64::MAX), Millis(0)).map_err(|error| error.to_string())?;
            self.look(&store, &more, looks)?;
            for rest in ["tmp", "leases"] {
                let left = std::fs::read_dir(store.dir().join(rest)).unwrap().count();
                if left > 0 {
                    return Err(format!("{left} files stay in {rest}"));
                }
            }
        }
        Ok(())
    }

    fn look(&self, store: &Store, promise: &Promise, looks: &mut Looks) -> Result<(), String> {
        let report = store.verify(&VerifyOptions::default()).map_err(|error| error.to_string())?;
        if promise.is_damaged {
            return Ok(());
        }
        if !report.is_clean() {
            return Err(format!("it isn't clean: {report:?}"));
        }
        for (version, number) in &promise.versions {
            if !store.has(*version).map_err(|error| error.to_string())? {
                return Err(format!("{version}, tree {number}, was acknowledged and isn't there"));
            }
            let number = self.foreign.get(version).unwrap_or(number);
            if materialized(store, *version) != *looks.of(*number) {
                return Err(format!("{version} isn't tree {number}"));
            }
        }
        let pins: BTreeMap<_, _> = store.pins().map_err(|error| error.to_string())?.into_iter().collect();
        for (name, allowed) in &promise.pins {
            let found = pins.get(name).cloned();
            if !allowed.contains(&found) {
                return Err(format!("pin {name} is {found:?}, not of {allowed:?}"));
            }
        }
        Ok(())
    }
}

fn shown(call: &Call) -> String {
    let arg = |arg: &String| match (call.name.as_str(), arg.starts_with('"')) {
        ("write", true) => said(call).unwrap_or_else(|| format!("{} bytes", arg.len() / 4)),
        (_, true) => {
            String::from_utf8_lossy(&call.bytes(call.args.iter().position(|a| a == arg).unwrap())).into_owned()
        }
        _ => trace::descriptor_path(arg).1.display().to_string(),
    };
    call.args.iter().map(arg).collect::<Vec<_>>().join(" ")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn what_was_acknowledged_outlives_a_power_cut() {
    let until = Instant::now() + Duration::from_secs(number(SECONDS).unwrap_or(SECONDS_DEFAULT));
    let (mut looks, mut histories, mut images) = (Looks::default(), 0, 0);
    let mut seed = number(SEED).unwrap_or(0);
    while histories < HISTORIES_MIN || Instant::now() < until {
        if let Some(history) = record(seed) {
            histories += 1;
            images += history.cut(&mut looks);
        }
        seed += 1;
    }
    println!("{images} images of {histories} histories, the last of seed {}", seed - 1);
    assert!(images > histories * CUTS / 2, "{images} images are few");
}
