//! The shim's side: bytes from pipes to bounded files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tombolo_core::time::Timestamp;

use super::{LogLimits, Redactor, Stream, segment_name};
use crate::clock::now;

/// How much is read from a pipe at once, in bytes: what a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// A line that is longer is written in parts, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Writes the log of one placement. One at a time: the holder of the placement's lock.
#[derive(Debug)]
pub struct LogWriter {
    redactor: Redactor,
    limits: LogLimits,
    dir: PathBuf,
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    /// None once writing has failed: a full disk must not stop the command.
    current: Option<File>,
    number: u64,
    /// Written to the current file and to all before it, in bytes.
    current_bytes: u64,
    total_bytes: u64,
}

impl LogWriter {
    /// Goes on behind what an earlier shim of the placement has written.
    pub fn open(dir: &Path, limits: LogLimits, redactor: Redactor) -> io::Result<LogWriter> {
        let file = open_segment(dir, 0)?;
        let bytes = file.metadata()?.len();
        let files = Files { current: Some(file), number: 0, current_bytes: bytes, total_bytes: bytes };
        Ok(LogWriter { redactor, limits, dir: dir.to_owned(), files: Mutex::new(files) })
    }

    /// Says something in Tombolo's own voice.
    pub fn say(&self, text: &str) {
        let text = self.redactor.redact(text.trim_end().to_owned());
        self.write(Stream::Tombolo, now(), &text);
    }

    /// Copies a pipe into the log until its end.
    pub fn copy(&self, stream: Stream, mut pipe: impl Read) {
        let mut held: Vec<u8> = Vec::with_capacity(2 * READ_BYTES);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            held.extend_from_slice(&buffer[..read]);
            self.take(stream, &mut held);
        }
        if !held.is_empty() {
            let text = into_text(held);
            self.write(stream, now(), &self.redactor.redact(text));
        }
    }

    /// Writes what can be written now: up to the last line's end (a carriage return ends a line too, so that
    /// progress bars move), or of a line that is too long all but a begun secret or character.
    fn take(&self, stream: Stream, held: &mut Vec<u8>) {
        if let Some(end) = held.iter().rposition(|&byte| byte == b'\n' || byte == b'\r') {
            let rest = held.split_off(end + 1);
            let text = into_text(std::mem::replace(held, rest));
            self.write(stream, now(), &self.redactor.redact(text));
        } else if held.len() >= LINE_BYTES_MAX {
            let begun = match std::str::from_utf8(held) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => held.len(),
            };
            let text = String::from_utf8_lossy(&held[..begun]).into_owned();
            let (shown, taken) = self.redactor.redact_begun(&text);
            self.write(stream, now(), &shown);
            let mut rest = text.as_bytes()[taken..].to_vec();
            rest.extend_from_slice(&held[begun..]);
            *held = rest;
        }
    }

    fn write(&self, stream: Stream, at: Timestamp, text: &str) {
        let mut frame = Vec::with_capacity(text.len() + 40);
        frame.extend_from_slice(format!("{} {} {}\n", at.0, stream.letter() as char, text.len()).as_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame.push(b'\n');
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.append(&mut files, &frame) {
            // There is no better place to say so than the shim's stderr.
            crate::logs::mutter(&format!("the log can't be written any more: {error}"));
            files.current = None;
        }
    }

    fn append(&self, files: &mut Files, frame: &[u8]) -> io::Result<()> {
        let limit = if files.number == 0 { self.limits.head_bytes } else { self.limits.segment_bytes };
        if files.current.is_some() && files.current_bytes > 0 && files.current_bytes + frame.len() as u64 > limit {
            self.roll(files)?;
        }
        let Some(file) = &mut files.current else { return Ok(()) };
        file.write_all(frame)?;
        files.current_bytes += frame.len() as u64;
        files.total_bytes += frame.len() as u64;
        Ok(())
    }

    fn roll(&self, files: &mut Files) -> io::Result<()> {
        files.number += 1;
        let mut file = open_segment(&self.dir, files.number)?;
        file.set_len(0)?;
        file.write_all(format!("@{}\n", files.total_bytes).as_bytes())?;
        files.current = Some(file);
        files.current_bytes = 0;
        let keep = u64::from(self.limits.segments.max(1));
        if files.number > keep {
            // A reader that has it open reads it to its end.
            let _ = fs::remove_file(self.dir.join(segment_name(files.number - keep)));
        }
        Ok(())
    }
}

/// To this process's stderr, if it takes it: a full disk must not end who says so, as `eprintln!` would.
pub fn mutter(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn open_segment(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(segment_name(number)))
}

/// Without a copy where it is text, as it mostly is.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
