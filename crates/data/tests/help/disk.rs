//! A disk that forgets: it takes in what a process has done to files, and tells what may be left when the power fails.
//!
//! Only what was synced is sure to be there. Of a file that is its bytes at the last fsync; of what was written since,
//! each page may be there or not, and one of them in part. Of a directory that is its entries at its last fsync; each
//! later creation, renaming or removal may be there or not, whatever became of the others, but a renamed file has one
//! of its names at least. That is what POSIX leaves open, and more than any one file system does.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use super::trace::{Call, descriptor_path};

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// What may be left of files, by their paths; of directories the path, without bytes.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// How bad a power cut is: in a hundred, how many pages and how many entries are there that weren't synced.
#[derive(Clone, Copy, Debug)]
pub struct Luck {
    pub pages: u64,
    pub entries: u64,
}

type NodeId = usize;

#[derive(Clone)]
enum Node {
    File { now: Vec<u8>, synced: Vec<u8> },
    Dir { now: BTreeMap<String, NodeId>, synced: BTreeMap<String, NodeId> },
}

/// A change of a directory that isn't durable yet.
#[derive(Clone)]
struct Change {
    number: u64,
    dir: NodeId,
    name: String,
    /// None where the name is removed.
    to: Option<NodeId>,
    /// The change that gave the file its new name, of the one that takes the old away.
    after: Option<u64>,
}

/// What an fsync has seen when it began.
enum Seen {
    File(NodeId, Vec<u8>),
    /// All changes of the directory before this number.
    Dir(NodeId, u64),
}

pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    pending: Vec<Change>,
    changes: u64,
    /// Where the next write of a descriptor goes.
    places: HashMap<String, usize>,
    syncing: HashMap<usize, Seen>,
}

impl Disk {
    /// An empty one, whose root has this path.
    pub fn new(root: &Path) -> Disk {
        let root_node = Node::Dir { now: BTreeMap::new(), synced: BTreeMap::new() };
        Disk {
            root: root.to_owned(),
            nodes: vec![root_node],
            pending: Vec::new(),
            changes: 0,
            places: HashMap::new(),
            syncing: HashMap::new(),
        }
    }

    /// The process has come to the call. It is taken for done right away, but for what makes things durable, and but
    /// for a file that is opened.
    pub fn began(&mut self, call: &Call) {
        match &*call.name {
            "fsync" | "fdatasync" => {
                let Some(node) = self.open_for(&call.args[0]) else { return };
                let seen = match &self.nodes[node] {
                    Node::File { now, .. } => Seen::File(node, now.clone()),
                    Node::Dir { .. } => Seen::Dir(node, self.changes),
                };
                self.syncing.insert(call.began, seen);
            }
            // Whether a call was made that nobody lived to see is found out by a look at the files.
            _ if call.result.is_none() => {}
            "write" => self.write(call),
            "ftruncate" => {
                let Some(node) = self.open_for(&call.args[0]) else { return };
                let Node::File { now, .. } = &mut self.nodes[node] else { panic!("{call:?}") };
                now.resize(call.args[1].parse().unwrap(), 0);
            }
            "rename" => self.rename(&call.path(0), &call.path(1)),
            "renameat" | "renameat2" => self.rename(&call.path(0), &call.path(2)),
            "link" => self.link(&call.path(0), &call.path(1)),
            "linkat" => self.link(&call.path(0), &call.path(2)),
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some((dir, name)) = self.place(&call.path(0)) {
                    self.change(dir, name, None, None);
                }
            }
            "mkdir" | "mkdirat" => {
                if let Some((dir, name)) = self.place(&call.path(0)) {
                    self.nodes.push(Node::Dir { now: BTreeMap::new(), synced: BTreeMap::new() });
                    self.change(dir, name, Some(self.nodes.len() - 1), None);
                }
            }
            "open" | "openat" | "creat" => {}
            _ => panic!("this disk can't do {call:?}"),
        }
    }

    /// The process has gone on after the call.
    pub fn ended(&mut self, call: &Call) {
        match &*call.name {
            "fsync" | "fdatasync" => match self.syncing.remove(&call.began) {
                Some(Seen::File(node, bytes)) => {
                    let Node::File { synced, .. } = &mut self.nodes[node] else { unreachable!() };
                    *synced = bytes;
                }
                Some(Seen::Dir(node, before)) => self.sync_dir(node, before),
                None => {}
            },
            "open" | "openat" | "creat" => self.opened(call),
            _ => {}
        }
    }

    /// The process has ended: what it was about is no more.
    pub fn killed(&mut self) {
        self.syncing.clear();
        self.places.clear();
    }

    fn opened(&mut self, call: &Call) {
        let (number, path) = descriptor_path(call.result.as_deref().unwrap());
        let Some((dir, name)) = self.place(&path) else { return };
        let Node::Dir { now, .. } = &self.nodes[dir] else { unreachable!() };
        let there = now.get(&name).copied();
        if there.is_none() && (call.has("O_CREAT") || call.name == "creat") {
            self.nodes.push(Node::File { now: Vec::new(), synced: Vec::new() });
            self.change(dir, name, Some(self.nodes.len() - 1), None);
        }
        assert!(!call.has("O_APPEND"), "this disk can't do {call:?}");
        if let (Some(node), true) = (there, call.has("O_TRUNC"))
            && let Node::File { now, .. } = &mut self.nodes[node]
        {
            now.clear();
        }
        self.places.insert(number, 0);
    }

    fn write(&mut self, call: &Call) {
        let Some(node) = self.open_for(&call.args[0]) else { return };
        let (number, _) = descriptor_path(&call.args[0]);
        let written: usize = call.result.as_deref().unwrap().parse().unwrap();
        let place = self.places.get_mut(&number).unwrap();
        let Node::File { now, .. } = &mut self.nodes[node] else { panic!("{call:?}") };
        now.resize(now.len().max(*place + written), 0);
        now[*place..*place + written].copy_from_slice(&call.bytes(1)[..written]);
        *place += written;
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let (Some((from_dir, from_name)), Some((to_dir, to_name))) = (self.place(from), self.place(to)) else { return };
        let node = self.find(from).unwrap();
        let given = self.change(to_dir, to_name, Some(node), None);
        self.change(from_dir, from_name, None, Some(given));
    }

    fn link(&mut self, from: &Path, to: &Path) {
        if let (Some(node), Some((dir, name))) = (self.find(from), self.place(to)) {
            self.change(dir, name, Some(node), None);
        }
    }

    fn change(&mut self, dir: NodeId, name: String, to: Option<NodeId>, after: Option<u64>) -> u64 {
        let Node::Dir { now, .. } = &mut self.nodes[dir] else { panic!("{name} is in no directory") };
        match to {
            Some(node) => now.insert(name.clone(), node),
            None => now.remove(&name),
        };
        let number = self.changes;
        self.changes += 1;
        self.pending.push(Change { number, dir, name, to, after });
        number
    }

    /// Makes a directory's changes durable, and with a name that is taken away the one that came in its place.
    fn sync_dir(&mut self, dir: NodeId, before: u64) {
        let mine = |change: &&Change| change.dir == dir && change.number < before;
        let drawn: Vec<u64> = self.pending.iter().filter(mine).filter_map(|change| change.after).collect();
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            if (change.dir == dir && change.number < before) || drawn.contains(&change.number) {
                let Node::Dir { synced, .. } = &mut self.nodes[change.dir] else { unreachable!() };
                set(synced, &change);
                // What came before it to the same name is past.
                self.pending.retain(|before| before.dir != change.dir || before.name != change.name);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// What may be there after a power cut. It depends on the luck and on `random`, which answers below its argument.
    pub fn image(&self, luck: Luck, random: &mut dyn FnMut(u64) -> u64) -> Image {
        let mut dirs: HashMap<NodeId, BTreeMap<String, NodeId>> = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if let Node::Dir { synced, .. } = node {
                dirs.insert(id, synced.clone());
            }
        }
        let mut lost = Vec::new();
        for change in &self.pending {
            if random(100) >= luck.entries || change.after.is_some_and(|after| lost.contains(&after)) {
                lost.push(change.number);
            } else if let Some(entries) = dirs.get_mut(&change.dir) {
                set(entries, change);
            }
        }
        let bytes = |node: &Node, random: &mut dyn FnMut(u64) -> u64| match node {
            Node::File { now, synced } => Some(torn(now, synced, luck.pages, random)),
            Node::Dir { .. } => None,
        };
        self.collect(0, Path::new(""), &|dir| dirs[&dir].clone(), &mut |node| bytes(node, random))
    }

    /// What is there for whoever looks while the power is on.
    pub fn now(&self) -> Image {
        let entries = |dir: NodeId| match &self.nodes[dir] {
            Node::Dir { now, .. } => now.clone(),
            Node::File { .. } => unreachable!(),
        };
        self.collect(0, Path::new(""), &entries, &mut |node| match node {
            Node::File { now, .. } => Some(now.clone()),
            Node::Dir { .. } => None,
        })
    }

    fn collect(
        &self,
        dir: NodeId,
        at: &Path,
        entries: &dyn Fn(NodeId) -> BTreeMap<String, NodeId>,
        bytes: &mut dyn FnMut(&Node) -> Option<Vec<u8>>,
    ) -> Image {
        let mut image = Image::new();
        for (name, node) in entries(dir) {
            let path = at.join(name);
            if let Node::Dir { .. } = self.nodes[node] {
                image.extend(self.collect(node, &path, entries, bytes));
            }
            image.insert(path, bytes(&self.nodes[node]));
        }
        image
    }

    /// What a descriptor is open for; None where that isn't on this disk, or has no name any more.
    fn open_for(&self, arg: &str) -> Option<NodeId> {
        self.find(&descriptor_path(arg).1)
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        let path = path.strip_prefix(&self.root).ok()?;
        path.components().try_fold(0, |node, part| match &self.nodes[node] {
            Node::Dir { now, .. } => now.get(part.as_os_str().to_str().unwrap()).copied(),
            Node::File { .. } => None,
        })
    }

    /// The directory and the name of a path; None where it isn't on this disk.
    fn place(&self, path: &Path) -> Option<(NodeId, String)> {
        let dir = self.find(path.parent()?)?;
        let Some(Component::Normal(name)) = path.components().next_back() else { return None };
        Some((dir, name.to_str().unwrap().to_owned()))
    }
}

fn set(entries: &mut BTreeMap<String, NodeId>, change: &Change) {
    match change.to {
        Some(node) => entries.insert(change.name.clone(), node),
        None => entries.remove(&change.name),
    };
}

/// A file whose pages have come to the disk or not since it was synced, one of them in part. A page that hasn't, and
/// that the file didn't have, is of zeros.
fn torn(now: &[u8], synced: &[u8], kept: u64, random: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
    if now == synced {
        return now.to_vec();
    }
    let length = if random(100) < kept { now.len() } else { synced.len() };
    let mut bytes = synced.to_vec();
    bytes.resize(length, 0);
    for at in (0..length.min(now.len())).step_by(PAGE_BYTES) {
        let page = PAGE_BYTES.min(length - at).min(now.len() - at);
        let come = match random(100) {
            dice if dice < kept => page,
            _ if kept > 0 && random(4) == 0 => page.min(SECTOR_BYTES * random(8) as usize),
            _ => 0,
        };
        bytes[at..at + come].copy_from_slice(&now[at..at + come]);
    }
    bytes
}
