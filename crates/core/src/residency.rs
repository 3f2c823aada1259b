//! Where bytes may be.
//!
//! A [`Selector`] picks sites; a [`Residency`] is a conjunction of selectors. Derived data inherits the
//! intersection of its inputs' residency, which is the union of their selectors: nothing about the sites
//! that exist today needs to be known for that, so the rule holds for sites that join tomorrow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::SiteId;
use crate::site::Labels;

/// One way for a site to be picked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The site of this name.
    Site(SiteId),
    /// Every site that has all of these labels.
    Labels(BTreeMap<String, String>),
}

/// Picks the sites that any of its terms picks. A selector without terms picks none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub BTreeSet<Term>);

impl Selector {
    pub fn site(site: SiteId) -> Selector {
        Selector(BTreeSet::from([Term::Site(site)]))
    }

    pub fn label(key: &str, value: &str) -> Selector {
        Selector(BTreeSet::from([Term::Labels(BTreeMap::from([(key.to_owned(), value.to_owned())]))]))
    }

    pub fn picks(&self, site: &SiteId, labels: &Labels) -> bool {
        self.0.iter().any(|term| match term {
            Term::Site(id) => id == site,
            Term::Labels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
        })
    }
}

impl fmt::Display for Selector {
    /// `onprem or {region: eu}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no site");
        }
        for (i, term) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" or ")?;
            }
            match term {
                Term::Site(id) => write!(f, "{id}")?,
                Term::Labels(labels) => {
                    let parts: Vec<_> = labels.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                    write!(f, "{{{}}}", parts.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

/// Which sites bytes, and all that derives from them, may be at: those that every selector picks.
/// The default, no selector, allows every site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Residency(pub BTreeSet<Selector>);

impl Residency {
    pub const fn anywhere() -> Residency {
        Residency(BTreeSet::new())
    }

    pub fn keep_at(selector: Selector) -> Residency {
        Residency(BTreeSet::from([selector]))
    }

    /// The residency of what derives from both.
    pub fn and(&self, other: &Residency) -> Residency {
        Residency(self.0.union(&other.0).cloned().collect())
    }

    /// The first rule that keeps the bytes away from a site, or nothing where they may be there.
    pub fn forbids<'a>(&'a self, site: &SiteId, labels: &Labels) -> Option<&'a Selector> {
        self.0.iter().find(|selector| !selector.picks(site, labels))
    }

    pub fn allows(&self, site: &SiteId, labels: &Labels) -> bool {
        self.forbids(site, labels).is_none()
    }

    pub fn is_anywhere(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("anywhere");
        }
        let parts: Vec<_> = self.0.iter().map(|s| s.to_string()).collect();
        f.write_str(&parts.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site(name: &str, labels: &[(&str, &str)]) -> (SiteId, Labels) {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        (SiteId::new(name).unwrap(), labels)
    }

    #[test]
    fn keeps_by_name_and_by_label() {
        let (onprem, home) = site("onprem", &[("region", "eu"), ("visibility", "private")]);
        let (cloud, away) = site("cloud", &[("region", "us")]);
        let rule = Residency::keep_at(Selector::label("region", "eu"));
        assert!(rule.allows(&onprem, &home));
        assert_eq!(rule.forbids(&cloud, &away).unwrap().to_string(), "{region: eu}");
        let both = rule.and(&Residency::keep_at(Selector::site(cloud.clone())));
        assert!(!both.allows(&onprem, &home) && !both.allows(&cloud, &away));
        assert!(Residency::anywhere().allows(&cloud, &away));
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        let term = prop_oneof![
            "[ab]".prop_map(|n| Term::Site(SiteId::new(n).unwrap())),
            ("[kl]", "[vw]").prop_map(|(k, v)| Term::Labels(BTreeMap::from([(k, v)]))),
        ];
        proptest::collection::btree_set(term, 0..3).prop_map(Selector)
    }

    fn any_residency() -> impl Strategy<Value = Residency> {
        proptest::collection::btree_set(any_selector(), 0..3).prop_map(Residency)
    }

    proptest! {
        /// What derives from two inputs may be exactly where both may be.
        #[test]
        fn derived_is_the_intersection(a in any_residency(), b in any_residency(), name in "[abc]", v in "[vw]") {
            let (id, labels) = site(&name, &[("k", &v)]);
            prop_assert_eq!(a.and(&b).allows(&id, &labels), a.allows(&id, &labels) && b.allows(&id, &labels));
        }
    }
}
