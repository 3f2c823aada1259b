//! What `raw`, `raw@3f2a`, `raw@2026-11-20`, `flights/model` and `flights/model@7` mean: versions of a dataset, or what runs
//! have made.

use tombolo_api::wire::{DatasetInfo, OutputInfo, VersionInfo};
use tombolo_core::{Name, RunId, Timestamp};

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
    /// The first digits of a version or, of an output, a run or its number, or a time; the newest unless given.
    pub which: Option<String>,
    /// Where `which` is a time: the newest that was there then is meant.
    pub until: Option<Timestamp>,
}

impl std::str::FromStr for Reference {
    type Err = String;
    fn from_str(text: &str) -> Result<Reference, String> {
        let (whole, which) = match text.split_once('@') {
            Some((whole, which)) => (whole, Some(which.to_ascii_lowercase())),
            None => (text, None),
        };
        let is_hex = |text: &str| (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_run = |text: &str| text.parse::<u64>().is_ok() || text.parse::<RunId>().is_ok();
        let until = which.as_deref().and_then(|which| moment(which, &jiff::tz::TimeZone::system()));
        let is_any = |which: &str| is_hex(which) || is_run(which) || until.is_some();
        if let Some(which) = which.as_deref().filter(|which| !is_any(which)) {
            return Err(format!(
                "{which:?} is no version: give 4 to 64 of its hex digits, a time such as 2026-11-20 or 2026-11-20T10:00 \
                 or, of an output, its run"
            ));
        }
        let name = |text: &str| Name::new(text).map_err(|fault| fault.to_string());
        let (project, output) = match whole.split_once('/') {
            Some((project, output)) => (Some(name(project)?), output),
            None => (None, whole),
        };
        Ok(Reference { project, name: name(output)?, which, until })
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
        let words: Vec<String> = match self {
            Named::Dataset(versions) => versions.iter().map(|info| info.version.short()).take(LISTED_MAX).collect(),
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
        let until = |until: Timestamp| self.times().iter().position(|at| *at <= until.0);
        let then = reference.until.and_then(until);
        let all: Vec<(VersionInfo, Option<RunId>)> = match self {
            Named::Dataset(versions) => versions.into_iter().map(|version| (version, None)).collect(),
            Named::Output(made) => made.into_iter().map(|made| (made.version, made.run.parse().ok())).collect(),
        };
        let Some(which) = &reference.which else { return all.into_iter().take(1).collect() };
        let is_meant = |(version, run): &(VersionInfo, Option<RunId>)| {
            let is_run =
                run.as_ref().is_some_and(|run| *which == run.to_string() || *which == run.number().to_string());
            is_run || (which.len() >= 4 && version.version.to_string().starts_with(which.as_str()))
        };
        let found = all.into_iter().enumerate().filter(|(place, one)| then == Some(*place) || is_meant(one));
        found.map(|(_, one)| one).collect()
    }

    /// The one version that a reference means.
    pub fn one(self, reference: &Reference) -> Result<VersionInfo, Failure> {
        let known = self.known(reference);
        let mut meant = self.meant(reference);
        let which = reference.which.as_deref().unwrap_or_default();
        let Some((first, _)) = meant.first() else {
            let what = match reference.until {
                Some(_) => format!("{reference} has no version that is as old as {which}"),
                None => format!("{reference} has no version {which}"),
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
        let which = reference.which.clone().unwrap_or_default();
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
            assert_eq!((parts, reference.which.as_deref()), ((project, name), which), "{text}");
        };
        check("raw", None, "raw", None);
        check("raw@3F2A", None, "raw", Some("3f2a"));
        check("flights/model", Some("flights"), "model", None);
        check("flights/model@7", Some("flights"), "model", Some("7"));
        check("model@flights-7", None, "model", Some("flights-7"));
        for bad in ["", "Raw", "raw@", "raw@3f", "raw@xyzw", "raw@3f2a@1", "a/b/c", "/b", "a/"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        for bad in ["raw@2026-11-20t", "raw@2026/11/20", "raw@2026-11-20T25:00"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert_eq!("flights/model@7".parse::<Reference>().unwrap().to_string(), "flights/model");
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
