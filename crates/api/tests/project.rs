//! The project file: what is read from a good one, and what is said of a bad one.

use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;
use serde_json::Value;
use tombolo_api::project::{self, Directory, Loader};
use tombolo_core::spec::ProjectSpec;
use tombolo_core::{Residency, Selector, SiteId};

/// A project's other files, in memory.
struct Files(BTreeMap<&'static str, &'static str>);

impl Loader for Files {
    fn read(&self, path: &str) -> io::Result<String> {
        if path == "locked.txt" {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok((*text).to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }
}

fn files() -> Files {
    Files(BTreeMap::from([
        ("data/flights.parquet", ""),
        ("data/airports.csv", ""),
        ("features.sql", "SELECT origin FROM raw\n"),
        ("empty.sql", " \n"),
        ("requirements.txt", "# the model\nscikit-learn==1.5.2  # pinned\n\nnumpy \\\n  >= 2\nscikit-learn==1.5.2\n"),
        ("options.txt", "numpy\n-r other.txt\n--index-url x\n"),
    ]))
}

fn parse(text: &str) -> Result<ProjectSpec, project::Faults> {
    project::parse(text, "tombolo.yaml", &files())
}

/// The cases of a file, each after a line `=== its name`, with what is said of each.
fn check_faults(cases: &str) -> String {
    let mut shown = String::new();
    for case in cases.split("=== ").skip(1) {
        let (name, text) = case.split_once('\n').unwrap();
        let said = match parse(text) {
            Ok(_) => "no fault\n".to_owned(),
            Err(faults) => faults.to_string(),
        };
        shown.push_str(&format!("=== {name}\n{said}\n"));
    }
    shown
}

/// Snapshots stand beside the cases that they are of.
fn beside_the_cases() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("projects");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

macro_rules! faults {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            beside_the_cases().bind(|| {
                let cases = include_str!(concat!("projects/", stringify!($name), ".txt"));
                insta::assert_snapshot!(stringify!($name), check_faults(cases));
            });
        }
    )*};
}

faults! { syntax keys values references residency files_named imports retain }

#[test]
fn every_key_is_read() {
    let spec = parse(include_str!("projects/whole.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    beside_the_cases().bind(|| {
        insta::assert_json_snapshot!("whole", spec);
    });
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let text = format!("project: a\n# {}\nstages: {{a: {{run: x}}}}\n", "x".repeat(project::TEXT_BYTES_MAX));
    let faults = parse(&text).unwrap_err();
    assert_eq!(faults.faults.len(), 1);
    assert!(faults.to_string().starts_with("error: the file has 1048"), "{faults}");
}

#[test]
fn too_many_stages_are_refused() {
    let mut text = "project: a\nstages:\n".to_owned();
    for i in 0..tombolo_core::spec::STAGES_MAX {
        text.push_str(&format!("  s{i}: {{run: x}}\n"));
    }
    assert_eq!(parse(&text).unwrap().workloads.len(), 2000);
    text.push_str("services: {last: {run: x}}\n");
    let faults = parse(&text).unwrap_err();
    assert!(faults.faults[0].message.contains("more than 2000 stages and services"), "{faults}");
}

#[test]
fn at_most_fifty_faults_are_shown() {
    let mut text = "project: a\nstages:\n".to_owned();
    for i in 0..60 {
        text.push_str(&format!("  s{i}: {{run: x, nope: 1}}\n"));
    }
    let faults = parse(&text).unwrap_err();
    assert_eq!((faults.faults.len(), faults.more), (50, 10));
    assert!(faults.to_string().ends_with("\n10 more faults are not shown\n"));
    let lines: Vec<usize> = faults.faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, (3..53).collect::<Vec<_>>());
}

/// An aliased value with a fault is one fault; a byte-order mark and Windows line ends are no fault at all.
#[test]
fn faults_of_an_alias_are_told_once() {
    let text = "\u{feff}project: a\r\nstages:\r\n  a: &a {run: x, nope: 1}\r\n  b: *a\r\n";
    let faults = parse(text).unwrap_err();
    assert_eq!(faults.faults.len(), 1, "{faults}");
    assert_eq!((faults.faults[0].line, faults.faults[0].column), (3, 18));
    assert!(parse(&text.replace(", nope: 1", ", priority: 1")).is_ok());
}

/// A thousand stages in one chain, which is also the deepest graph, and with every stage on a layer before it.
#[test]
fn a_thousand_stages_are_read() {
    let mut text = "project: wide\ndata: {d0: {keep_at: onprem}}\nstages:\n".to_owned();
    for i in 1..=1000usize {
        let inputs: Vec<String> = (i.saturating_sub(8)..i).map(|j| format!("d{j}")).collect();
        text.push_str(&format!(
            "  s{i}:\n    run: python step.py --number {i}\n    in: [{}]\n    out: [d{i}]\n    timeout: 30m\n    \
             resources: {{cpus: 2, memory: 2GiB}}\n    env: {{A: b}}\n",
            inputs.join(", ")
        ));
    }
    let spec = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(spec.workloads.len(), 1000);
    // The rule of the first dataset still holds for the last stage.
    let faults = parse(&format!("{text}    site: cloud\n")).unwrap_err();
    assert!(faults.faults[0].message.contains("as it derives from `d0`"), "{faults}");
}

/// The keys that a schema lets through, as paths.
fn schema_keys(schema: &Value, path: &str, keys: &mut BTreeMap<String, ()>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        keys.insert(path.clone(), ());
        schema_keys(inner, &path, keys);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        schema_keys(inner, path, keys);
    }
    if schema["additionalProperties"].is_object() {
        schema_keys(&schema["additionalProperties"], &format!("{path}/*"), keys);
    }
}

/// Each key of the schema is taken by the parser, in a file that has just this key, and none else.
#[test]
fn schema_and_parser_know_the_same_keys() {
    let schema = project::json_schema();
    let mut keys = BTreeMap::new();
    schema_keys(&schema, "", &mut keys);
    assert!(keys.len() > 50 && keys.contains_key("/stages/*/gate/at_most"), "{keys:?}");
    let unknown = |path: &str| {
        // A flow mapping for each part: `{stages: {a: {gate: {at_most: 1}}}}`.
        let parts = path.trim_start_matches('/').split('/').map(|part| part.replace('*', "a"));
        let text = parts.rev().fold("1".to_owned(), |inner, part| format!("{{{part}: {inner}}}"));
        let faults = parse(&text).err().map(|faults| faults.to_string()).unwrap_or_default();
        faults.contains("unknown key") || faults.contains("belongs to")
    };
    for path in keys.keys() {
        assert!(!unknown(path), "the parser does not know {path}");
        let wrong = format!("{path}x");
        assert!(keys.contains_key(&wrong) || unknown(&wrong), "the parser takes {wrong}");
    }
    // Keys that one kind of workload has must not be in the other's schema.
    for path in ["/services/*/out", "/services/*/gate", "/stages/*/port", "/stages/*/replicas"] {
        assert!(unknown(path) && !keys.contains_key(path), "{path}");
    }
}

/// The guide's example is a good project, and no key lacks its row.
#[test]
fn the_guide_tells_the_truth() {
    let guide = include_str!("../../../docs/guide/project-file.md");
    let example = guide.split("```yaml\n").find(|block| block.starts_with("project: ")).unwrap();
    let spec = parse(example.split("```").next().unwrap()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(spec.workloads.len(), 4);
    let mut keys = BTreeMap::new();
    schema_keys(&project::json_schema(), "", &mut keys);
    for path in keys.keys() {
        let key = path.rsplit('/').next().unwrap();
        let told = [format!("`{key}`"), format!("{key},"), format!("{key}}}"), format!("{key}:")];
        assert!(told.iter().any(|told| guide.contains(told)), "the guide does not tell of {path}");
    }
}

#[test]
fn the_schema_is_as_committed() {
    beside_the_cases().bind(|| {
        insta::assert_json_snapshot!("schema", project::json_schema());
    });
}

#[test]
fn a_directory_keeps_to_itself() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.sql"), "SELECT 1").unwrap();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a.sql"), "SELECT 2").unwrap();
    std::fs::write(home.path().join("large.sql"), vec![b' '; project::LOADED_BYTES_MAX as usize + 1]).unwrap();
    std::fs::write(home.path().join("binary.sql"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.sql"), home.path().join("link.sql")).unwrap();
    let directory = Directory(home.path().to_owned());
    assert_eq!(directory.read("a.sql").unwrap(), "SELECT 2");
    assert!(directory.exists("a.sql") && !directory.exists("b.sql"));
    let refused = |path: &str| directory.read(path).unwrap_err().to_string();
    assert!(refused("link.sql").contains("outside of the project"));
    assert!(refused("large.sql").contains("larger than"));
    assert!(refused("binary.sql").contains("not UTF-8"));
    assert!(refused(".").contains("not a file"));
    assert_eq!(directory.read("b.sql").unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// Texts that are nearly project files: pieces of a good one, shuffled, with noise between them.
fn nearly() -> impl Strategy<Value = String> {
    let whole = include_str!("projects/whole.yaml");
    let pieces: Vec<&str> = whole.split_inclusive([' ', '\n', ',', '{', '[', ':']).collect();
    let noise =
        prop_oneof![Just("\t"), Just("*train"), Just("&x "), Just("<<: "), Just("\u{feff}"), Just("\""), Just("- ")];
    let piece = prop_oneof![9 => proptest::sample::select(pieces), 1 => noise];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![nearly(), "\\PC{0,80}", "(?s).{0,80}"]) {
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.faults.is_empty() && faults.faults.iter().all(|f| f.line > 0 && f.column > 0));
            prop_assert!(faults.to_string().starts_with("error: "));
        }
    }

    /// One character less anywhere in a good file makes no panic, and no fault without a place in the text.
    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0usize..1500, put in "[\\PC\n\t]{0,2}") {
        let mut text: Vec<char> = include_str!("projects/whole.yaml").chars().collect();
        let at = at.min(text.len() - 1);
        text.splice(at..=at, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(faults) = parse(&text) {
            prop_assert!(faults.faults.iter().all(|fault| fault.line <= text.lines().count() + 1), "{}", faults);
        }
    }
}

/// A megabyte of faults on one line is told in bounded time and space.
#[test]
fn very_many_faults_are_bounded() {
    let names: Vec<String> = (0..100_000).map(|i| format!("n{i}")).collect();
    let mut text = "project: a\nstages: {".to_owned();
    for (i, inputs) in names.chunks(500).enumerate() {
        text.push_str(&format!("s{i}: {{run: x, in: [{}]}}, ", inputs.join(",")));
    }
    text.push_str("}\n");
    let faults = parse(&text).unwrap_err();
    assert_eq!((faults.faults.len(), faults.more), (50, 99_950));
    assert!(faults.to_string().len() < 50 * 1000);
}

/// A stage of a random project: what it reads of the four before it, where it may run, and whether it releases.
type Stage = (Vec<usize>, Vec<&'static str>, bool);

fn any_sites() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(vec!["a", "b", "c"], 0..3)
}

fn any_project() -> impl Strategy<Value = (Vec<Vec<&'static str>>, Vec<Stage>)> {
    let stage = (proptest::collection::vec(1usize..5, 0..3), any_sites(), proptest::bool::weighted(0.2));
    (proptest::collection::vec(any_sites(), 3), proptest::collection::vec(stage, 1..6))
}

fn selector(sites: &[&str]) -> Selector {
    Selector(sites.iter().flat_map(|site| Selector::site(SiteId::new(*site).unwrap()).0).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// A project is refused exactly when a workload has no site left, as tried site by site with core's own rules.
    #[test]
    fn residency_agrees_with_trying_every_site((data, stages) in any_project()) {
        let mut text = "project: p\ndata:\n".to_owned();
        let mut residencies = Vec::new();
        for (i, sites) in data.iter().enumerate() {
            let keep_at = if sites.is_empty() { String::new() } else { format!("keep_at: [{}]", sites.join(", ")) };
            text.push_str(&format!("  d{i}: {{{keep_at}}}\n"));
            let rule = (!sites.is_empty()).then(|| Residency::keep_at(selector(sites)));
            residencies.push(rule.unwrap_or_default());
        }
        text.push_str("stages:\n");
        let mut possible = true;
        for (i, (reads, sites, release)) in stages.iter().enumerate() {
            let at = data.len() + i;
            let reads: std::collections::BTreeSet<usize> = reads.iter().map(|back| at.saturating_sub(*back)).collect();
            let inputs: Vec<String> = reads.iter().map(|source| format!("d{source}")).collect();
            let (site, released) = (sites.join(", "), if *release { format!("d{at}") } else { String::new() });
            let site = if sites.is_empty() { String::new() } else { format!(", site: [{site}]") };
            let inputs = inputs.join(", ");
            text.push_str(&format!("  s{at}: {{run: x, in: [{inputs}], out: [d{at}], release: [{released}]{site}}}\n"));
            let inherited = reads.iter().fold(Residency::anywhere(), |all, source| all.and(&residencies[*source]));
            possible &= ["a", "b", "c", "elsewhere"].into_iter().map(|site| SiteId::new(site).unwrap()).any(|id| {
                let wanted = sites.is_empty() || selector(sites).picks(&id, &BTreeMap::new());
                wanted && inherited.allows(&id, &BTreeMap::new())
            });
            residencies.push(if *release { Residency::anywhere() } else { inherited });
        }
        match parse(&text) {
            Ok(_) => prop_assert!(possible, "accepted:\n{}", text),
            Err(faults) => prop_assert!(!possible, "refused:\n{}\n{}", text, faults),
        }
    }
}

#[test]
fn logs_of_imported_data_can_be_kept_too() {
    let text = "project: p\ndata:\n  clicks: {from: 'kafka://b/clicks', logs: stay}\n  open: {from: 'kafka://b/open'}\n\
                stages:\n  a: {run: x, in: [clicks], out: [o]}\n  b: {run: x, in: [o]}\n  c: {run: x, in: [open]}\n";
    let spec = parse(text).unwrap();
    let stays = |name: &str| spec.logs_stay(&spec.workloads[&name.parse().unwrap()]).map(ToString::to_string);
    assert_eq!(["clicks", "a", "b"].map(stays), ["clicks", "clicks", "clicks"].map(|name| Some(name.to_owned())));
    assert_eq!(["open", "c"].map(stays), [None, None]);
}

/// What only shows when there is a plan is told with its place as well.
#[test]
fn what_is_found_out_later_has_its_place() {
    let text = "project: p\ndata:\n  got: { from: 'https://a/b' }\nstages:\n  near: { run: a }\n  far:\n    run: b\n\
                services: { web: { run: c, replicas: 2 } }\n";
    let found =
        ["web-2", "far", "got", "nobody"].map(|name| (name, format!("no site can run {name}"), "move it".to_owned()));
    let faults = tombolo_api::project::faults_of(text, "tombolo.yaml", found);
    let places: Vec<_> = faults.faults.iter().map(|fault| (fault.line, fault.column, fault.message.as_str())).collect();
    let expected = [
        (1, 1, "no site can run nobody"),
        (3, 3, "no site can run got"),
        (6, 3, "no site can run far"),
        (8, 13, "no site can run web-2"),
    ];
    assert_eq!(places, expected);
    let shown = "error: no site can run far\n --> tombolo.yaml:6:3\n  |\n6 |   far:\n  |   ^^^\nhint: move it\n";
    assert!(faults.to_string().contains(shown), "{faults}");
}
