//! Secrets at rest, and tokens.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use tombolo_core::Name;

/// In the control plane's directory. Whoever has it and the database can read every secret.
pub const KEY_FILE: &str = "secrets.key";

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the key file {path} can't be used: {why}")]
    Key { path: PathBuf, why: String },
    #[error("the secret {name} can't be opened: {why}")]
    Sealed { name: Name, why: String },
}

/// The key under which secrets are sealed. Its `Debug` shows nothing of it.
pub struct Secrets {
    identity: Identity,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Reads the key file of a directory, which must be its owner's alone; makes it on first use.
    pub fn open(dir: &Path) -> Result<Secrets, SecretsError> {
        let path = dir.join(KEY_FILE);
        let fault = |why: String| SecretsError::Key { path: path.clone(), why };
        match fs::read_to_string(&path) {
            Ok(text) => {
                let mode = fs::metadata(&path).map_err(|error| fault(error.to_string()))?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(fault("others can read it; make it private with chmod 600".to_owned()));
                }
                let identity = text.trim().parse().map_err(|_| fault("it holds no key".to_owned()))?;
                Ok(Secrets { identity })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Identity::generate();
                let text = identity.to_string();
                tombolo_net::write_private(&path, text.expose_secret().as_bytes())
                    .map_err(|error| fault(error.to_string()))?;
                Ok(Secrets { identity })
            }
            Err(error) => Err(fault(error.to_string())),
        }
    }

    /// Encrypts a secret together with its name, so that one can't be passed off as another.
    pub fn seal(&self, name: &Name, plain: &[u8]) -> Vec<u8> {
        let mut named = header(name);
        named.extend_from_slice(plain);
        age::encrypt(&self.identity.to_public(), &named).expect("writing into memory does not fail")
    }

    pub fn open_sealed(&self, name: &Name, sealed: &[u8]) -> Result<Vec<u8>, SecretsError> {
        let fault = |why: String| SecretsError::Sealed { name: name.clone(), why };
        let named = age::decrypt(&self.identity, sealed).map_err(|error| fault(error.to_string()))?;
        let plain = named.strip_prefix(header(name).as_slice());
        plain.map(<[u8]>::to_vec).ok_or_else(|| fault("it was stored under another name".to_owned()))
    }
}

fn header(name: &Name) -> Vec<u8> {
    // A name holds no zero byte, so no header is the beginning of another.
    format!("{name}\0").into_bytes()
}

/// A new token of 256 random bits: the prefix, an underscore and 52 characters.
pub fn new_token(prefix: &str) -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    let text = data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    format!("{prefix}_{text}")
}

/// What is kept of a token: its BLAKE3, in hex.
pub fn hash_token(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn secrets_open_under_their_key_and_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        let sealed = secrets.seal(&name("db"), b"hunter2");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_eq!(secrets.open_sealed(&name("db"), &sealed).unwrap(), b"hunter2");
        assert_eq!(Secrets::open(dir.path()).unwrap().open_sealed(&name("db"), &sealed).unwrap(), b"hunter2");
        let error = secrets.open_sealed(&name("other"), &sealed).unwrap_err();
        assert!(error.to_string().contains("another name"), "{error}");
        let mut broken = sealed.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(secrets.open_sealed(&name("db"), &broken).is_err());
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(Secrets::open(elsewhere.path()).unwrap().open_sealed(&name("db"), &sealed).is_err());
    }

    #[test]
    fn the_key_file_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Secrets::open(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Secrets::open(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "").unwrap();
        assert!(Secrets::open(dir.path()).unwrap_err().to_string().contains("holds no key"));
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn tokens_differ_and_only_their_hash_is_needed() {
        let (a, b) = (new_token("tbl"), new_token("tbl"));
        assert_ne!(a, b);
        assert!(a.starts_with("tbl_") && a.len() == 4 + 52, "{a}");
        assert_eq!(hash_token(&a), hash_token(&a.clone()));
        assert_ne!(hash_token(&a), hash_token(&b));
        assert_eq!(hash_token(&a).len(), 64);
    }
}
