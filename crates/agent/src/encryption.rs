//! Whether the store of a site that joins is encrypted, and under which key.

use std::path::{Path, PathBuf};

use tombolo_core::site::SiteInfo;
use tombolo_data::{BucketOptions, Form, KeyId, SiteKey, Store};

use crate::AgentError;
use crate::config::{JoinOptions, Layout, io};

/// What was asked for. A store stays as it was made, so this is for new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encrypt {
    /// At a site with the label `visibility=public`.
    #[default]
    WherePublic,
    On,
    Off,
}

/// What the choice hangs on.
struct Known {
    asked: Encrypt,
    is_public: bool,
    /// Where the store is or will be, as people say it.
    at: String,
    /// The store that is there already.
    found: Option<Form>,
    /// The key that was named.
    named: Option<KeyId>,
    /// The key that lies in the site's directory, from an earlier joining.
    kept: Option<KeyId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Plain,
    Named,
    Kept,
    New,
}

/// Answers with the path of the key for `site.json`, which is made if need be; None for a store without one.
pub(crate) fn settle(layout: &Layout, options: &JoinOptions) -> Result<Option<PathBuf>, AgentError> {
    let bucket = options.store.clone().map(BucketOptions::new);
    let named = options.store_key.as_deref().map(SiteKey::load).transpose()?;
    let own = layout.store_key();
    let kept = own.try_exists().map_err(|error| io(&own, error))?;
    let kept = kept.then(|| SiteKey::load(&own)).transpose()?;
    let known = Known {
        asked: options.encrypt,
        is_public: is_public(&options.info),
        at: options.store.clone().unwrap_or_else(|| layout.store().display().to_string()),
        found: Store::form_at(layout.store(), bucket.as_ref())?,
        named: named.map(|key| key.id()),
        kept: kept.map(|key| key.id()),
    };
    let own_name = own.file_name().map(PathBuf::from);
    match choose(&known)? {
        Choice::Plain => Ok(None),
        Choice::Kept => Ok(own_name),
        Choice::New => {
            SiteKey::create(&own)?;
            Ok(own_name)
        }
        Choice::Named => {
            let path = options.store_key.as_deref().unwrap_or(Path::new(""));
            Ok(Some(std::path::absolute(path).map_err(|error| io(path, error))?))
        }
    }
}

fn choose(known: &Known) -> Result<Choice, AgentError> {
    let Known { at, named, kept, .. } = known;
    let other = "join with another --dir or --store for a store of its own";
    let refuse = |what: String, hint: &str| Err(AgentError::Encryption { what, hint: hint.to_owned() });
    match (known.found, known.asked) {
        (Some(Form::Plain), Encrypt::On) => refuse(
            format!("the store at {at} is not encrypted, and stays as it was made"),
            &format!("leave out --encrypt on, or {other}"),
        ),
        (Some(Form::Plain), _) if named.is_some() => refuse(
            format!("the store at {at} is not encrypted, and stays as it was made"),
            &format!("leave out --store-key, or {other}"),
        ),
        (Some(Form::Plain), _) => Ok(Choice::Plain),
        (Some(Form::Encrypted(_)), Encrypt::Off) => refuse(
            format!("the store at {at} is encrypted, and stays as it was made"),
            &format!("leave out --encrypt off, or {other}"),
        ),
        (Some(Form::Encrypted(key)), _) => match (named, kept) {
            (Some(named), _) if *named == key => Ok(Choice::Named),
            (None, Some(kept)) if *kept == key => Ok(Choice::Kept),
            (Some(given), _) | (None, Some(given)) => refuse(
                format!("the store at {at} is encrypted under the key {key}, and the key here is {given}"),
                "all sites that share a store need the same key: copy `store.key` from the directory of the site that \
                 made it, and name the copy with --store-key FILE",
            ),
            (None, None) => refuse(
                format!("the store at {at} is encrypted under the key {key}, which isn't here"),
                "copy `store.key` from the directory of the site that made it, and name the copy with --store-key FILE",
            ),
        },
        (None, Encrypt::Off) if named.is_some() => refuse(
            "a key was named for a store that shall not be encrypted".to_owned(),
            "leave out --store-key or --encrypt off",
        ),
        (None, Encrypt::Off) => Ok(Choice::Plain),
        (None, Encrypt::WherePublic) if named.is_none() && !known.is_public => Ok(Choice::Plain),
        (None, Encrypt::WherePublic | Encrypt::On) => Ok(match (named, kept) {
            (Some(_), _) => Choice::Named,
            (None, Some(_)) => Choice::Kept,
            (None, None) => Choice::New,
        }),
    }
}

/// Whether others than the site's owner come near its disk or bucket.
pub fn is_public(info: &SiteInfo) -> bool {
    info.labels.get("visibility").is_some_and(|visibility| visibility == "public")
}

#[cfg(test)]
mod tests {
    use tombolo_core::Resources;
    use tombolo_core::site::Prices;

    use super::*;

    fn id(byte: u8) -> KeyId {
        SiteKey::new([byte; 32]).id()
    }

    /// Every combination; keys are 1 and 2, 0 is none.
    #[test]
    fn a_store_stays_as_it_was_made_and_a_new_one_is_as_asked() {
        use Encrypt::{Off, On, WherePublic};
        let key = |byte: u8| (byte > 0).then(|| id(byte));
        let check = |asked, is_public, found, named, kept| {
            let known = Known { asked, is_public, at: "here".into(), found, named: key(named), kept: key(kept) };
            choose(&known).map_err(|error| error.to_string())
        };
        for is_public in [false, true] {
            for kept in [0, 1] {
                let own = if kept == 0 { Choice::New } else { Choice::Kept };
                // A new store.
                assert_eq!(check(Off, is_public, None, 0, kept), Ok(Choice::Plain));
                assert_eq!(check(On, is_public, None, 0, kept), Ok(own));
                for asked in [On, WherePublic] {
                    assert_eq!(check(asked, is_public, None, 1, kept), Ok(Choice::Named));
                }
                check(Off, is_public, None, 1, kept).expect_err("a key for what shall not be encrypted");
                // One that isn't encrypted.
                for asked in [Off, WherePublic] {
                    assert_eq!(check(asked, is_public, Some(Form::Plain), 0, kept), Ok(Choice::Plain));
                    check(asked, is_public, Some(Form::Plain), 1, kept).expect_err("a key for it");
                }
                let error = check(On, is_public, Some(Form::Plain), 0, kept).unwrap_err();
                assert!(error.contains("not encrypted") && error.contains("\nhint: leave out --encrypt on"), "{error}");
                // One that is.
                let sealed = Some(Form::Encrypted(id(1)));
                check(Off, is_public, sealed, 1, kept).expect_err("it is encrypted");
                for asked in [On, WherePublic] {
                    assert_eq!(check(asked, is_public, sealed, 1, kept), Ok(Choice::Named));
                    let error = check(asked, is_public, sealed, 2, kept).unwrap_err();
                    assert!(error.contains("same key"), "{error}");
                }
            }
            for asked in [On, WherePublic] {
                let sealed = Some(Form::Encrypted(id(1)));
                assert_eq!(check(asked, is_public, sealed, 0, 1), Ok(Choice::Kept));
                let error = check(asked, is_public, sealed, 0, 0).unwrap_err();
                assert!(error.contains("\nhint: copy `store.key`"), "{error}");
                check(asked, is_public, sealed, 0, 2).expect_err("another key");
            }
        }
        assert_eq!(check(WherePublic, false, None, 0, 0), Ok(Choice::Plain));
        assert_eq!(check(WherePublic, true, None, 0, 0), Ok(Choice::New));
        assert_eq!(check(WherePublic, true, None, 0, 1), Ok(Choice::Kept));
    }

    fn options(dir: &Path, labels: &[(&str, &str)]) -> JoinOptions {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        JoinOptions {
            address: String::new(),
            token: String::new(),
            dir: dir.to_owned(),
            info: SiteInfo {
                id: "cloud".parse().unwrap(),
                labels,
                capacity: Resources::default(),
                prices: Prices::default(),
                containers: false,
            },
            store: None,
            encrypt: Encrypt::default(),
            store_key: None,
            slurm: None,
            kubernetes: None,
        }
    }

    #[test]
    fn a_public_sites_key_is_made_once_and_before_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout(dir.path().to_owned());
        let public = options(dir.path(), &[("visibility", "public")]);
        assert_eq!(settle(&layout, &public).unwrap(), Some("store.key".into()));
        let key = SiteKey::load(&layout.store_key()).unwrap();
        assert!(!layout.store().exists());
        // Joining again, as after a refusal, takes the same.
        assert_eq!(settle(&layout, &public).unwrap(), Some("store.key".into()));
        assert_eq!(SiteKey::load(&layout.store_key()).unwrap().id(), key.id());
        let named = JoinOptions { store_key: Some(layout.store_key()), ..options(dir.path(), &[]) };
        assert_eq!(settle(&layout, &named).unwrap(), Some(layout.store_key()));
    }

    #[test]
    fn a_site_that_is_not_public_gets_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout(dir.path().to_owned());
        assert_eq!(settle(&layout, &options(dir.path(), &[("visibility", "private")])).unwrap(), None);
        assert!(!layout.store_key().exists());
        let missing = JoinOptions { store_key: Some(dir.path().join("none")), ..options(dir.path(), &[]) };
        let error = settle(&layout, &missing).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains("can't be read"), "{error}");
    }
}
