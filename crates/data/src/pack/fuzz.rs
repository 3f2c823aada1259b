//! Packs and what lies in them, from any bytes.

use super::{
    END, ENTRY_BYTES, HEADER_BYTES, PackEntry, PackFault, Records, TRAILER_BYTES, entries_from, footer, le_u32,
};
use crate::chunker::CHUNK_BYTES_MAX;
use crate::codec;
use crate::fuzz::Draw;
use crate::seal::{Purpose, SiteKey};

/// The bytes as a pack, and as what lies in one whose checksum is right.
pub fn pack(bytes: &[u8]) {
    for records in [Records::Plain, Records::Sealed] {
        entries(bytes, records);
        let mut draw = Draw(bytes);
        let (count, claimed) = (draw.within(0..=300), draw.within(0..=400));
        // Half the time it claims what is there.
        let claimed = if draw.byte() % 2 == 0 { count } else { claimed };
        let (data, listed) = draw.0.split_at(draw.0.len().saturating_sub(count * ENTRY_BYTES as usize));
        let mut whole = [records.header(), data, listed, blake3::hash(listed).as_bytes()].concat();
        whole.extend_from_slice(&(claimed as u32).to_le_bytes());
        whole.extend_from_slice(&[0; 4]);
        whole.extend_from_slice(END);
        entries(&whole, records);
    }
}

fn entries(file: &[u8], records: Records) {
    let read = |offset: u64, into: &mut [u8]| {
        let at = offset as usize;
        // The allocation is made by now: it can't have been longer than the file.
        let found = file.get(at..at + into.len()).expect("nothing is read that isn't there");
        into.copy_from_slice(found);
        Ok::<_, PackFault>(())
    };
    let Ok(entries) = entries_from("0000000000000000-0.pack", file.len() as u64, records, read) else { return };
    let mut end = HEADER_BYTES;
    for PackEntry { offset, stored, raw, .. } in &entries {
        assert_eq!(u64::from(*offset), end, "a gap, or records over each other");
        assert!(*stored > 0 && *raw as usize <= CHUNK_BYTES_MAX);
        end += u64::from(*stored);
    }
    let footer = footer(&entries);
    assert!(file[end as usize..] == footer[..], "another footer says the same");
    assert_eq!(footer.len() as u64, entries.len() as u64 * ENTRY_BYTES + TRAILER_BYTES);
}

/// The bytes as a chunk's record: what is decoded has the digest and the length that were asked for, what is verified is
/// what is decoded, and nothing opens that wasn't sealed.
pub fn record(bytes: &[u8]) {
    let (raw, stored) = (le_u32(bytes), bytes.get(4..).unwrap_or_default());
    let unpacked = match stored.len() as u64 == u64::from(raw) {
        true => stored.to_vec(),
        false => zstd::bulk::decompress(stored, CHUNK_BYTES_MAX).unwrap_or_default(),
    };
    for digest in [codec::digest_of(&unpacked), codec::digest_of(stored), codec::digest_of(b"another")] {
        let decoded = codec::decode(stored.to_vec(), raw, &digest);
        assert_eq!(decoded.is_ok(), codec::verify(stored, raw, &digest).is_ok());
        if let Ok(decoded) = decoded {
            assert_eq!((decoded.len(), codec::digest_of(&decoded)), (raw as usize, digest));
        }
        let opened = SiteKey::new([7; 32]).open(Purpose::Chunk, &digest.0, u64::from(raw), stored.to_vec());
        assert!(opened.is_err(), "it opens, and nobody has sealed it");
    }
    // What is written is read.
    let chunk = &stored[..stored.len().min(CHUNK_BYTES_MAX)];
    if let (false, Ok(mut encoder)) = (chunk.is_empty(), codec::Encoder::new()) {
        let kept = encoder.encode(chunk).to_vec();
        let digest = codec::digest_of(chunk);
        assert!(codec::decode(kept, chunk.len() as u32, &digest).is_ok_and(|read| read == chunk));
    }
}
