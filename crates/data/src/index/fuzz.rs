//! The index and other lists of a store, from any bytes.

use std::path::PathBuf;

use tombolo_core::Digest;

use super::segment::{self, Room, Segment};
use super::{PackId, parse_head};
use crate::bucket::condemned::Condemned;
use crate::fuzz::Draw;
use crate::manifest::{check_link, check_path};
use crate::store::Form;

/// A file for this thread alone, in memory where the system has that.
fn scratch() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    let dir = if shm.is_dir() { shm } else { std::env::temp_dir() };
    dir.join(format!("tombolo-fuzz-{}-{:?}.seg", std::process::id(), std::thread::current().id()))
}

/// The bytes as a segment, and as what lies in one whose checksums are right.
pub fn segment(bytes: &[u8]) {
    let path = scratch();
    let mut draw = Draw(bytes);
    let wanted = Digest(*blake3::hash(bytes).as_bytes());
    for file in [bytes.to_vec(), segment::sealed(&mut draw)] {
        std::fs::write(&path, &file).expect("there is room for a small file");
        if let Ok(mut segment) = Segment::open(&path, "x.seg") {
            look(&mut segment, wanted);
        }
    }
    // Another try would replace it.
    let _ = std::fs::remove_file(&path);
}

fn look(segment: &mut Segment, absent: Digest) {
    for room in [0, 8, 1 << 20] {
        if segment.fit(Room { fence_bytes: room, filter_bytes: room }).is_err() {
            continue;
        }
        let mut seen = vec![absent, Digest([0; 32]), Digest([0xff; 32])];
        for number in 0..segment.blocks() {
            let Ok(rows) = segment.block(number) else { continue };
            seen.extend(rows.take(3).map(|row| row.digest));
        }
        for digest in seen {
            segment.may_hold(&digest);
            if segment.blocks() == 0 {
                continue;
            }
            let Ok(first) = segment.first_block(segment::key(&digest)) else { continue };
            assert!(first < segment.blocks());
            let Ok(rows) = segment.block(first) else { continue };
            rows.surround(&digest);
            for row in rows.from(&digest) {
                if let Ok((found, location)) = segment.placed(&row) {
                    assert!(found == row.digest && segment.packs.contains(&location.pack));
                }
            }
        }
    }
}

/// The bytes as each of the texts that a store is kept by, and as names.
pub fn lists(bytes: &[u8]) {
    if let Some(names) = parse_head(bytes) {
        assert!(names.iter().all(|name| !name.contains('/') && name.ends_with(".seg")), "a segment is elsewhere");
    }
    let text = String::from_utf8_lossy(bytes);
    // A right checksum is no more than a peer of this machine can make.
    let body = format!("tombolo-index 1\n{}", text.trim_end());
    let head = format!("{body}\n{}\n", blake3::hash(body.as_bytes()).to_hex());
    if let Some(names) = parse_head(head.as_bytes()) {
        assert!(names.iter().all(|name| !name.contains(['/', '\0'])), "a segment is elsewhere");
    }
    if let Ok(form) = Form::parse(bytes, "tombolo-store") {
        assert_eq!(form.text("tombolo-store").as_bytes(), bytes);
    }
    if let Ok(condemned) = Condemned::parse(&text) {
        assert_eq!(Condemned::parse(&condemned.text()).expect("its own text"), condemned);
    }
    if let Some(pack) = PackId::parse(&text) {
        assert_eq!(pack.to_string(), text);
    }
    if check_path(&text).is_ok() {
        assert!(!text.split('/').any(|part| matches!(part, "" | "." | "..")));
    }
    let _ = check_link(&text, &text);
}
