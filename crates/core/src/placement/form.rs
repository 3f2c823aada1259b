//! How a placement is written: each outcome and each verdict is one object that says its `status`, `planned`, `lost` or
//! `refused`, beside what belongs to that.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::outcome::{Outcome, Unplaceable, Verdict};
use crate::ids::SiteId;

#[derive(Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Told<'a> {
    Planned(Cow<'a, Outcome>),
    Refused(Cow<'a, Unplaceable>),
}

#[derive(Serialize, Deserialize)]
struct Other<'a> {
    site: Cow<'a, SiteId>,
    #[serde(flatten)]
    verdict: Cow<'a, Verdict>,
}

pub mod outcome {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub fn serialize<S: Serializer>(outcome: &Result<Outcome, Unplaceable>, to: S) -> Result<S::Ok, S::Error> {
        let told = match outcome {
            Ok(outcome) => Told::Planned(Cow::Borrowed(outcome)),
            Err(why) => Told::Refused(Cow::Borrowed(why)),
        };
        told.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Result<Outcome, Unplaceable>, D::Error> {
        Ok(match Told::deserialize(from)? {
            Told::Planned(outcome) => Ok(outcome.into_owned()),
            Told::Refused(why) => Err(why.into_owned()),
        })
    }
}

pub mod others {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub fn serialize<S: Serializer>(others: &[(SiteId, Verdict)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            others.iter().map(|(site, verdict)| Other { site: Cow::Borrowed(site), verdict: Cow::Borrowed(verdict) }),
        )
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(SiteId, Verdict)>, D::Error> {
        let others = Vec::<Other>::deserialize(from)?;
        Ok(others.into_iter().map(|other| (other.site.into_owned(), other.verdict.into_owned())).collect())
    }
}
