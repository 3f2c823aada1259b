//! What `raw`, `raw@v3`, `raw@prod`, `raw@3f2a`, `raw@2026-11-20`, `flights/model` and `flights/model@7` mean: versions of a
//! dataset, or what runs have made.

use std::collections::BTreeSet;

use tombolo_api::wire::{DatasetInfo, OutputInfo, VersionInfo};
use tombolo_core::tag::{is_digits_of_version, version_number};
use tombolo_core::{Name, RunId, Tag, Timestamp};

use crate::failure::Failure;
use crate::session::Session;

/// Versions that an error lists, newest first, where none is the one that was asked for.
const LISTED_MAX: usize = 3;

/// A dataset or an output, and which of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Only outputs have one.
    pub project: Option<Name>,
    pub name: Name,
    /// The newest unless given.
    pub which: Option<Which>,
}

/// What stands after the `@`, or after `--at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    pub text: String,
    pub means: Means,
}

/// No text means two of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// The newest that was there then.
    Time(Timestamp),
    /// The third version of a dataset by its number, `v3`.
    Number(u64),
    /// What somebody called it, of a dataset.
    Tag(Tag),
    /// The first digits of a version or, of an output, a run or its number.
    Digits,
}

impl std::str::FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Which, String> {
        let text = text.to_ascii_lowercase();
        let is_run = text.parse::<u64>().is_ok() || text.parse::<RunId>().is_ok();
        let until = moment(&text, &jiff::tz::TimeZone::system());
        let means = match (until, version_number(&text), Tag::new(text.as_str())) {
            (Some(until), ..) => Means::Time(until),
            (None, Some(number), _) => Means::Number(number),
            (None, None, _) if is_run || is_digits_of_version(&text) => Means::Digits,
            (None, None, Ok(tag)) => Means::Tag(tag),
            (None, None, Err(_)) => {
                return Err(format!(
                    "{text:?} is no version: give its number such as v3, 4 to 64 of its hex digits, a tag, a time such as \
                     2026-11-20 or 2026-11-20T10:00 or, of an output, its run"
                ));
            }
        };
        Ok(Which { text, means })
    }
}

impl std::str::FromStr for Reference {
    type Err = String;
    fn from_str(text: &str) -> Result<Reference, String> {
        let (whole, which) = match text.split_once('@') {
            Some((whole, which)) => (whole, Some(which.parse()?)),
            None => (text, None),
        };
        let name = |text: &str| Name::new(text).map_err(|fault| fault.to_string());
        let (project, output) = match whole.split_once('/') {
            Some((project, output)) => (Some(name(project)?), output),
            None => (None, whole),
        };
        Ok(Reference { project, name: name(output)?, which })
    }
}

impl Reference {
    /// With the version that `--at` names, if it does: then none may stand after the `@`.
    pub fn at(self, at: Option<Which>) -> Result<Reference, Failure> {
        match (&self.which, at) {
            (_, None) => Ok(self),
            (None, which) => Ok(Reference { which, ..self }),
            (Some(which), Some(at)) => {
                Err(Failure::usage(format!("{self}@{} names a version, and so does --at {}", which.text, at.text))
                    .hint("leave one of them out"))
            }
        }
    }

    /// The dataset that is meant; what runs have made has neither tags nor numbers.
    pub fn dataset(&self) -> Result<&Name, Failure> {
        match &self.project {
            None => Ok(&self.name),
            Some(_) => Err(Failure::usage(format!("{self} is what runs have made, and no dataset"))
                .hint("`tombolo data ls` lists datasets")),
        }
    }
}

impl std::fmt::Display for Reference {
    /// Without which version.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.project {
            Some(project) => write!(f, "{project}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The last millisecond of a day such as `2026-11-20`, or the instant `2026-11-20t10:00` in the given time zone, or of
/// `2026-11-20t10:00z` wherever that is read.
fn moment(text: &str, zone: &jiff::tz::TimeZone) -> Option<Timestamp> {
    use jiff::civil;
    // Eight digits without dashes are a version's.
    if text.len() < 10 || text.as_bytes()[4] != b'-' || text.as_bytes()[7] != b'-' {
        return None;
    }
    let at = |at: civil::DateTime| Some(Timestamp(at.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond()));
    if text.len() == 10 {
        let next = text.parse::<civil::Date>().ok()?.tomorrow().ok()?;
        return at(next.at(0, 0, 0, 0)).map(|next| Timestamp(next.0 - 1));
    }
    let text = text.to_ascii_uppercase();
    match text.parse::<jiff::Timestamp>() {
        Ok(instant) => Some(Timestamp(instant.as_millisecond())),
        Err(_) => at(text.parse().ok()?),
    }
}

/// What a name stands for, its versions newest first.
#[derive(Debug, Clone, PartialEq)]
pub enum Named {
    Dataset(Vec<VersionInfo>),
    /// One for each run that had it.
    Output(Vec<OutputInfo>),
}

impl Named {
    /// A name without a project is a dataset's or, where there is none, an output's that only one project has.
    pub async fn find(session: &Session, reference: &Reference) -> Result<Named, Failure> {
        let name = &reference.name;
        let project = match &reference.project {
            Some(project) => project.to_string(),
            None => {
                if session.find::<DatasetInfo>(&format!("/v1/datasets/{name}")).await?.is_some() {
                    return Ok(Named::Dataset(session.all(&format!("/v1/datasets/{name}/versions")).await?));
                }
                let found = session.all::<OutputInfo>(&format!("/v1/outputs?output={name}")).await?;
                only_project(name, found.into_iter().map(|output| output.project).collect())?
            }
        };
        Ok(Named::Output(session.all(&format!("/v1/outputs/{project}/{name}")).await?))
    }

    /// When each became known by this name; of an output, when its run had it.
    fn times(&self) -> Vec<i64> {
        match self {
            Named::Dataset(versions) => versions.iter().map(|version| version.at).collect(),
            Named::Output(made) => made.iter().map(|made| made.at).collect(),
        }
    }

    /// What to try instead of a reference that means nothing.
    fn known(&self, reference: &Reference) -> String {
        let tag_asked = matches!(&reference.which, Some(Which { means: Means::Tag(_), .. }));
        let words: Vec<String> = match self {
            Named::Dataset(versions) if tag_asked => {
                let tags: BTreeSet<&String> = versions.iter().flat_map(|info| &info.tags).collect();
                return match tags.into_iter().take(LISTED_MAX).cloned().collect::<Vec<_>>()[..] {
                    [] => format!("it has none; give it one: tombolo data tag {reference} <tag>"),
                    ref tags => format!("it has {}; `tombolo data show {reference}` lists all", tags.join(", ")),
                };
            }
            Named::Dataset(versions) => versions.iter().map(number_or_digits).take(LISTED_MAX).collect(),
            Named::Output(made) => made.iter().map(|made| made.run.clone()).take(LISTED_MAX).collect(),
        };
        let times = self.times();
        let known: Vec<String> =
            words.iter().zip(times).map(|(word, at)| format!("{word} of {}", crate::render::date(at))).collect();
        match &known[..] {
            [] => format!("see `tombolo data show {reference}`"),
            known => format!("the newest are {}; `tombolo data show {reference}` lists all", known.join(", ")),
        }
    }

    /// Those of the versions that a reference may mean; the newest alone where it does not say which.
    fn meant(self, reference: &Reference) -> Vec<(VersionInfo, Option<RunId>)> {
        let times = self.times();
        let all: Vec<(VersionInfo, Option<RunId>)> = match self {
            Named::Dataset(versions) => versions.into_iter().map(|version| (version, None)).collect(),
            Named::Output(made) => made.into_iter().map(|made| (made.version, made.run.parse().ok())).collect(),
        };
        let Some(Which { text, means }) = &reference.which else { return all.into_iter().take(1).collect() };
        let is_meant = |(version, run): &(VersionInfo, Option<RunId>)| match means {
            Means::Number(number) => version.number == Some(*number),
            Means::Tag(tag) => version.tags.iter().any(|known| known == tag.as_str()),
            // A time and a run may be written alike.
            Means::Time(_) => run.as_ref().is_some_and(|run| *text == run.to_string()),
            Means::Digits => {
                let is_run =
                    run.as_ref().is_some_and(|run| *text == run.to_string() || *text == run.number().to_string());
                is_run || (text.len() >= 4 && version.version.to_string().starts_with(text.as_str()))
            }
        };
        let then = match means {
            Means::Time(until) => times.iter().position(|at| *at <= until.0),
            Means::Number(_) | Means::Tag(_) | Means::Digits => None,
        };
        let found = all.into_iter().enumerate().filter(|(place, one)| then == Some(*place) || is_meant(one));
        found.map(|(_, one)| one).collect()
    }

    /// The one version that a reference means.
    pub fn one(self, reference: &Reference) -> Result<VersionInfo, Failure> {
        let known = self.known(reference);
        let mut meant = self.meant(reference);
        let which = reference.which.as_ref().map(|which| which.text.as_str()).unwrap_or_default();
        let Some((first, _)) = meant.first() else {
            let what = match reference.which.as_ref().map(|which| &which.means) {
                Some(Means::Time(_)) => format!("{reference} has no version that is as old as {which}"),
                Some(Means::Tag(_)) => format!("{reference} has no tag {which}"),
                Some(Means::Number(_) | Means::Digits) | None => format!("{reference} has no version {which}"),
            };
            return Err(Failure::usage(what).hint(known));
        };
        // Several runs may have made the same.
        if meant.iter().any(|(other, _)| other.version != first.version) {
            return Err(Failure::usage(format!("{which} may mean several versions of {reference}"))
                .hint("give more digits or, of an output, its run, such as flights-7"));
        }
        Ok(meant.swap_remove(0).0)
    }

    /// The one run that a reference to an output means.
    pub fn one_run(self, reference: &Reference) -> Result<RunId, Failure> {
        let which = reference.which.as_ref().map(|which| which.text.clone()).unwrap_or_default();
        let known = self.known(reference);
        let runs: Vec<RunId> = self.meant(reference).into_iter().filter_map(|(_, run)| run).collect();
        match &runs[..] {
            [run] => Ok(run.clone()),
            [] => Err(Failure::usage(format!("no run has made {reference}@{which}")).hint(known)),
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(Failure::usage(format!("{reference}@{which} is what {} have made", names.join(" and ")))
                    .hint(format!("name the run: {reference}@{}", names[0])))
            }
        }
    }
}

/// What to call a version: `v3`, or its first digits where it is no dataset's.
pub fn number_or_digits(info: &VersionInfo) -> String {
    info.number.map_or_else(|| info.version.short(), |number| format!("v{number}"))
}

fn only_project(name: &Name, mut projects: Vec<String>) -> Result<String, Failure> {
    match projects.len() {
        0 => Err(Failure::usage(format!("there is no dataset {name}, and no run has made it"))
            .hint("`tombolo data ls` lists datasets, `tombolo data ls --outputs` what runs have made")),
        1 => Ok(projects.remove(0)),
        _ => {
            let names: Vec<String> = projects.iter().map(|project| format!("{project}/{name}")).collect();
            Err(Failure::usage(format!("several projects make {name}"))
                .hint(format!("say which: {}", names.join(" or "))))
        }
    }
}

/// The version that a reference means.
pub async fn find(session: &Session, reference: &Reference) -> Result<VersionInfo, Failure> {
    Named::find(session, reference).await?.one(reference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::{Digest, VersionId};

    fn info(byte: u8) -> VersionInfo {
        VersionInfo {
            version: VersionId(Digest([byte; 32])),
            dataset: Some("raw".into()),
            number: None,
            tags: vec![],
            by: None,
            why: None,
            bytes: 1,
            files: 1,
            residency: "anywhere".into(),
            replicas: vec![],
            made_by: None,
            at: 0,
            facts: Default::default(),
        }
    }

    fn made(run: u64, byte: u8) -> OutputInfo {
        let (project, output, stage) = ("flights".into(), "model".into(), "train".into());
        OutputInfo { project, output, stage, run: format!("flights-{run}"), at: 0, cached: false, version: info(byte) }
    }

    #[test]
    fn references() {
        let check = |text: &str, project: Option<&str>, name: &str, which: Option<&str>| {
            let reference: Reference = text.parse().unwrap();
            let parts = (reference.project.as_ref().map(Name::as_str), reference.name.as_str());
            let text_after = reference.which.as_ref().map(|which| which.text.as_str());
            assert_eq!((parts, text_after), ((project, name), which), "{text}");
        };
        check("raw", None, "raw", None);
        check("raw@3F2A", None, "raw", Some("3f2a"));
        check("flights/model", Some("flights"), "model", None);
        check("flights/model@7", Some("flights"), "model", Some("7"));
        check("model@flights-7", None, "model", Some("flights-7"));
        for bad in ["", "Raw", "raw@", "raw@x!", "raw@v3.1", "raw@v03", "raw@3f2a@1", "a/b/c", "/b", "a/"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        for bad in ["raw@2026-11-20t", "raw@2026/11/20", "raw@2026-11-20T25:00"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert_eq!("flights/model@7".parse::<Reference>().unwrap().to_string(), "flights/model");
    }

    #[test]
    fn what_stands_after_the_at_means_one_thing() {
        let means = |text: &str| text.parse::<Which>().unwrap().means;
        assert_eq!(means("v3"), Means::Number(3));
        assert_eq!(means("prod"), Means::Tag(Tag::new("prod").unwrap()));
        assert_eq!(means("PROD"), Means::Tag(Tag::new("prod").unwrap()));
        assert_eq!(means("abc"), Means::Tag(Tag::new("abc").unwrap()));
        for digits in ["beef", "7", "flights-7"] {
            assert_eq!(means(digits), Means::Digits, "{digits}");
        }
        // A day is written as a run might be.
        assert!(matches!(means("2026-11-20"), Means::Time(_)));
        let raw = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(raw("raw").at(Some("v3".parse().unwrap())).unwrap(), raw("raw@v3"));
        assert_eq!(raw("raw@v3").at(None).unwrap(), raw("raw@v3"));
        assert!(raw("raw@v3").at(Some("v3".parse().unwrap())).is_err());
        assert!(raw("flights/model").dataset().is_err() && raw("raw@v3").dataset().is_ok());
    }

    #[test]
    fn a_version_is_chosen_by_its_number_and_by_a_tag() {
        let numbered = |number: u64, byte: u8, tags: &[&str]| {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            VersionInfo { number: Some(number), tags, ..info(byte) }
        };
        // The first and the third are the same.
        let named = || {
            Named::Dataset(vec![
                numbered(3, 0x11, &["gold"]),
                numbered(2, 0x22, &["prod"]),
                numbered(1, 0x11, &["gold"]),
            ])
        };
        let check = |text: &str, number: Option<u64>| {
            let found = named().one(&text.parse().unwrap()).ok().and_then(|info| info.number);
            assert_eq!(found, number, "{text}");
        };
        check("raw", Some(3));
        check("raw@v1", Some(1));
        check("raw@v2", Some(2));
        check("raw@v4", None);
        check("raw@prod", Some(2));
        check("raw@gold", Some(3));
        check("raw@1111", Some(3));
        let fault = named().one(&"raw@gone".parse().unwrap()).unwrap_err();
        assert_eq!(fault.what, "raw has no tag gone");
        assert!(fault.hint.unwrap().starts_with("it has gold, prod;"));
        let fault = named().one(&"raw@v9".parse().unwrap()).unwrap_err();
        assert!(fault.hint.unwrap().starts_with("the newest are v3 of "));
        assert!(Named::Output(vec![made(1, 0x11)]).one(&"model@v1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_version_is_chosen_by_its_first_digits() {
        let named = || Named::Dataset(vec![info(0x22), info(0x11), info(0x23)]);
        let check = |text: &str, byte: Option<u8>| {
            let found = named().one(&text.parse().unwrap()).ok().map(|info| info.version);
            assert_eq!(found, byte.map(|byte| VersionId(Digest([byte; 32]))), "{text}");
        };
        check("raw", Some(0x22));
        check("raw@1111", Some(0x11));
        check("raw@2222", Some(0x22));
        check("raw@3333", None);
        check("raw@1", None);
        assert!(Named::Dataset(vec![]).one(&"raw".parse().unwrap()).is_err());
    }

    #[test]
    fn moments() {
        let check = |text: &str, zone: i8, at: Option<&str>| {
            let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(zone));
            let at = at.map(|at| Timestamp(at.parse::<jiff::Timestamp>().unwrap().as_millisecond()));
            assert_eq!(moment(text, &zone), at, "{text}");
        };
        check("2026-11-20", 0, Some("2026-11-20T23:59:59.999Z"));
        check("2026-11-20", 2, Some("2026-11-20T21:59:59.999Z"));
        check("2026-11-20t10:00", 2, Some("2026-11-20T08:00:00Z"));
        check("2026-11-20t10:00:30", 0, Some("2026-11-20T10:00:30Z"));
        check("2026-11-20t10:00z", 2, Some("2026-11-20T10:00:00Z"));
        for bad in ["20261120", "2026-11-31", "2026-11-20t25:00", "2026-11-20x", "flights-7", "éé2026-11-20"] {
            check(bad, 0, None);
        }
    }

    #[test]
    fn a_version_is_chosen_by_a_time() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let (first, second) = (at("2026-11-20T10:00:00Z"), at("2026-11-22T10:00:00Z"));
        let versions = || vec![VersionInfo { at: second, ..info(0x22) }, VersionInfo { at: first, ..info(0x11) }];
        // Of an output, the time that its run had it counts, not when the same bytes were first known.
        let outputs = || vec![OutputInfo { at: second, ..made(2, 0x22) }, OutputInfo { at: first, ..made(1, 0x11) }];
        let check = |which: &str, byte: Option<u8>| {
            for named in [Named::Dataset(versions()), Named::Output(outputs())] {
                let found = named.one(&format!("raw@{which}").parse().unwrap()).ok().map(|info| info.version);
                assert_eq!(found, byte.map(|byte| VersionId(Digest([byte; 32]))), "{which}");
            }
        };
        check("2026-11-20T09:59:59Z", None);
        check("2026-11-20T10:00Z", Some(0x11));
        check("2026-11-22T09:59Z", Some(0x11));
        check("2026-11-22T10:00Z", Some(0x22));
        check("2027-01-01", Some(0x22));
        let fault = Named::Dataset(versions()).one(&"raw@3333".parse().unwrap()).unwrap_err();
        let fault = format!("{fault:?}");
        assert!(fault.contains("222222222222 of 2026-11-2") && fault.contains("111111111111 of"), "{fault}");
    }

    #[test]
    fn an_output_is_chosen_by_its_run_too() {
        let named = || Named::Output(vec![made(1111, 0x22), made(3, 0x11), made(2, 0x11), made(1, 0x22)]);
        let check = |text: &str, byte: Option<u8>, run: Option<&str>| {
            let reference: Reference = text.parse().unwrap();
            let found = named().one(&reference).ok().map(|info| info.version);
            assert_eq!(found, byte.map(|byte| VersionId(Digest([byte; 32]))), "{text}");
            let found = named().one_run(&reference).ok().map(|run| run.to_string());
            assert_eq!(found.as_deref(), run, "{text}");
        };
        check("model", Some(0x22), Some("flights-1111"));
        check("flights/model@3", Some(0x11), Some("flights-3"));
        check("flights/model@flights-2", Some(0x11), Some("flights-2"));
        // The same bytes of two runs are one version, and two names.
        check("flights/model@2222", Some(0x22), None);
        // A run's number and another version's first digits.
        check("flights/model@1111", None, None);
        check("flights/model@4", None, None);
        check("flights/model@taxis-3", None, None);
    }

    #[test]
    fn a_name_without_a_project_is_one_projects() {
        let name = Name::new("model").unwrap();
        let check = |projects: &[&str]| only_project(&name, projects.iter().map(|p| (*p).to_owned()).collect());
        assert_eq!(check(&["flights"]).unwrap(), "flights");
        assert!(check(&[]).is_err());
        assert!(check(&["flights", "taxis"]).unwrap_err().to_string().contains("flights/model or taxis/model"));
    }
}
