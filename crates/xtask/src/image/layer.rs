//! A layer's tar: its members in one order, with no time later than [`EPOCH`], numbers for owners, and nothing else that
//! tells when or where it was made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use tar::{Archive, Builder, EntryType, Header};

use super::blob::Blob;

/// The latest time in a layer: the start of 2025, in seconds since 1970.
pub const EPOCH: u64 = 1_735_689_600;
/// The same, as the image's configuration has it.
pub const EPOCH_TEXT: &str = "2025-01-01T00:00:00Z";

/// A file of this name in a layer removes one of the layers below: <https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>.
const WHITEOUT: &[u8] = b".wh.";

#[derive(Debug, Clone)]
pub struct Member {
    /// From the image's root, without a leading slash.
    pub path: PathBuf,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Directory,
    File(Content),
    Symlink(PathBuf),
    /// Another name of the file that has this path.
    Hardlink(PathBuf),
}

/// Bytes that lie somewhere in a file, and are copied from there.
#[derive(Debug, Clone)]
pub struct Content {
    file: PathBuf,
    offset: u64,
    bytes: u64,
}

impl Content {
    pub fn whole(file: &Path) -> Result<Content> {
        let meta = file.metadata().with_context(|| format!("can't read {}", file.display()))?;
        Ok(Content { file: file.to_owned(), offset: 0, bytes: meta.len() })
    }
}

/// All members of a tar but its root, in its own order.
pub fn read(tar: &Path) -> Result<Vec<Member>> {
    let what = || format!("can't read {}", tar.display());
    let mut archive = Archive::new(BufReader::new(File::open(tar).with_context(what)?));
    let mut members = Vec::new();
    for entry in archive.entries_with_seek().with_context(what)? {
        let mut entry = entry.with_context(what)?;
        let path = relative(&entry.path().with_context(what)?)?;
        if path.as_os_str().is_empty() {
            continue;
        }
        if let Some(extensions) = entry.pax_extensions().with_context(what)? {
            for extension in extensions {
                let key = extension.with_context(what)?.key().unwrap_or_default().to_owned();
                ensure!(!key.starts_with("SCHILY.xattr."), "{} has {key}, which would be lost", path.display());
            }
        }
        let target = entry.link_name().with_context(what)?.map(|target| target.into_owned());
        let content = Content { file: tar.to_owned(), offset: entry.raw_file_position(), bytes: entry.size() };
        let header = entry.header();
        let kind = match (header.entry_type(), target) {
            (EntryType::Directory, _) => Kind::Directory,
            (EntryType::Regular | EntryType::Continuous, _) => Kind::File(content),
            (EntryType::Symlink, Some(target)) => Kind::Symlink(target),
            (EntryType::Link, Some(target)) => Kind::Hardlink(relative(&target)?),
            (other, _) => bail!("{} is neither a file, a directory nor a link: {other:?}", path.display()),
        };
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        members.push(Member { mode, uid, gid, mtime: header.mtime()?, path, kind });
    }
    Ok(members)
}

/// Writes the layer.
pub fn pack(mut members: Vec<Member>, into: &Path) -> Result<Blob> {
    // By the parts of the paths, so that a directory comes before what is in it and after nothing of it.
    members.sort_by(|one, other| one.path.cmp(&other.path));
    lead_with_bytes(&mut members)?;
    for (at, member) in members.iter().enumerate() {
        let name = member.path.file_name().unwrap_or_default().as_bytes();
        ensure!(!name.starts_with(WHITEOUT), "{} would remove what is below it", member.path.display());
        ensure!(at == 0 || members[at - 1].path != member.path, "{} is there twice", member.path.display());
    }
    Blob::write(into, |writer| {
        let mut builder = Builder::new(writer);
        members.iter().try_for_each(|member| {
            append(&mut builder, member).with_context(|| format!("can't put {} into a layer", member.path.display()))
        })?;
        builder.finish().with_context(|| format!("can't write {}", into.display()))
    })
}

fn append(builder: &mut Builder<impl io::Write>, member: &Member) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(member.mode);
    header.set_uid(member.uid);
    header.set_gid(member.gid);
    header.set_mtime(member.mtime.min(EPOCH));
    header.set_size(0);
    match &member.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, &member.path, io::empty())?;
        }
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.bytes);
            let mut file = File::open(&content.file)?;
            file.seek(SeekFrom::Start(content.offset))?;
            builder.append_data(&mut header, &member.path, file.take(content.bytes))?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, &member.path, target)?;
        }
        Kind::Hardlink(target) => {
            header.set_entry_type(EntryType::Link);
            builder.append_link(&mut header, &member.path, target)?;
        }
    }
    Ok(())
}

/// Of a file's names the first has its bytes, whichever had them before: an unpacker links to what is already there.
fn lead_with_bytes(members: &mut [Member]) -> Result<()> {
    let mut names: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (at, member) in members.iter().enumerate() {
        if let Kind::Hardlink(target) = &member.kind {
            names.entry(target.clone()).or_default().push(at);
        }
    }
    for (target, links) in names {
        let Ok(holder) = members.binary_search_by(|member| member.path.cmp(&target)) else {
            bail!("{} is a link to {}, which is missing", members[links[0]].path.display(), target.display());
        };
        let first = links[0].min(holder);
        let bytes = members[holder].kind.clone();
        let path = members[first].path.clone();
        for at in links.into_iter().chain([holder]) {
            members[at].kind = if at == first { bytes.clone() } else { Kind::Hardlink(path.clone()) };
        }
    }
    Ok(())
}

/// `./a/b` as `a/b`. What leads out of the root isn't taken.
fn relative(path: &Path) -> Result<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => bail!("{} leads out of the layer", path.display()),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    /// A small tree, packed by tar(1) with its members in the given order and with the files' times of now.
    fn tree_tar(dir: &Path, order: &[&str]) -> PathBuf {
        let tree = tempfile::tempdir_in(dir).unwrap();
        let long = "n".repeat(120);
        let script = format!(
            "umask 022; mkdir -p b/sub var/empty; echo deep >b/sub/file; echo dash >b-c; echo old >old; chmod 4755 old; \
             touch -d 2001-02-03T04:05:06Z old; ln -s ../b-c b/link; echo twins >z; ln z a; ln z m; mkdir {long}; \
             echo far >{long}/{long}; ln -s {long}/{long} far"
        );
        process::run(process::command("sh").args(["-ec", &script]).current_dir(tree.path())).unwrap();
        let tar = tree.path().with_extension("tar");
        let mut command = process::command("tar");
        command.args(["--create", "--format=pax", "--owner=somebody:7", "--group=people:8", "--file"]).arg(&tar);
        command.arg("--no-recursion").args(order).arg(format!("./{long}/")).arg(format!("./{long}/{long}"));
        process::run(command.current_dir(tree.path())).unwrap();
        tar
    }

    const ORDER: &[&str] = &[
        "./",
        "./a",
        "./b/",
        "./b-c",
        "./b/link",
        "./b/sub/",
        "./b/sub/file",
        "./far",
        "./m",
        "./old",
        "./var/",
        "./var/empty/",
        "./z",
    ];
    const REVERSED: &[&str] = &[
        "./z",
        "./var/empty/",
        "./var/",
        "./old",
        "./m",
        "./far",
        "./b/sub/file",
        "./b/sub/",
        "./b/link",
        "./b-c",
        "./b/",
        "./a",
        "./",
    ];

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let packed = [ORDER, REVERSED].map(|order| {
            let tar = tree_tar(dir.path(), order);
            (std::fs::read(&tar).unwrap(), pack(read(&tar).unwrap(), &tar.with_extension("layer")).unwrap())
        });
        assert_ne!(packed[0].0, packed[1].0, "what was read differs");
        assert_eq!(packed[0].1.digest, packed[1].1.digest);
        assert_eq!(std::fs::read(&packed[0].1.file).unwrap(), std::fs::read(&packed[1].1.file).unwrap());
    }

    #[test]
    fn members_have_one_order_and_keep_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let layer = pack(read(&tree_tar(dir.path(), REVERSED)).unwrap(), &dir.path().join("layer")).unwrap();
        let mut command = process::command("tar");
        command.args(["--list", "--verbose", "--full-time", "--utc", "--numeric-owner", "--file"]).arg(&layer.file);
        let listed = process::output(command.env("LC_ALL", "C")).unwrap();
        let long = "n".repeat(120);
        let lines: Vec<String> = listed
            .lines()
            .map(|line| line.replace(&long, "LONG").split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "-rw-r--r-- 7/8 6 2025-01-01 00:00:00 a",
                "drwxr-xr-x 7/8 0 2025-01-01 00:00:00 b",
                "lrwxrwxrwx 7/8 0 2025-01-01 00:00:00 b/link -> ../b-c",
                "drwxr-xr-x 7/8 0 2025-01-01 00:00:00 b/sub",
                "-rw-r--r-- 7/8 5 2025-01-01 00:00:00 b/sub/file",
                "-rw-r--r-- 7/8 5 2025-01-01 00:00:00 b-c",
                "lrwxrwxrwx 7/8 0 2025-01-01 00:00:00 far -> LONG/LONG",
                "hrw-r--r-- 7/8 0 2025-01-01 00:00:00 m link to a",
                "drwxr-xr-x 7/8 0 2025-01-01 00:00:00 LONG",
                "-rw-r--r-- 7/8 4 2025-01-01 00:00:00 LONG/LONG",
                "-rwsr-xr-x 7/8 4 2001-02-03 04:05:06 old",
                "drwxr-xr-x 7/8 0 2025-01-01 00:00:00 var",
                "drwxr-xr-x 7/8 0 2025-01-01 00:00:00 var/empty",
                "hrw-r--r-- 7/8 0 2025-01-01 00:00:00 z link to a",
            ]
        );
        // Neither pax's times nor names of owners are left.
        let bytes = std::fs::read(&layer.file).unwrap();
        for trace in ["atime=", "ctime=", "somebody", "people"] {
            assert!(!bytes.windows(trace.len()).any(|window| window == trace.as_bytes()), "{trace}");
        }
        let mut command = process::command("tar");
        let told = process::output(command.args(["--extract", "--to-stdout", "--file"]).arg(&layer.file).arg("a"));
        assert_eq!(told.unwrap(), "twins\n", "the first of the names has the bytes");
    }

    #[test]
    fn the_epochs_two_spellings_are_one_time() {
        let mut command = process::command("date");
        let told = process::output(command.args(["--utc", "--date", EPOCH_TEXT, "+%s"])).unwrap();
        assert_eq!(told.trim(), EPOCH.to_string());
    }

    #[test]
    fn what_a_layer_cant_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let member = |path: &str, kind| Member { path: path.into(), mode: 0o755, uid: 0, gid: 0, mtime: 0, kind };
        let error = |members: Vec<Member>| pack(members, &dir.path().join("layer")).unwrap_err().to_string();
        assert!(error(vec![member("a/.wh.b", Kind::Directory)]).contains("would remove"));
        assert!(error(vec![member("a", Kind::Directory), member("a", Kind::Directory)]).contains("twice"));
        assert!(error(vec![member("a", Kind::Hardlink("b".into()))]).contains("missing"));
        assert!(relative(Path::new("../a")).unwrap_err().to_string().contains("leads out"));
    }
}
