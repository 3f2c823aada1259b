//! Grants: the control plane's signed leave for one version to go from one site to another.
//!
//! The fetching site shows the grant, the sending site checks it: signature, version, that it is the
//! source, that whoever dialled is the destination, and the time.
//!
//! A grant is short-lived, since it can't be taken back from a site that has no line to the control plane. It lets a
//! transfer begin; one that has begun goes on ([`Begun`]), so that a long one needs no line either. Sites that have a
//! line hear of revoked keys at once and cut off what goes to them.
//!
//! It names how many bytes the version has, too: who signs it lets so much go and no more. The sender refuses a version
//! that has turned out larger, and counts what it sends under a grant, on whatever connections ([`Spent`]).

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};
use tombolo_core::{Millis, SiteId, Timestamp, VersionId};

/// How long a transfer may begin under a grant; a fetch asks for a new one each time that it begins.
pub const GRANT_LIFE: Millis = Millis::from_secs(120);
/// How long a transfer that has begun may go on under its grant, on one connection; a longer one asks again.
pub const TRANSFER_MAX: Millis = Millis::from_secs(12 * 3_600);
/// Grants that are remembered for one connection. A fetch uses one; under those beyond, nothing goes on.
const BEGUN_MAX: usize = 64;
/// Grants under which a sender counts what it sends, at a time; of more the oldest are forgotten.
const SPENT_MAX: usize = 4096;
/// How often what a grant names may be sent under it. Once is what a fetch needs; a stream that breaks, and what came
/// damaged, are sent again under the same grant.
const SENT_TIMES_MAX: u64 = 2;
/// As for the bytes, of the encoding of a version's manifest: it is asked for in parts and then whole at worst, and a
/// reference in it is longer than what frames a chunk.
const MANIFEST_TIMES_MAX: u64 = 4;
/// What may be sent beside that, in bytes: refusals, and answers for what isn't there.
const BESIDE_BYTES_MAX: u64 = 1 << 20;
/// By how much the sending site may be wrong about the control plane's time.
pub const CLOCK_SKEW_MAX: Millis = Millis::from_secs(120);

/// What is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub version: VersionId,
    pub from: SiteId,
    pub to: SiteId,
    /// The destination's public key, as the transport sees it.
    pub to_key: String,
    pub until: Timestamp,
    /// Of all files of the version, as far as it is known. None where it isn't, as of state that was left behind, and of a
    /// control plane that is older: then nothing is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a version comes to, as its sender finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Of all files.
    pub bytes: u64,
    /// Of the encoding of its manifest.
    pub manifest_bytes: u64,
}

/// A grant with its signature, as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    grant: String,
    signature: String,
}

/// Why a grant is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    #[error("the grant can't be read")]
    Malformed,
    #[error("the grant is not signed by this control plane")]
    Signature,
    #[error("the grant ended {} s ago by the control plane's clock", (now.0 - until.0) / 1000)]
    Expired { until: Timestamp, now: Timestamp },
    #[error("the grant is for version {0:?}")]
    Version(VersionId),
    #[error("the grant is for the source {0}")]
    Source(SiteId),
    #[error("the grant is for another destination, {0}")]
    Destination(SiteId),
    #[error(
        "the grant is for {granted} bytes, and the version has {has}; hint: `tombolo data add` makes its size known"
    )]
    Larger { granted: u64, has: u64 },
    #[error("{sent} bytes were sent under the grant, which is for {granted}")]
    Spent { granted: u64, sent: u64 },
}

impl Grant {
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let grant = serde_json::to_string(self).expect("a grant is plain data");
        let signature = data_encoding::BASE64.encode(&key.sign(grant.as_bytes()).to_bytes());
        serde_json::to_vec(&Signed { grant, signature }).expect("two strings")
    }

    /// The grant, if `bytes` hold one that `key` signed. Nothing is known of its content then; see [`Grant::check`].
    pub fn open(bytes: &[u8], key: &VerifyingKey) -> Result<Grant, GrantFault> {
        let signed: Signed = serde_json::from_slice(bytes).map_err(|_| GrantFault::Malformed)?;
        let signature = data_encoding::BASE64.decode(signed.signature.as_bytes()).map_err(|_| GrantFault::Malformed)?;
        let signature = Signature::from_slice(&signature).map_err(|_| GrantFault::Malformed)?;
        key.verify(signed.grant.as_bytes(), &signature).map_err(|_| GrantFault::Signature)?;
        serde_json::from_str(&signed.grant).map_err(|_| GrantFault::Malformed)
    }

    /// Whether it lets `from` send `version` to whoever holds `to_key`, now.
    pub fn check(&self, version: VersionId, from: &SiteId, to_key: &str, now: Timestamp) -> Result<(), GrantFault> {
        if now > self.until + CLOCK_SKEW_MAX {
            return Err(GrantFault::Expired { until: self.until, now });
        }
        if self.version != version {
            return Err(GrantFault::Version(self.version));
        }
        if self.from != *from {
            return Err(GrantFault::Source(self.from.clone()));
        }
        if self.to_key != to_key {
            return Err(GrantFault::Destination(self.to.clone()));
        }
        Ok(())
    }
}

/// What a sender has sent under which grants, over all its connections. Kept in memory: an agent that is started anew
/// begins to count anew, and grants don't outlive that by more than [`GRANT_LIFE`].
#[derive(Debug, Default)]
pub struct Spent(BTreeMap<[u8; 32], Account>);

#[derive(Debug)]
struct Account {
    begun: Timestamp,
    granted: Option<u64>,
    sent: u64,
}

impl Spent {
    /// Counts what is about to be sent under a grant, unless that is more than it names. `bytes` is a grant that
    /// [`Begun::check`] has found good: a signature is looked at when an account is opened, and not for every piece.
    pub fn spend(
        &mut self,
        bytes: &[u8],
        key: &VerifyingKey,
        amount: Amount,
        more: u64,
        now: Timestamp,
    ) -> Result<(), GrantFault> {
        let id = *blake3::hash(bytes).as_bytes();
        if let Some(account) = self.0.get_mut(&id) {
            let sent = account.sent.saturating_add(more);
            covers(account.granted, amount, sent)?;
            account.sent = sent;
            return Ok(());
        }
        let granted = Grant::open(bytes, key)?.bytes;
        covers(granted, amount, more)?;
        if self.0.len() >= SPENT_MAX {
            let oldest = self.0.iter().min_by_key(|(_, account)| account.begun).map(|(id, _)| *id);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(id, Account { begun: now, granted, sent: more });
        Ok(())
    }
}

/// Whether so many bytes in all may be sent under a grant, frames and manifest included.
fn covers(granted: Option<u64>, amount: Amount, sent: u64) -> Result<(), GrantFault> {
    let Some(granted) = granted else { return Ok(()) };
    if amount.bytes > granted {
        return Err(GrantFault::Larger { granted, has: amount.bytes });
    }
    let manifest = amount.manifest_bytes.saturating_mul(MANIFEST_TIMES_MAX);
    let most = granted.saturating_mul(SENT_TIMES_MAX).saturating_add(manifest).saturating_add(BESIDE_BYTES_MAX);
    if sent > most { Err(GrantFault::Spent { granted, sent }) } else { Ok(()) }
}

/// The grants under which transfers have begun on one connection, and when.
#[derive(Debug, Default)]
pub struct Begun(BTreeMap<Vec<u8>, Timestamp>);

impl Begun {
    /// Whether `bytes`, a grant signed by `key`, lets `from` send `version` to `to_key` now: it is good now, or was
    /// when the transfer began.
    pub fn check(
        &mut self,
        bytes: &[u8],
        key: &VerifyingKey,
        (version, from, to_key): (VersionId, &SiteId, &str),
        now: Timestamp,
    ) -> Result<(), GrantFault> {
        let grant = Grant::open(bytes, key)?;
        let begun = self.0.get(bytes).copied();
        let at = begun.filter(|begun| now <= *begun + TRANSFER_MAX).unwrap_or(now);
        grant.check(version, from, to_key, at)?;
        if begun.is_none() && self.0.len() < BEGUN_MAX {
            self.0.insert(bytes.to_vec(), now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Digest;

    #[test]
    fn a_grant_is_good_for_what_it_says_and_nothing_else() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let site = |name| SiteId::new(name).unwrap();
        let version = VersionId(Digest([1; 32]));
        let until = Timestamp(1_000_000);
        let grant = Grant { version, from: site("a"), to: site("b"), to_key: "kb".into(), until, bytes: Some(7) };
        let bytes = grant.sign(&key);
        assert_eq!(Grant::open(&bytes, &key.verifying_key()).unwrap(), grant);

        let other = SigningKey::from_bytes(&[8; 32]);
        assert_eq!(Grant::open(&bytes, &other.verifying_key()), Err(GrantFault::Signature));
        let forged = String::from_utf8(bytes).unwrap().replace("\\\"from\\\":\\\"a\\\"", "\\\"from\\\":\\\"c\\\"");
        assert_eq!(Grant::open(forged.as_bytes(), &key.verifying_key()), Err(GrantFault::Signature));
        assert_eq!(Grant::open(b"{}", &key.verifying_key()), Err(GrantFault::Malformed));

        let check = |version, from, to_key, now| grant.check(version, &site(from), to_key, Timestamp(now));
        assert_eq!(check(version, "a", "kb", 0), Ok(()));
        assert_eq!(check(version, "a", "kb", until.0 + 60_000), Ok(()));
        assert!(matches!(check(version, "a", "kb", until.0 + 200_000), Err(GrantFault::Expired { .. })));
        assert!(matches!(check(VersionId(Digest([2; 32])), "a", "kb", 0), Err(GrantFault::Version(_))));
        assert!(matches!(check(version, "c", "kb", 0), Err(GrantFault::Source(_))));
        assert!(matches!(check(version, "a", "kc", 0), Err(GrantFault::Destination(_))));
    }

    #[test]
    fn what_has_begun_goes_on_and_nothing_begins_late() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (a, b) = (SiteId::new("a").unwrap(), SiteId::new("b").unwrap());
        let version = VersionId(Digest([1; 32]));
        let grant = |until| Grant { version, from: a.clone(), to: b.clone(), to_key: "kb".into(), until, bytes: None };
        let bytes = grant(Timestamp(1_000)).sign(&key);
        let check = |begun: &mut Begun, bytes: &[u8], to_key: &str, now: i64| {
            begun.check(bytes, &key.verifying_key(), (version, &a, to_key), Timestamp(now))
        };
        let late = 1_000 + CLOCK_SKEW_MAX.0 as i64 + 1;
        let mut begun = Begun::default();
        assert!(matches!(check(&mut begun, &bytes, "kb", late), Err(GrantFault::Expired { .. })));
        assert_eq!(check(&mut begun, &bytes, "kb", 500), Ok(()));
        assert_eq!(check(&mut begun, &bytes, "kb", late), Ok(()));
        assert!(matches!(check(&mut begun, &bytes, "kc", late), Err(GrantFault::Destination(_))));
        let end = 500 + TRANSFER_MAX.0 as i64;
        assert_eq!(check(&mut begun, &bytes, "kb", end), Ok(()));
        assert!(matches!(check(&mut begun, &bytes, "kb", end + 1), Err(GrantFault::Expired { .. })));
        // On another connection nothing has begun, and there is an end to what is remembered of one.
        assert!(check(&mut Begun::default(), &bytes, "kb", late).is_err());
        for until in 0..2 * BEGUN_MAX {
            check(&mut begun, &grant(Timestamp(1_000 + until as i64)).sign(&key), "kb", 500).unwrap();
        }
        assert_eq!(begun.0.len(), BEGUN_MAX);
    }

    #[test]
    fn what_is_sent_is_counted_and_no_more_goes_than_a_grant_names() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (a, b) = (SiteId::new("a").unwrap(), SiteId::new("b").unwrap());
        let grant = |bytes, until| Grant {
            version: VersionId(Digest([1; 32])),
            from: a.clone(),
            to: b.clone(),
            to_key: "kb".into(),
            until: Timestamp(until),
            bytes,
        };
        const MIB: u64 = 1 << 20;
        let amount = Amount { bytes: 100 * MIB, manifest_bytes: MIB };
        let mut spent = Spent::default();
        let mut spend =
            |bytes: &[u8], amount, more| spent.spend(bytes, &key.verifying_key(), amount, more, Timestamp(0));
        let signed = grant(Some(100 * MIB), 1).sign(&key);
        // A fetch that loses all that came, just before its end, and brings it again with every manifest it could ask for.
        for _ in 0..2 {
            assert_eq!(spend(&signed, amount, 102 * MIB), Ok(()));
        }
        let over = spend(&signed, amount, 2 * MIB);
        assert_eq!(over, Err(GrantFault::Spent { granted: 100 * MIB, sent: 206 * MIB }));
        // What was refused isn't sent, so it isn't counted either; another grant for the same has a count of its own.
        assert_eq!(spend(&signed, amount, MIB), Ok(()));
        assert!(spend(&signed, amount, 1).is_err());
        assert_eq!(spend(&grant(Some(100 * MIB), 2).sign(&key), amount, 102 * MIB), Ok(()));

        let larger = Amount { bytes: 100 * MIB + 1, ..amount };
        let refused = spend(&grant(Some(100 * MIB), 3).sign(&key), larger, 0);
        assert_eq!(refused, Err(GrantFault::Larger { granted: 100 * MIB, has: 100 * MIB + 1 }));
        // One that names no bytes, as an older control plane's, is good for any.
        let older = grant(None, 4).sign(&key);
        assert!(!String::from_utf8(older.clone()).unwrap().contains("bytes"));
        assert_eq!(spend(&older, larger, u64::MAX), Ok(()));
        // The oldest are forgotten, and only where there is no room.
        let mut spent = Spent::default();
        for n in 0..SPENT_MAX {
            let account = Account { begun: Timestamp(n as i64 + 1), granted: None, sent: 0 };
            spent.0.insert(*blake3::hash(&n.to_le_bytes()).as_bytes(), account);
        }
        let newest = grant(Some(MIB), 5).sign(&key);
        let now = Timestamp(SPENT_MAX as i64 + 2);
        let small = Amount { bytes: 1, manifest_bytes: 1 };
        spent.spend(&newest, &key.verifying_key(), small, 1, now).unwrap();
        let oldest = spent.0.values().map(|account| account.begun).min();
        assert!(spent.0.contains_key(blake3::hash(&newest).as_bytes()) && oldest == Some(Timestamp(2)), "{oldest:?}");
        assert_eq!(spent.0.len(), SPENT_MAX);
    }

    /// As an agent of an earlier version reads and signs it.
    #[test]
    fn a_grant_is_read_by_older_agents_and_older_grants_are_read() {
        #[derive(Serialize, Deserialize)]
        struct Older {
            version: VersionId,
            from: SiteId,
            to: SiteId,
            to_key: String,
            until: Timestamp,
        }
        let (from, to) = (SiteId::new("a").unwrap(), SiteId::new("b").unwrap());
        let version = VersionId(Digest([1; 32]));
        let newer = Grant { version, from, to, to_key: "kb".into(), until: Timestamp(9), bytes: Some(5) };
        let older: Older = serde_json::from_value(serde_json::to_value(&newer).unwrap()).unwrap();
        let back: Grant = serde_json::from_value(serde_json::to_value(&older).unwrap()).unwrap();
        assert_eq!(back, Grant { bytes: None, ..newer });
    }
}
