//! Run tokens: a placement's leave to log what it does. Its site signs it, the control plane checks it.
//!
//! Nothing is kept of a token. It is good for as long as the placement that it names is the newest of its workload and
//! not over, so that a process that was given up for lost can't write into the run of the one that took its place.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};
use tombolo_core::{Epoch, SiteId, WorkloadId};

/// By which such a token is told from one of a person.
pub const PREFIX: &str = "tbr_";
/// Longest token that is looked at, in bytes; names are short.
const TOKEN_BYTES_MAX: usize = 4096;
/// So that the site's signature of something else is none of a token.
const DOMAIN: &[u8] = b"tombolo run token 1\0";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunToken {
    pub site: SiteId,
    pub workload: WorkloadId,
    pub epoch: Epoch,
}

/// What a token says; nothing is known of its truth before [`Claimed::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub claim: RunToken,
    said: Vec<u8>,
    signature: Signature,
}

impl RunToken {
    /// Always the same text for the same placement: an agent that was started again need not know it.
    pub fn sign(&self, key: &SigningKey) -> String {
        let said = serde_json::to_vec(self).expect("a token is plain data");
        let signature = key.sign(&signed(&said)).to_bytes();
        let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        format!("{PREFIX}{}.{}", encode(&said), encode(&signature))
    }
}

impl Claimed {
    pub fn read(token: &str) -> Option<Claimed> {
        let (said, signature) =
            token.strip_prefix(PREFIX).filter(|_| token.len() <= TOKEN_BYTES_MAX)?.split_once('.')?;
        let decode = |text: &str| data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let (said, signature) = (decode(said)?, Signature::from_slice(&decode(signature)?).ok()?);
        Some(Claimed { claim: serde_json::from_slice(&said).ok()?, said, signature })
    }

    /// Whether the holder of the key has signed it.
    pub fn check(&self, key: &VerifyingKey) -> bool {
        key.verify(&signed(&self.said), &self.signature).is_ok()
    }
}

fn signed(said: &[u8]) -> Vec<u8> {
    [DOMAIN, said].concat()
}

/// The MLflow run that a workload's calls go to: the same on every site and in every attempt.
pub fn mlflow_run_id(workload: &WorkloadId) -> String {
    let hash = blake3::derive_key("tombolo 2026-11 mlflow run of a workload", workload.to_string().as_bytes());
    data_encoding::HEXLOWER.encode(&hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> RunToken {
        RunToken { site: "here".parse().unwrap(), workload: "flights-1/train".parse().unwrap(), epoch: Epoch(2) }
    }

    #[test]
    fn only_its_signer_makes_it_true() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let text = token().sign(&key);
        let claimed = Claimed::read(&text).unwrap();
        assert_eq!(claimed.claim, token());
        assert!(claimed.check(&key.verifying_key()));
        assert!(!claimed.check(&other.verifying_key()));
        let newer = RunToken { epoch: Epoch(3), ..token() }.sign(&other);
        let (said, _) = newer.split_once('.').unwrap();
        let (_, signature) = text.split_once('.').unwrap();
        let forged = Claimed::read(&format!("{said}.{signature}")).unwrap();
        assert!(!forged.check(&key.verifying_key()));
    }

    #[test]
    fn what_is_none_is_not_read() {
        for bad in ["", "tbr_", "tbr_.", "tbr_a.b", "tbl_abc", &format!("tbr_{}.x", "A".repeat(TOKEN_BYTES_MAX))] {
            assert_eq!(Claimed::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_workloads_run_is_always_the_same() {
        let id = |text: &str| mlflow_run_id(&text.parse().unwrap());
        assert_eq!(id("flights-1/train"), id("flights-1/train"));
        assert_ne!(id("flights-1/train"), id("flights-2/train"));
        assert_eq!(id("flights-1/train").len(), 32);
    }
}
