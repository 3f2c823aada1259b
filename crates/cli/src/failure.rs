//! What a user is told when something did not work, and the exit code that says whose fault it is.

use std::error::Error;
use std::fmt;

use tombolo_api::client::ClientError;
use tombolo_api::problem::UNKNOWN;
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
                let hint = problem.hint.or_else(|| hint_for(problem.status, &problem.kind).map(str::to_owned));
                let why = problem.detail.filter(|detail| !detail.trim().is_empty());
                Failure { what: problem.title, why, hint, exit, is_report: false }
            }
            ClientError::Unreachable { .. } => {
                let (why, hint) = unreachable(&causes(&error));
                Failure::system(error.to_string()).because(why).hint(hint)
            }
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

fn hint_for(status: u16, kind: &str) -> Option<&'static str> {
    match (status, kind) {
        (401, _) => Some("give a token with --token or $TOMBOLO_TOKEN; `tombolo token create` makes one"),
        (403, "residency") => Some("`tombolo data why <dataset> <site>` tells which rule says so"),
        (403, _) => Some("ask somebody whose token has a higher role; `tombolo token ls` shows roles"),
        // No answer of this API.
        (_, UNKNOWN) => Some("is that a control plane? Name it with --server or $TOMBOLO_SERVER"),
        _ => None,
    }
}

/// Why nobody answers, and what to do about it, from what each layer said, the deepest last.
fn unreachable(causes: &[String]) -> (String, &'static str) {
    let all = causes.join("\n").to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let deepest = causes.last().cloned().unwrap_or_default();
    if says(&["certificate"]) {
        (deepest, "use the name that its certificate is for, and have this machine trust who issued it")
    } else if says(&["timed out", "deadline has elapsed"]) {
        (
            format!("no answer in time ({deepest})"),
            "is the machine up, and does every firewall on the way let this through?",
        )
    } else if says(&["dns error", "lookup address"]) {
        (format!("its name was not found ({deepest})"), "check the name, or give the address as numbers")
    } else if says(&["builder error", "url scheme"]) {
        (format!("that is no address ({deepest})"), "write it as <host>:<port> or https://<host>:<port>")
    } else if says(&["before message completed", "corrupt message", "invalid http"]) {
        (deepest, "something else answers there; is it http:// in place of https://, or another port?")
    } else {
        (deepest, "start one with `tombolo server`, or name another with --server or $TOMBOLO_SERVER")
    }
}

/// What an error and everything below it says, the deepest last: that is what the operating system said.
fn causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |error: &&dyn Error| (*error).source()).map(ToString::to_string).collect()
}

fn root_cause(error: &dyn Error) -> Option<String> {
    causes(error).pop()
}

/// A failure of a part that has its own words; a hint in its text is set apart.
pub fn from_system(error: &dyn Error) -> Failure {
    let text = error.to_string();
    let why = root_cause(error).filter(|why| !text.contains(why.as_str()));
    let (what, hint) = apart(&text);
    Failure { why, hint: hint.map(str::to_owned), ..Failure::system(what) }
}

/// What a text says, and the hint that it ends with.
pub fn apart(text: &str) -> (&str, Option<&str>) {
    match text.split_once("\nhint: ") {
        Some((what, hint)) => (what, Some(hint)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nobody_answers() {
        let check = |causes: &[&str], why: &str, hint: &str| {
            let causes: Vec<String> = causes.iter().map(|cause| (*cause).to_owned()).collect();
            let told = unreachable(&causes);
            assert_eq!(told.0, why);
            assert!(told.1.contains(hint), "{told:?}");
        };
        let request = "error sending request for url (http://x/)";
        let (tcp, refused) = ("tcp connect error", "Connection refused (os error 111)");
        check(&[request, "client error (Connect)", tcp, refused], refused, "tombolo server");
        let late = "no answer in time (deadline has elapsed)";
        check(&[request, "client error (Connect)", tcp, "deadline has elapsed"], late, "firewall");
        let nobody = "failed to lookup address information: Name or service not known";
        check(
            &[request, "client error (Connect)", "dns error", nobody],
            &format!("its name was not found ({nobody})"),
            "check the name",
        );
        let certificate = "invalid peer certificate: UnknownIssuer";
        check(&[request, "client error (Connect)", certificate], certificate, "certificate");
        let closed = "connection closed before message completed";
        check(&[request, "client error (SendRequest)", closed], closed, "https://");
    }

    /// The words that tell are those of other crates, and may change with them.
    #[tokio::test]
    async fn the_client_says_why_nobody_answers() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ask = async |base: &str| {
            let error = tombolo_api::client::Client::new(base, None).get::<()>("/v1/sites").await.unwrap_err();
            Failure::from(error)
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = ask(&format!("http://{free}")).await;
        assert!(refused.why.as_ref().unwrap().contains("refused"), "{refused}");
        let unknown = ask("http://no-such-host.invalid:7070").await;
        // Where there is nobody to ask for names, that takes too long.
        let why = unknown.why.as_ref().unwrap();
        assert!(why.contains("name was not found") || why.contains("no answer in time"), "{unknown}");
        let strange = ask("http://a host").await;
        assert!(strange.why.as_ref().unwrap().contains("no address"), "{strange}");

        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        // It hangs up on whoever comes, after what was asked has come.
        std::thread::spawn(move || {
            for stream in other.incoming() {
                let _ = std::io::Read::read(&mut stream.unwrap(), &mut [0; 4096]);
            }
        });
        let closed = ask(&format!("http://{address}")).await;
        assert!(closed.hint.as_ref().unwrap().contains("something else answers"), "{closed}");
        assert_eq!(closed.exit, Exit::System);
    }
}
