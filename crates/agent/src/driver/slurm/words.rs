//! What is said to Slurm's commands and what they answer, as text: the same in all versions, unlike their JSON.

use std::collections::BTreeMap;
use std::path::Path;

use tombolo_core::ids::Name;
use tombolo_core::resources::Resources;
use tombolo_core::spec::WorkloadSpec;
use tombolo_core::sync::Outcome;

use super::SlurmConfig;
use crate::driver::scheduled::Stands;

/// The columns that are asked of `squeue`: the number, the state, the time that is left, the time limit, the reason, the
/// name. The name is ours and last.
pub const QUEUE_FORMAT: &str = "%i|%T|%L|%l|%r|%j";
/// The columns that are asked of `sacct`.
pub const ACCOUNT_FORMAT: &str = "JobIDRaw,State,JobName";
/// The columns that are asked of `sinfo`: a node's name, processors, memory in MiB and generic resources.
pub const NODES_FORMAT: &str = "%N|%c|%m|%G";
/// What a shim needs beside the command's own time: to bring what the command reads, and to keep what it made.
const AROUND_S: u64 = 15 * 60;
/// How long a shim may take to keep what there is after the grace, in seconds.
const KEEP_S: u64 = 30;
/// How early Slurm may be with a signal (sbatch(1), `--signal`), in seconds.
const EARLY_S: u64 = 60;
/// How long before its end a service's job is followed by another, at the most, beside what its signal needs, in seconds.
const RENEW_S: u64 = 120;
/// The most that `--signal` takes, in seconds.
const SIGNAL_MAX_S: u64 = 65_535;

/// A job in the queue, or one that has left it a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub id: u64,
    pub state: String,
    /// In seconds; none where there is no limit.
    pub left_s: Option<u64>,
    pub limit_s: Option<u64>,
    pub reason: String,
    pub name: String,
}

/// What a job was submitted with, as far as its states are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    memory_bytes: u64,
    /// How long before its time limit it is told to end, in seconds.
    signal_s: u64,
    service: bool,
}

impl Asked {
    pub fn of(spec: &WorkloadSpec) -> Asked {
        let signal_s = (spec.grace.0.div_ceil(1000) + KEEP_S).min(SIGNAL_MAX_S);
        Asked { memory_bytes: spec.resources.memory_bytes, signal_s, service: spec.service().is_some() }
    }

    /// Whether it is time for another job in its place. One that hardly outlives its own signal is left to that.
    fn is_due(&self, job: &Queued) -> bool {
        let (Some(left_s), Some(limit_s)) = (job.left_s, job.limit_s) else { return false };
        let signalled_s = self.signal_s + EARLY_S;
        self.service && limit_s >= signalled_s + signalled_s / 2 && left_s <= signalled_s + RENEW_S.min(limit_s / 8)
    }
}

/// A line of `squeue`; none where it is another kind of line, such as a warning, or an element of somebody's array.
pub fn queued(line: &str) -> Option<Queued> {
    let mut columns = line.trim().splitn(6, '|');
    let mut next = || columns.next();
    let (id, state, left, limit, reason, name) = (next()?, next()?, next()?, next()?, next()?, next()?);
    Some(Queued {
        id: id.parse().ok()?,
        state: state.to_owned(),
        left_s: seconds(left),
        limit_s: seconds(limit),
        reason: reason.to_owned(),
        name: name.to_owned(),
    })
}

/// `days-hours:minutes:seconds` with what is zero left out in front; none for words such as `UNLIMITED`.
fn seconds(text: &str) -> Option<u64> {
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let clock = clock.split(':').try_fold(0, |sum: u64, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    Some(days.parse::<u64>().ok()? * 24 * 3600 + clock)
}

/// A line of `sacct --parsable2`.
pub fn accounted(line: &str) -> Option<Queued> {
    let mut columns = line.trim().splitn(3, '|');
    let (id, state, name) = (columns.next()?, columns.next()?, columns.next()?);
    let (id, name, state) = (id.parse().ok()?, name.to_owned(), state.to_owned());
    Some(Queued { id, state, left_s: None, limit_s: None, reason: String::new(), name })
}

/// What a state means; see squeue(1), JOB STATE CODES.
pub fn stands(job: &Queued, asked: &Asked) -> Stands {
    let evicted = |why: String| Stands::Over(Some(Outcome::Evicted { why }));
    let id = job.id;
    // `CANCELLED by 1000`, in the accounting.
    let (state, by) = job.state.split_once(' ').unwrap_or((&job.state, ""));
    match state {
        "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            Stands::Waits(waits(id, &job.reason))
        }
        "RUNNING" if asked.is_due(job) => {
            Stands::Ends(format!("its Slurm job {id} reaches its time limit in {} s", job.left_s.unwrap_or(0)))
        }
        "RUNNING" | "CONFIGURING" | "COMPLETING" | "RESIZING" | "SIGNALING" | "STAGE_OUT" | "STOPPED" | "SUSPENDED" => {
            Stands::Has
        }
        // Another cluster of a federation has it.
        "REVOKED" => Stands::Has,
        "CANCELLED" => evicted(format!("its Slurm job {id} was cancelled{}{by}", space(by))),
        "TIMEOUT" => evicted(format!("its Slurm job {id} reached its time limit")),
        "DEADLINE" => evicted(format!("its Slurm job {id} could not end before its deadline")),
        "PREEMPTED" => evicted(format!("its Slurm job {id} was preempted")),
        "NODE_FAIL" | "BOOT_FAIL" => {
            Stands::Over(Some(Outcome::Lost { why: format!("the node of its Slurm job {id} failed") }))
        }
        "OUT_OF_MEMORY" => Stands::Over(Some(Outcome::OutOfMemory { limit_bytes: asked.memory_bytes })),
        // How a shim ends says nothing that it has not written down.
        "COMPLETED" | "FAILED" => Stands::Over(None),
        // A state of a later version: it is there, so that nothing may be concluded.
        _ => Stands::Has,
    }
}

fn space(by: &str) -> &'static str {
    if by.is_empty() { "" } else { " " }
}

/// Why a job waits; see squeue(1), JOB REASON CODES.
fn waits(id: u64, reason: &str) -> String {
    let said = match reason {
        "None" | "" => return format!("Slurm job {id} waits to be looked at"),
        "Resources" => "for room",
        "Priority" => "behind jobs of a higher priority",
        "BeginTime" => "for its time to begin",
        "Licenses" => "for licenses",
        "Reservation" => "for its reservation",
        "PartitionDown" | "PartitionInactive" => "for its partition, which is down",
        "PartitionTimeLimit" | "PartitionNodeLimit" => "for ever: it asks for more than its partition allows",
        "JobHeldAdmin" => "since an administrator holds it",
        "JobHeldUser" => "since its user holds it",
        _ if reason.starts_with("QOS") || reason.starts_with("Assoc") => "for a limit of its account",
        _ if reason.contains("ReqNodeNotAvail") || reason.contains("Nodes_required") => {
            "for nodes that are down or taken"
        }
        _ => return format!("Slurm job {id} waits: {reason}"),
    };
    format!("Slurm job {id} waits {said} ({reason})")
}

/// Whether trying again later may help with what `sbatch` has said.
pub fn may_pass(said: &str) -> bool {
    const PASSING: [&str; 9] = [
        "Unable to contact slurm controller",
        "Connection refused",
        "Connection reset",
        "Socket timed out",
        "Zero Bytes were transmitted",
        "Transport endpoint",
        "temporarily unable to accept job",
        "Resource temporarily unavailable",
        "Slurm controller not responding",
    ];
    // A limit on how many jobs one may have passes as well: jobs end. Slurm names it before a line that is the same for all
    // limits, also for those that a job is too large for.
    let submit_limit = said.lines().any(|line| line.contains("Submit") && line.contains("Limit"));
    submit_limit || PASSING.iter().any(|passing| said.contains(passing))
}

/// The number that `sbatch --parsable` prints: `<number>[;<cluster>]`.
pub fn submitted(printed: &str) -> Option<u64> {
    printed.lines().rev().find_map(|line| line.trim().split(';').next()?.parse().ok())
}

/// What `sbatch` is told of a placement, but for its name and files.
pub fn options(config: &SlurmConfig, spec: &WorkloadSpec, nodes: &Nodes) -> Vec<String> {
    let Resources { cpus_milli, memory_bytes, gpus, .. } = &spec.resources;
    let grace_s = spec.grace.0.div_ceil(1000);
    let Asked { signal_s, .. } = Asked::of(spec);
    let mut options = vec![
        "--parsable".to_owned(),
        // Whether it runs again is for Tombolo to say, under a new epoch.
        "--no-requeue".to_owned(),
        "--nodes=1".to_owned(),
        "--ntasks=1".to_owned(),
        format!("--cpus-per-task={}", cpus_milli.div_ceil(1000).max(1)),
        format!("--signal=B:TERM@{signal_s}"),
    ];
    if nodes.memory_counted && *memory_bytes > 0 {
        options.push(format!("--mem={}M", memory_bytes.div_ceil(1 << 20)));
    }
    if !gpus.is_empty() {
        let one = |(kind, count): (&Name, &u32)| match nodes.types.get(kind) {
            Some(None) => format!("gpu:{count}"),
            Some(Some(spelt)) => format!("gpu:{spelt}:{count}"),
            None => format!("gpu:{kind}:{count}"),
        };
        let gpus: Vec<String> = gpus.iter().map(one).collect();
        options.push(format!("--gres={}", gpus.join(",")));
    }
    if let Some(timeout) = spec.job().and_then(|job| job.timeout) {
        // The shim keeps to the timeout; Slurm's limit is behind it, and helps it to plan.
        let seconds = timeout.0.div_ceil(1000) + grace_s + signal_s + AROUND_S;
        options.push(format!("--time={}", seconds.div_ceil(60)));
    }
    options.extend(config.partition.iter().map(|partition| format!("--partition={partition}")));
    options.extend(config.account.iter().map(|account| format!("--account={account}")));
    options.extend(config.options.iter().cloned());
    options
}

/// The batch script: the shim takes the shell's place, so that Slurm's signals reach it.
pub fn script(shim: &[String], dir: &Path) -> Option<String> {
    let mut words: Vec<String> = shim.iter().map(|word| quoted(word)).collect();
    words.push(quoted(dir.to_str()?));
    Some(format!("#!/bin/sh\nexec {}\n", words.join(" ")))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What a partition's nodes have together.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    pub capacity: Resources,
    /// Whether anybody has said how much memory they have.
    pub memory_counted: bool,
    /// Kinds of accelerators as Slurm spells their types; none for those without a type.
    pub types: BTreeMap<Name, Option<String>>,
}

/// What `sinfo` prints of a partition.
pub fn nodes(printed: &str) -> Nodes {
    let (mut nodes, mut types): (BTreeMap<&str, Resources>, _) = Default::default();
    for line in printed.lines() {
        let mut columns = line.trim().splitn(4, '|');
        let (Some(node), Some(cpus), Some(memory)) = (columns.next(), columns.next(), columns.next()) else { continue };
        let (Ok(cpus), Ok(mib)) = (cpus.parse::<u64>(), memory.parse::<u64>()) else { continue };
        let gpus = columns.next().map(|gres| gpus(gres, &mut types)).unwrap_or_default();
        let has = Resources { cpus_milli: cpus * 1000, memory_bytes: mib << 20, gpus, ..Resources::default() };
        nodes.insert(node, has);
    }
    // A node of which nobody has said how much memory it has is one of 1 MiB.
    let memory_counted = nodes.values().any(|node| node.memory_bytes > 1 << 20);
    let mut all = Resources::default();
    for node in nodes.into_values() {
        all.cpus_milli += node.cpus_milli;
        all.memory_bytes += node.memory_bytes;
        for (kind, count) in node.gpus {
            *all.gpus.entry(kind).or_default() += count;
        }
    }
    Nodes { capacity: all, memory_counted, types }
}

/// `gpu:a100:4(S:0-1),gpu:2`; those of no kind are of the kind `gpu`.
fn gpus(gres: &str, types: &mut BTreeMap<Name, Option<String>>) -> BTreeMap<Name, u32> {
    let mut gpus = BTreeMap::new();
    let mut depth = 0;
    // The sockets in parentheses may hold commas.
    let plain: String = gres
        .chars()
        .filter(|&c| {
            depth += i32::from(c == '(');
            let keep = depth == 0;
            depth -= i32::from(c == ')');
            keep
        })
        .collect();
    for part in plain.split(',') {
        let words: Vec<&str> = part.trim().split(':').collect();
        let (kind, count) = match *words {
            ["gpu", kind, count] => (kind, count),
            ["gpu", count] => ("gpu", count),
            _ => continue,
        };
        if let (Ok(name), Ok(count)) = (Name::new(kind.to_ascii_lowercase()), count.parse::<u32>()) {
            *gpus.entry(name.clone()).or_default() += count;
            types.insert(name, (words.len() > 2).then(|| kind.to_owned()));
        }
    }
    gpus
}

#[cfg(test)]
mod tests {
    use tombolo_core::spec::{Command, Job, Kind};
    use tombolo_core::time::Millis;

    use super::*;

    fn job(state: &str, reason: &str) -> Queued {
        Queued { id: 7, state: state.into(), left_s: None, limit_s: None, reason: reason.into(), name: "n".into() }
    }

    const ASKED: Asked = Asked { memory_bytes: 5, signal_s: 60, service: true };

    #[test]
    fn lines_are_read_and_others_are_not() {
        let name = "tombolo:hpc:flights-1/train.2";
        let line = format!("17|PENDING|2-00:00:05|UNLIMITED|Nodes required for job are DOWN, DRAINED|{name}");
        let read = queued(&line).unwrap();
        assert_eq!((read.id, read.state.as_str(), read.name.as_str()), (17, "PENDING", name));
        assert_eq!((read.left_s, read.limit_s), (Some(2 * 24 * 3600 + 5), None));
        assert!(queued("slurm_load_jobs error: Unable to contact slurm controller").is_none());
        // Of an array, which is none of ours.
        assert!(queued("17_3|RUNNING|1:00|1:00|None|x").is_none());
        let told = accounted(&format!("17|CANCELLED by 1000|{name}")).unwrap();
        assert_eq!((told.state.as_str(), told.name.as_str()), ("CANCELLED by 1000", name));
        assert!(accounted("17.batch|COMPLETED|batch").is_none());
        assert_eq!(submitted("sbatch: a word of the site\n17;cluster\n"), Some(17));
        assert_eq!(submitted("sbatch: error: no\n"), None);
    }

    #[test]
    fn each_state_means_something_and_a_new_one_nothing() {
        let over = |state: &str| match stands(&job(state, "None"), &ASKED) {
            Stands::Over(outcome) => outcome.map(|outcome| outcome.to_string()),
            other => panic!("{state}: {other:?}"),
        };
        assert_eq!(over("COMPLETED"), None);
        assert_eq!(over("FAILED"), None);
        let cancelled = "was ended by its site: its Slurm job 7 was cancelled by 1000";
        assert_eq!(over("CANCELLED by 1000").as_deref(), Some(cancelled));
        assert_eq!(over("TIMEOUT").as_deref(), Some("was ended by its site: its Slurm job 7 reached its time limit"));
        assert_eq!(over("NODE_FAIL").as_deref(), Some("was lost: the node of its Slurm job 7 failed"));
        assert_eq!(
            stands(&job("OUT_OF_MEMORY", ""), &ASKED),
            Stands::Over(Some(Outcome::OutOfMemory { limit_bytes: 5 }))
        );
        for state in ["RUNNING", "COMPLETING", "SUSPENDED", "A_STATE_OF_2040"] {
            assert_eq!(stands(&job(state, ""), &ASKED), Stands::Has, "{state}");
        }
        let waits = |reason: &str| match stands(&job("PENDING", reason), &ASKED) {
            Stands::Waits(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(waits("Resources"), "Slurm job 7 waits for room (Resources)");
        assert_eq!(
            waits("QOSMaxJobsPerUserLimit"),
            "Slurm job 7 waits for a limit of its account (QOSMaxJobsPerUserLimit)"
        );
        assert_eq!(waits("SomethingNew"), "Slurm job 7 waits: SomethingNew");
    }

    #[test]
    fn a_service_is_followed_before_its_limit_and_a_job_is_not() {
        let at = |left: &str, limit: &str| queued(&format!("7|RUNNING|{left}|{limit}|None|n")).unwrap();
        let ends = |left: &str, limit: &str| matches!(stands(&at(left, limit), &ASKED), Stands::Ends(_));
        assert!(ends("4:00", "1:00:00") && !ends("4:01", "1:00:00"));
        assert!(ends("2:22", "3:00") && !ends("2:23", "3:00"));
        // Hardly anything would be left of it before its signal.
        assert!(!ends("0:30", "2:59"));
        assert!(!ends("UNLIMITED", "UNLIMITED"));
        assert_eq!(stands(&at("0:30", "1:00:00"), &Asked { service: false, ..ASKED }), Stands::Has);
    }

    #[test]
    fn a_placement_becomes_options() {
        let config = SlurmConfig {
            partition: Some("main".into()),
            account: Some("ml".into()),
            options: vec!["--qos=high".into()],
        };
        let timed = Job { timeout: Some(Millis::from_secs(3600)), ..Job::default() };
        let mut spec = WorkloadSpec::new(Kind::Job(timed), Command::Run("true".into()));
        spec.resources.cpus_milli = 1500;
        spec.resources.memory_bytes = (3 << 30) + 1;
        spec.resources.gpus = BTreeMap::from([(Name::new("a100").unwrap(), 2)]);
        spec.grace = Millis::from_secs(30);
        let nodes = Nodes { memory_counted: true, ..nodes("n1|4|9000|gpu:A100:4,gpu:2\n") };
        let all = options(&config, &spec, &nodes).join(" ");
        assert_eq!(
            all,
            "--parsable --no-requeue --nodes=1 --ntasks=1 --cpus-per-task=2 --signal=B:TERM@60 --mem=3073M \
             --gres=gpu:A100:2 --time=77 --partition=main --account=ml --qos=high"
        );
        assert!(!options(&config, &spec, &Nodes::default()).iter().any(|option| option.starts_with("--mem")));
        spec.resources.gpus = BTreeMap::from([(Name::new("gpu").unwrap(), 1)]);
        assert!(options(&config, &spec, &nodes).contains(&"--gres=gpu:1".to_owned()), "without a type");
    }

    #[test]
    fn the_script_stands_any_path() {
        let script = script(&["/opt/it's/tombolo".to_owned(), "shim".to_owned()], Path::new("/a b")).unwrap();
        assert_eq!(script, "#!/bin/sh\nexec '/opt/it'\\''s/tombolo' 'shim' '/a b'\n");
    }

    #[test]
    fn nodes_are_counted_once_each() {
        let printed = "n1|32|128000|gpu:a100:4(S:0,1)\nn2|32|128000|gpu:A100:4,gpu:2\nn1|32|128000|gpu:a100:4(S:0,1)\n";
        let Nodes { capacity, memory_counted, .. } = nodes(printed);
        assert_eq!((capacity.cpus_milli, capacity.memory_bytes, memory_counted), (64_000, 256_000 << 20, true));
        let kinds: Vec<(String, u32)> =
            capacity.gpus.into_iter().map(|(kind, count)| (kind.to_string(), count)).collect();
        assert_eq!(kinds, [("a100".to_owned(), 8), ("gpu".to_owned(), 2)]);
        assert!(!nodes("n1|2|1|(null)\n").memory_counted);
    }

    #[test]
    fn what_passes_is_tried_again() {
        assert!(may_pass(
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
        ));
        assert!(!may_pass("sbatch: error: Batch job submission failed: Requested node configuration is not available"));
        assert!(!may_pass("sbatch: error: invalid partition specified: x"));
        let generic = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, \
                       user's size and/or time limits)";
        assert!(!may_pass(&format!("sbatch: error: QOSMaxWallDurationPerJobLimit\n{generic}")));
        assert!(may_pass(&format!("sbatch: error: AssocMaxSubmitJobLimit\n{generic}")));
    }
}
