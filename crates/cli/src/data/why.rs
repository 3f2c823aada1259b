//! `tombolo data why`: which rules let a version be at a site or keep it away, and where each came from.

use clap::Args;
use tombolo_api::project::nearest;
use tombolo_api::wire::{DatasetInfo, Why as Answer, WhyRule, WhyStep};
use tombolo_core::SiteId;

use super::{Reference, find, version_path};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data why raw cloud               each rule, and what gave it
  tombolo data why flights/model@7 cloud   with the stages and inputs that it came by, and what was released
  tombolo data why raw cloud --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Why {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// The site that it shall or shall not be at
    site: SiteId,
}

pub async fn run(session: &Session, args: Why) -> Result<(), Failure> {
    let info = match find(session, &args.name).await {
        Ok(info) => info,
        Err(failure) => return Err(with_nearest(session, &args.name, failure).await),
    };
    let path = format!("{}/why/{}", version_path(info.version), args.site);
    let answer: Answer = session.client.get(&path).await?;
    match session.output {
        Output::Json => render::json(&answer),
        Output::Text => render::text(&text(&args.name.to_string(), &answer)),
    }
    Ok(())
}

/// Says which dataset may have been meant, if one is near.
async fn with_nearest(session: &Session, name: &Reference, failure: Failure) -> Failure {
    let Ok(datasets) = session.all::<DatasetInfo>("/v1/datasets").await else { return failure };
    let known: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    match nearest(name.name.as_str(), known.iter().copied()).filter(|near| *near != name.name.as_str()) {
        Some(near) => failure.hint(format!("did you mean {near}?")),
        None => failure,
    }
}

fn text(name: &str, answer: &Answer) -> String {
    let (site, version) = (&answer.site, answer.version.short());
    let verdict = if answer.allowed { "may" } else { "may not" };
    let mut text = format!("{name}@{version} {verdict} be at {site}\n");
    if answer.revoked {
        text += &format!("  {site} is revoked: nothing goes there\n");
    }
    if answer.draining {
        text += &format!("  {site} is draining: it is given no work\n");
    }
    if answer.rules.is_empty() {
        text += "  no rule keeps it anywhere\n";
    }
    for rule in &answer.rules {
        text += &of_rule(site, rule);
    }
    for lifted in &answer.lifted {
        let (workload, output) = (&lifted.workload, &lifted.output);
        text += &format!("  {workload} released {output} from \"{}\", in a run of {}\n", lifted.rules, lifted.by);
    }
    text += &match &answer.replicas[..] {
        [] => "  no site has it\n".to_owned(),
        sites => format!("  it is at {}\n", sites.join(", ")),
    };
    if answer.partial {
        text += "  some of what it derives from is forgotten or too far back to be looked at\n";
    }
    text
}

fn of_rule(site: &str, rule: &WhyRule) -> String {
    let verb = if rule.allows { "allows" } else { "forbids" };
    let mut text = format!("  \"keep at {}\" {verb} {site}\n", rule.keep_at);
    for (at, step) in rule.chain.iter().enumerate() {
        let last = at + 1 == rule.chain.len();
        text += &format!("    {}{}\n", if at > 0 { "of " } else { "" }, of_step(step));
        if last && rule.whole {
            text += "      which was given the rule\n";
        }
    }
    text
}

fn of_step(step: &WhyStep) -> String {
    let version = step.version.get(..12).unwrap_or(&step.version);
    let name = step.name.as_deref().map_or_else(|| version.to_owned(), |name| format!("{name}@{version}"));
    match &step.made_by {
        Some(made_by) => format!("{name}, made by {made_by}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use tombolo_api::wire::WhyLifted;
    use tombolo_core::{Digest, VersionId};

    use super::*;

    #[test]
    fn an_answer_reads_from_the_version_to_what_was_given_the_rule() {
        let step = |name: &str, digit: &str, made_by: Option<&str>| WhyStep {
            version: digit.repeat(64),
            name: Some(name.to_owned()),
            made_by: made_by.map(str::to_owned),
        };
        let chain = vec![step("table", "1", Some("p-1/features")), step("raw", "2", None)];
        let rule = WhyRule { keep_at: "onprem".into(), allows: false, chain, whole: true };
        let (workload, output, by) = ("p-1/sum".into(), "total".into(), "ada".into());
        let answer = Answer {
            version: VersionId(Digest([0x11; 32])),
            site: "cloud".into(),
            allowed: false,
            revoked: false,
            draining: true,
            replicas: vec!["onprem".into()],
            rules: vec![rule],
            lifted: vec![WhyLifted { workload, output, by, rules: "vault".into() }],
            partial: false,
        };
        let expected = "\
p/table@111111111111 may not be at cloud
  cloud is draining: it is given no work
  \"keep at onprem\" forbids cloud
    table@111111111111, made by p-1/features
    of raw@222222222222
      which was given the rule
  p-1/sum released total from \"vault\", in a run of ada
  it is at onprem
";
        assert_eq!(text("p/table", &answer), expected);
    }
}
