//! What workloads print: captured by the shim, kept at the site within a limit, read on demand.
//!
//! On disk a log is a sequence of frames, `<milliseconds> <stream letter> <bytes>\n`, then so many bytes and `\n`.
//! A frame holds whole lines where the writer could wait for their ends. The first frames go to the file `log`
//! until it is full, the later ones to `log.1`, `log.2` and so on, of which the oldest are deleted. Each of these
//! begins with `@<bytes of log before this file>\n`, which tells a reader how much is missing.

mod read;
mod redact;
mod write;

use serde::{Deserialize, Serialize};

pub use read::read;
pub use redact::Redactor;
use tombolo_api::stream::OWN_STREAM;
pub use tombolo_api::stream::{LogLine, LogQuery};
pub use write::{LogWriter, mutter};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
    /// What Tombolo has to say of the workload.
    Tombolo,
}

/// What a log may take on disk. The first bytes tell how it began and the last how it ended; what goes is between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Kept from the beginning, in bytes.
    pub head_bytes: u64,
    /// Size of a file after that, in bytes.
    pub segment_bytes: u64,
    /// How many of these are kept, the one that is written included.
    pub segments: u32,
}

impl Default for LogLimits {
    /// 64 MiB: the first 16, the last 42 to 48.
    fn default() -> LogLimits {
        LogLimits { head_bytes: 16 << 20, segment_bytes: 6 << 20, segments: 8 }
    }
}

/// The file of the first frames, in the placement's directory.
const HEAD: &str = "log";

impl Stream {
    fn letter(self) -> u8 {
        match self {
            Stream::Stdout => b'o',
            Stream::Stderr => b'e',
            Stream::Tombolo => b't',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Tombolo => OWN_STREAM,
        }
    }

    fn from_letter(letter: u8) -> Option<Stream> {
        match letter {
            b'o' => Some(Stream::Stdout),
            b'e' => Some(Stream::Stderr),
            b't' => Some(Stream::Tombolo),
            _ => None,
        }
    }
}

/// `log.3` -> 3, `log` -> 0.
fn segment_number(file_name: &str) -> Option<u64> {
    if file_name == HEAD {
        return Some(0);
    }
    file_name.strip_prefix("log.")?.parse().ok().filter(|&number| number > 0)
}

fn segment_name(number: u64) -> String {
    if number == 0 { HEAD.to_owned() } else { format!("{HEAD}.{number}") }
}
