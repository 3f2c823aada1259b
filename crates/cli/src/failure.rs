//! What a user is told when something did not work, and the exit code that says whose fault it is.

use std::error::Error;
use std::fmt;

use tombolo_api::client::ClientError;
use tombolo_data::DataError;

/// Exit codes beside 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The user's workload failed.
    Workload = 1,
    /// The command was used wrongly, or what it was given is wrong.
    Usage = 2,
    /// Tombolo itself, the machine or the network failed.
    System = 3,
}

/// What happened, why, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub why: Option<String>,
    pub hint: Option<String>,
    pub exit: Exit,
    /// `what` is a whole report of its own, such as the faults of a project file.
    pub is_report: bool,
}

impl Failure {
    pub fn usage(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), why: None, hint: None, exit: Exit::Usage, is_report: false }
    }

    pub fn system(what: impl Into<String>) -> Failure {
        Failure { exit: Exit::System, ..Failure::usage(what) }
    }

    pub fn because(self, why: impl fmt::Display) -> Failure {
        Failure { why: Some(why.to_string()), ..self }
    }

    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_report {
            return f.write_str(&self.what);
        }
        writeln!(f, "error: {}", self.what)?;
        if let Some(why) = &self.why {
            writeln!(f, "  why: {why}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let why = root_cause(&error);
        match error {
            ClientError::Problem(problem) => {
                let exit = if (400..500).contains(&problem.status) { Exit::Usage } else { Exit::System };
                let hint = problem.hint.or_else(|| hint_for(problem.status).map(str::to_owned));
                Failure { what: problem.title, why: problem.detail, hint, exit, is_report: false }
            }
            ClientError::Unreachable { .. } => Failure::system(error.to_string())
                .because(why.unwrap_or_default())
                .hint("start one with `tombolo server`, or name another with --server or $TOMBOLO_SERVER"),
            ClientError::Broken(_) => Failure { why, ..Failure::system(error.to_string()) },
            ClientError::Malformed(why) => Failure::system("the control plane's answer could not be understood")
                .because(why)
                .hint("compare the versions of this program and of the control plane: tombolo --version"),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Failure {
        let exit = match &error {
            DataError::Unfit { .. }
            | DataError::NotEmpty { .. }
            | DataError::NoFile { .. }
            | DataError::WhichFile { .. } => Exit::Usage,
            DataError::NoKey { .. } | DataError::WrongKey { .. } | DataError::NotEncrypted { .. } => Exit::Usage,
            DataError::KeyFile { .. } => Exit::Usage,
            DataError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::Usage,
            _ => Exit::System,
        };
        let hint = match &error {
            DataError::NoSpace { .. } => Some("make room there, or add it at another site with --site"),
            DataError::Changed { .. } => Some("wait until nothing writes there any more, and try again"),
            DataError::NotEmpty { .. } => Some("name a directory that does not exist yet"),
            DataError::CorruptChunk { .. } | DataError::CorruptPack { .. } | DataError::CorruptManifest { .. } => {
                Some("`tombolo data verify` sets aside what is damaged; it is fetched again when it is needed")
            }
            DataError::NoKey { .. } => Some(
                "copy the key file of the site that made it, and name the copy with --store-key when joining, or as \
                 store_key in site.json",
            ),
            DataError::WrongKey { .. } => Some(
                "all sites that share a store need the same key: put a copy of the key file of the site that made it \
                 where site.json says that this site's is (store_key)",
            ),
            DataError::NotEncrypted { .. } => {
                Some("a store stays as it was made: take store_key out of site.json, or join anew with another store")
            }
            DataError::KeyFile { .. } => {
                Some("bring the file back from where a copy is kept; nothing in the store can be read without it")
            }
            DataError::ForeignPack { .. } => {
                Some("nothing was removed; see who put the pack there, or whether the store's format file was changed")
            }
            _ => None,
        };
        Failure { exit, hint: hint.map(str::to_owned), ..Failure::system(error.to_string()) }
    }
}

impl From<tombolo_api::project::Faults> for Failure {
    fn from(faults: tombolo_api::project::Faults) -> Failure {
        Failure { is_report: true, ..Failure::usage(faults.to_string()) }
    }
}

fn hint_for(status: u16) -> Option<&'static str> {
    match status {
        401 => Some("give a token with --token or $TOMBOLO_TOKEN; `tombolo token create` makes one"),
        403 => Some("ask somebody whose token has a higher role; `tombolo token ls` shows roles"),
        _ => None,
    }
}

/// The deepest source of an error: what the operating system said.
fn root_cause(error: &dyn Error) -> Option<String> {
    let mut last = error.source()?;
    while let Some(next) = last.source() {
        last = next;
    }
    Some(last.to_string())
}

/// A failure of a part that has its own words; a hint in its text is set apart.
pub fn from_system(error: &dyn Error) -> Failure {
    let text = error.to_string();
    let why = root_cause(error).filter(|why| !text.contains(why.as_str()));
    let (what, hint) = match text.split_once("\nhint: ") {
        Some((what, hint)) => (what.to_owned(), Some(hint.to_owned())),
        None => (text, None),
    };
    Failure { why, hint, ..Failure::system(what) }
}
