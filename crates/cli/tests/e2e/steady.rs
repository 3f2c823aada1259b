//! What a command prints without what differs from one time to the next: all such differences are told here.

use std::path::Path;

use regex::Regex;

/// What is replaced, in this order, and by what.
const DIFFERS: [(&str, &str); 19] = [
    // Addresses, before the numbers in them are taken for something else.
    (r"127\.0\.0\.1:\d+", "[ADDRESS]"),
    (r"\b\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\b", "[DATE]"),
    (r"(?m)^2> \d{2}:\d{2}:\d{2}\b", "2> [CLOCK]"),
    // Of JSON, by their keys: times, spans, and what is measured or follows from that.
    (
        r#"("(at|placed|ended|since|heard|created|expires|updated|removed|start|wait|transfer|time|run|[a-z_]+_ms|cost|score|[a-z_]+_price|dearer|bytes_per_s)": ?)-?\d[\d.]*(e-?\d+)?"#,
        "$1[NUMBER]",
    ),
    // Known only where the kernel tells.
    (r#"("(memory_peak_bytes|cpu_ms)": )(null|\d+|\[NUMBER\])"#, "$1[MEASURED]"),
    // Versions whole or by their first digits; keys of sites.
    (r"\b[0-9a-f]{12,64}\b", "[DIGEST]"),
    (r"\b(tbl|join)_[0-9a-z]{20,}\b", "[TOKEN]"),
    // How many entries there were before.
    (r#""number": \d{2,}"#, "\"number\": [NUMBER]"),
    (r"\b[\d.]+ [KMG]?i?B/s", "[RATE]"),
    // What compresses how well is the compressor's.
    (r", [\d.]+ [KM]?i?B of it new", ", [BYTES] of it new"),
    (r"(  |started |checked )(now|\d+ (s|min|h) ago)", "$1[AGO]"),
    (r"\b\d+ (s|min|h) ago\b", "[AGO]"),
    (r"\b[\d.]+ (ms|s|min|h|d)\b( \d+ (ms|s|min|h)\b)*", "[SPAN]"),
    (r"\$\d[\d.]*", "[PRICE]"),
    // Numbers of events count those that are left out here: states that are passed so fast that who looks may miss them.
    (r"(?m)^ *\d+  \[DATE\]", "[NUMBER]  [DATE]"),
    (r"(?m)^(2> \[CLOCK\]|\[NUMBER\]  \[DATE\]) .*\b(queued|preparing|running)\b.*\n", ""),
    // Services go on, so that following a run ends before their last line is there, or after.
    (r"(?m)^predict +\| .*\n", ""),
    // Columns are as wide as what is in them.
    (r"(\S) {2,}", "$1  "),
    (r"(?m) +$", ""),
];

/// `home` is the directory in which everything is.
pub fn steady(home: &Path, text: &str) -> String {
    let home = home.display().to_string();
    let mut text = text.replace(home.trim_end_matches('/'), "[HOME]");
    for (differs, word) in DIFFERS {
        text = Regex::new(differs).unwrap().replace_all(&text, word).into_owned();
    }
    text
}
