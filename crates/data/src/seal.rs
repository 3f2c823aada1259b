//! Sealing with a site's key: what makes chunks and manifests unreadable to whoever has only the disk or the bucket.
//!
//! Of a chunk it is the stored form that is sealed (see [`crate::codec`]), of a manifest its encoding.
//!
//! # Format of a sealed record
//! ```text
//! salt         24 random bytes, new for each sealing
//! ciphertext   as long as the plaintext
//! tag          16 bytes
//! ```
//! AES-256-GCM under a key that is used once: `BLAKE3(key = site key, purpose and salt)`, so that GCM's own nonce
//! can be zero. 192 random bits don't repeat, whatever is written again, copied or lost; nothing has to be counted.
//! The purpose, the name (a chunk's digest or a version's id) and the raw length are authenticated with it, so a
//! record that is moved to another's place doesn't open; one that is copied to another pack does.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::error::{At, DataError};
use crate::pack::sync_dir;

const SALT_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// What a record is longer by when it is sealed.
pub const SEAL_BYTES: usize = SALT_BYTES + TAG_BYTES;
/// 64 hex digits, and a line's end.
const KEY_FILE_BYTES_MAX: u64 = 66;
const ID_CONTEXT: &str = "tombolo 2026 id of a store's key";

/// Names a key without giving anything of it away: 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<KeyId, ()> {
        let id = KeyId(u64::from_str_radix(text, 16).map_err(|_| ())?);
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

/// What a record is, so that none passes for one of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    Chunk = 1,
    Manifest = 2,
}

/// A site's key. Neither its bytes nor anything they could be found from is printed.
#[derive(Clone)]
pub struct SiteKey([u8; 32]);

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteKey({})", self.id())
    }
}

impl SiteKey {
    pub fn new(bytes: [u8; 32]) -> SiteKey {
        SiteKey(bytes)
    }

    /// A new random key, kept in a file that only its owner reads. A file that is there already is never replaced, and
    /// the file is there whole or not at all.
    pub fn create(path: &Path) -> Result<SiteKey, DataError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(no_random).at("can't make a random key for", path)?;
        let tmp = path.with_extension(format!("tmp{}", std::process::id()));
        let made = write_key(&tmp, &bytes).and_then(|()| std::fs::hard_link(&tmp, path).at("can't create", path));
        // It may not be there at all.
        let _ = std::fs::remove_file(&tmp);
        made?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(SiteKey(bytes))
    }

    pub fn load(path: &Path) -> Result<SiteKey, DataError> {
        let unusable = |source| DataError::KeyFile { path: path.to_path_buf(), source };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(unusable)?;
        // The text isn't repeated in the error: it may be a key but for one digit.
        let bytes = blake3::Hash::from_hex(text.trim_end())
            .map_err(|_| unusable(io::Error::new(ErrorKind::InvalidData, "it isn't 64 hex digits")))?;
        Ok(SiteKey(*bytes.as_bytes()))
    }

    pub fn id(&self) -> KeyId {
        let id = blake3::derive_key(ID_CONTEXT, &self.0);
        KeyId(u64::from_be_bytes(*id.first_chunk().expect("it has 32 bytes")))
    }

    /// The sealed form of `plain`, which is [`SEAL_BYTES`] longer.
    pub fn seal(&self, purpose: Purpose, name: &[u8; 32], raw: u64, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(no_random)?;
        let key = self.once(purpose, &salt).ok_or_else(|| io::Error::other("its key can't be made"))?;
        let mut out = Vec::with_capacity(plain.len() + SEAL_BYTES);
        out.extend_from_slice(&salt);
        out.extend_from_slice(plain);
        let tag = key
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(bound(purpose, name, raw)), &mut out[SALT_BYTES..])
            .map_err(|_| io::Error::other("it can't be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// What was sealed, or why this isn't that.
    pub fn open(&self, purpose: Purpose, name: &[u8; 32], raw: u64, mut sealed: Vec<u8>) -> Result<Vec<u8>, String> {
        let unfit = "it doesn't open with the store's key";
        let Some((salt, _)) = sealed.split_first_chunk::<SALT_BYTES>().filter(|_| sealed.len() >= SEAL_BYTES) else {
            return Err(format!("{} bytes are too short for a sealed record", sealed.len()));
        };
        let key = self.once(purpose, salt).ok_or(unfit)?;
        let plain = key
            .open_within(zero_nonce(), Aad::from(bound(purpose, name, raw)), &mut sealed, SALT_BYTES..)
            .map_err(|_| unfit)?;
        let length = plain.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    /// The key of the one record that has this salt.
    fn once(&self, purpose: Purpose, salt: &[u8; SALT_BYTES]) -> Option<LessSafeKey> {
        let mut message = [purpose as u8; 1 + SALT_BYTES];
        message[1..].copy_from_slice(salt);
        let key = blake3::keyed_hash(&self.0, &message);
        UnboundKey::new(&AES_256_GCM, key.as_bytes()).ok().map(LessSafeKey::new)
    }
}

fn no_random(error: getrandom::Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn write_key(path: &Path, key: &[u8; 32]) -> Result<(), DataError> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).at("can't create", path)?;
    let text = format!("{}\n", blake3::Hash::from_bytes(*key).to_hex());
    file.write_all(text.as_bytes()).at("can't write", path)?;
    file.sync_all().at("can't sync", path)
}

/// Every key is used once, so its nonce needn't differ from another's.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn bound(purpose: Purpose, name: &[u8; 32], raw: u64) -> [u8; 41] {
    let mut bound = [purpose as u8; 41];
    bound[1..33].copy_from_slice(name);
    bound[33..].copy_from_slice(&raw.to_le_bytes());
    bound
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAME: [u8; 32] = [7; 32];

    fn key() -> (tempfile::TempDir, std::path::PathBuf, SiteKey) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.key");
        let key = SiteKey::create(&path).unwrap();
        (dir, path, key)
    }

    #[test]
    fn a_record_opens_only_as_what_it_was_sealed_as() {
        let (_dir, _, key) = key();
        for plain in [&b""[..], b"x", &[5; 100_000]] {
            let sealed = key.seal(Purpose::Chunk, &NAME, 9, plain).unwrap();
            assert_eq!(sealed.len(), plain.len() + SEAL_BYTES);
            assert_eq!(key.open(Purpose::Chunk, &NAME, 9, sealed.clone()).unwrap(), plain);
            for (purpose, name, raw) in
                [(Purpose::Manifest, NAME, 9), (Purpose::Chunk, [8; 32], 9), (Purpose::Chunk, NAME, 10)]
            {
                key.open(purpose, &name, raw, sealed.clone()).expect_err("moved");
            }
            key.open(Purpose::Chunk, &NAME, 9, sealed[1..].to_vec()).expect_err("cut");
        }
        assert!(key.open(Purpose::Chunk, &NAME, 9, vec![0; SEAL_BYTES - 1]).unwrap_err().contains("too short"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (_dir, _, key) = key();
        let sealed = key.seal(Purpose::Chunk, &NAME, 4, b"rows").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            key.open(Purpose::Chunk, &NAME, 4, flipped).expect_err("flipped");
        }
    }

    #[test]
    fn the_same_bytes_seal_differently_each_time_and_stay_hidden() {
        let (_dir, _, key) = key();
        let plain = b"a line that would be found";
        let [one, two] = [(); 2].map(|()| key.seal(Purpose::Chunk, &NAME, 26, plain).unwrap());
        assert!(one[..SALT_BYTES] != two[..SALT_BYTES] && one[SALT_BYTES..] != two[SALT_BYTES..]);
        assert!(!one.windows(6).any(|window| plain.windows(6).any(|text| text == window)));
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let (dir, path, key) = key();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        SiteKey::create(&path).expect_err("it is there already");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left of it");
        let loaded = SiteKey::load(&path).unwrap();
        assert_eq!((loaded.0, loaded.id()), (key.0, key.id()));
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key.id().to_string()) && !format!("{key:?}").contains(text.trim_end()));

        let other = SiteKey::create(&dir.path().join("other.key")).unwrap();
        assert_ne!(other.id(), key.id());
        let sealed = key.seal(Purpose::Manifest, &NAME, 1, b"x").unwrap();
        other.open(Purpose::Manifest, &NAME, 1, sealed).expect_err("another key");

        for wrong in ["", "0123", &format!("{}0", text.trim_end()), &text.replace(|c: char| c.is_ascii_digit(), "g")] {
            std::fs::write(&path, wrong).unwrap();
            let error = SiteKey::load(&path).unwrap_err().to_string();
            assert!(error.contains("64 hex digits") && (wrong.is_empty() || !error.contains(wrong)), "{error}");
        }
    }
}
