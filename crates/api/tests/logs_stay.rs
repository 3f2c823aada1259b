//! Whose logs stay at their site: a rule of datasets that goes the way of what derives from them.

use tombolo_core::Name;
use tombolo_core::spec::ProjectSpec;

#[test]
fn logs_stay_where_what_they_derive_from_says_so() {
    let job = |output: &str, input: &str| {
        format!(
            r#"{{"kind": {{"job": {{"outputs": ["{output}"], "release": ["sum"]}}}}, "command": {{"run": "x"}},
                "grace": 1, "inputs": {{"x": "{input}"}}}}"#
        )
    };
    let text = format!(
        r#"{{"name": "p", "data": {{"raw": {{"path": null, "residency": [], "logs": "stay"}},
            "open": {{"path": null, "residency": []}}}},
            "workloads": {{"a": {}, "b": {}, "c": {}, "d": {}, "e": {}}}}}"#,
        job("made", "raw"),
        job("sum", "made"),
        job("plain", "open"),
        job("told", "sum"),
        job("loop", "loop"),
    );
    let project: ProjectSpec = serde_json::from_str(&text).unwrap();
    let check = |name: &str, dataset: Option<&str>| {
        let found = project.logs_stay(&project.workloads[&Name::new(name).unwrap()]);
        assert_eq!(found.map(Name::as_str), dataset, "{name}");
    };
    check("a", Some("raw"));
    // It reads what derives from it, whatever it releases itself.
    check("b", Some("raw"));
    check("c", None);
    check("d", None);
    check("e", None);
}
