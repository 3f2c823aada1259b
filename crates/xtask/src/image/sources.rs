//! Where this machine gets Debian from, as its apt is told: the base is made from the same mirror, by the same way.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::process;

const LIST: &str = "/etc/apt/sources.list";
const PARTS: &str = "/etc/apt/sources.list.d";

/// A line of apt's older format, which mmdebstrap takes. Sources of others than Debian are no part of an image.
pub fn of_this_machine(release: &str) -> Result<Vec<String>> {
    let mut files = vec![Path::new(LIST).to_owned()];
    if let Ok(parts) = std::fs::read_dir(PARTS) {
        files.extend(parts.filter_map(|part| part.ok().map(|part| part.path())));
    }
    files.sort();
    let mut lines = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let read = || std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()));
        match file.extension().and_then(|end| end.to_str()) {
            Some("list") => lines.extend(one_line(&read()?, release)),
            Some("sources") => lines.extend(deb822(&read()?, release)),
            // apt leaves out the others as well.
            _ => {}
        }
    }
    ensure!(
        lines.iter().any(|line| line.split(' ').any(|word| word == release)),
        "neither {LIST} nor {PARTS} has Debian's {release}, from which the image's base is made\n\
         hint: add it there, with the component main"
    );
    Ok(lines)
}

/// What apt is told of proxies, certificates and clocks: how it reaches its mirrors.
pub fn settings() -> Result<Vec<String>> {
    Ok(reaching(&process::output(process::command("apt-config").arg("dump"))?))
}

fn reaching(dump: &str) -> Vec<String> {
    let counts = |line: &&str| {
        let key = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let how = ["acquire::http::", "acquire::https::", "acquire::check-", "acquire::retries"];
        how.iter().any(|start| key.starts_with(start)) && !line.ends_with(" \"\";")
    };
    dump.lines().map(str::trim).filter(counts).map(str::to_owned).collect()
}

/// `deb [options] uri suite component...`, sources.list(5).
fn one_line(text: &str, release: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(rest) = line.trim().strip_prefix("deb ").map(str::trim_start) else { continue };
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options.split_whitespace().collect(), rest),
            None => (Vec::new(), rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next())
            && is_debians(suite, words, release)
        {
            lines.push(shown(&options, uri, suite));
        }
    }
    lines
}

/// Stanzas of fields, of which each may have several words, on several lines; the same manual's newer format.
fn deb822(text: &str, release: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in text.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Vec<&str> {
            let starts = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
            let Some(at) = stanza.iter().position(starts) else { return Vec::new() };
            let first = stanza[at].split_once(':').map_or("", |(_, value)| value);
            let more = stanza[at + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
            std::iter::once(first).chain(more.copied()).flat_map(str::split_whitespace).collect()
        };
        if !field("Types").contains(&"deb") || field("Enabled").first().is_some_and(|word| *word == "no") {
            continue;
        }
        // A key may also stand there itself; apt then knows it from its own key rings or not at all.
        let key =
            field("Signed-By").first().filter(|word| word.starts_with('/')).map(|path| format!("signed-by={path}"));
        let trusted = field("Trusted").first().map(|word| format!("trusted={word}"));
        let options: Vec<&str> = key.iter().chain(&trusted).map(String::as_str).collect();
        for uri in field("URIs") {
            for suite in field("Suites") {
                if is_debians(suite, field("Components").into_iter(), release) {
                    lines.push(shown(&options, uri, suite));
                }
            }
        }
    }
    lines
}

/// The release, its security updates and what is updated between its points. Others name their suites after a release
/// too, but call their component otherwise.
fn is_debians<'a>(suite: &str, mut components: impl Iterator<Item = &'a str>, release: &str) -> bool {
    let ours = suite.strip_prefix(release).is_some_and(|rest| ["", "-updates", "-security"].contains(&rest));
    ours && components.any(|component| component == "main")
}

fn shown(options: &[&str], uri: &str, suite: &str) -> String {
    let mut line = "deb ".to_owned();
    if !options.is_empty() {
        let _ = write!(line, "[{}] ", options.join(" "));
    }
    line + &format!("{uri} {suite} main")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_own_sources_are_taken_from_both_formats() {
        let list = "# deb http://old.example bookworm main\n\
                    deb http://mirror.example/debian bookworm main contrib # all of it\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main\n\
                    deb-src http://mirror.example/debian bookworm main\n\
                    deb http://mirror.example/debian bookworm-backports main\n\
                    deb http://engine.example/debian bookworm stable\n\
                    deb http://mirror.example/debian trixie main\n";
        assert_eq!(
            one_line(list, "bookworm"),
            [
                "deb http://mirror.example/debian bookworm main",
                "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main",
            ]
        );
        let stanzas = "Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\n\
                       # a remark\nComponents: main\nSigned-By: /k.gpg\n\n\
                       Types: deb\nURIs: http://safe.example\nSuites: bookworm-security\nComponents: main\nTrusted: yes\n\n\
                       Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
                       Types: deb-src\nURIs: http://src.example\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            deb822(stanzas, "bookworm"),
            [
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main",
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main",
                "deb [trusted=yes] http://safe.example bookworm-security main",
            ]
        );
    }

    #[test]
    fn the_way_to_the_mirror_is_taken_along_and_no_other_setting() {
        let dump = "APT::Architecture \"amd64\";\nAcquire \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\n\
                    Acquire::http::Proxy::local.example \"DIRECT\";\nAcquire::https::CaInfo \"\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n";
        assert_eq!(
            reaching(dump),
            [
                "Acquire::http::Proxy \"http://proxy.example:3128\";",
                "Acquire::http::Proxy::local.example \"DIRECT\";",
                "Acquire::Check-Valid-Until \"false\";",
            ]
        );
    }
}
