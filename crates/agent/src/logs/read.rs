//! The reader's side: frames from files that may still grow, as a stream of lines.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::Stream as Async;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tombolo_api::stream::{LogLine, LogQuery};
use tombolo_core::resources::bytes;
use tombolo_core::time::Timestamp;

use super::{Stream, segment_name, segment_number};
use crate::shim::placement::Placement;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;
/// A frame that claims to be longer is taken for damage, in bytes.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Lines that wait for a slow reader.
const QUEUE_MAX: usize = 1024;
/// A follower looks again after a tenth of the time for which nothing came, within these.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(200);

/// The log of the placement whose directory is the first of `dirs` that exists, in the order in which it was read
/// from the command. An unreadable file ends the stream with its error; a placement that doesn't exist has an empty
/// log. The other directories are where the log may be moved to meanwhile.
pub fn read(dirs: Vec<PathBuf>, query: LogQuery) -> impl Async<Item = io::Result<LogLine>> + Send + Unpin + use<> {
    let (sender, mut receiver) = mpsc::channel(QUEUE_MAX);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader::new(dirs);
        if let Err(error) = serve(&mut reader, &query, &sender)
            && error.kind() != ErrorKind::BrokenPipe
        {
            // A reader that has gone wants to hear nothing.
            let _ = sender.blocking_send(Err(error));
        }
    });
    poll_fn(move |cx| receiver.poll_recv(cx))
}

type Sender = mpsc::Sender<io::Result<LogLine>>;

fn serve(reader: &mut Reader, query: &LogQuery, sender: &Sender) -> io::Result<()> {
    let wanted = |record: &LogLine| query.since.is_none_or(|since| record.at >= since);
    let send = |record: LogLine| sender.blocking_send(Ok(record)).map_err(|_| io::Error::from(ErrorKind::BrokenPipe));
    if let Some(tail) = query.tail {
        let mut last = VecDeque::new();
        reader.read_new(&mut |record| {
            if wanted(&record) && tail > 0 {
                if last.len() == tail {
                    last.pop_front();
                }
                last.push_back(record);
            }
            Ok(())
        })?;
        last.into_iter().try_for_each(send)?;
    }
    let mut quiet = Duration::ZERO;
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = !query.follow || reader.dirs.iter().all(|dir| is_over(dir));
        let mut came = false;
        reader.read_new(&mut |record| {
            came = true;
            if wanted(&record) { send(record) } else { Ok(()) }
        })?;
        if over || sender.is_closed() {
            return Ok(());
        }
        let pause = (quiet / 10).clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX);
        quiet = if came { Duration::ZERO } else { quiet + pause };
        std::thread::sleep(pause);
    }
}

/// Whether nothing can come any more. The driver writes the end of a shim that died without doing so.
fn is_over(dir: &Path) -> bool {
    let placement = Placement::at(dir);
    !placement.exists() || placement.progress().is_ok_and(|progress| progress.finish.is_some())
}

/// Reads through the files of a log, also while they are written.
struct Reader {
    dirs: Vec<PathBuf>,
    file: Option<File>,
    number: u64,
    /// Read, but not yet a whole frame.
    held: Vec<u8>,
    /// Bytes of log up to the end of what was read.
    offset: u64,
    /// Bytes that are missing before the next frame.
    gap_bytes: u64,
}

impl Reader {
    fn new(dirs: Vec<PathBuf>) -> Reader {
        Reader { dirs, file: None, number: 0, held: Vec::new(), offset: 0, gap_bytes: 0 }
    }

    /// Hands over all whole lines that were written since the last call.
    fn read_new(&mut self, each: &mut impl FnMut(LogLine) -> io::Result<()>) -> io::Result<()> {
        if self.file.is_none() {
            self.file = self.open(0)?;
        }
        if self.file.is_none() {
            return Ok(());
        }
        loop {
            // Asked before reading: a file behind which another has begun grows no more.
            let next = self.next_segment()?;
            self.read_file(each)?;
            let Some(next) = next else { return Ok(()) };
            match self.open(next)? {
                Some(file) => {
                    self.file = Some(file);
                    self.number = next;
                    self.held.clear();
                }
                // Deleted since; there is a later one.
                None => continue,
            }
        }
    }

    fn open(&self, number: u64) -> io::Result<Option<File>> {
        for dir in &self.dirs {
            match File::open(dir.join(segment_name(number))) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => return opened.map(Some),
            }
        }
        Ok(None)
    }

    fn next_segment(&self) -> io::Result<Option<u64>> {
        let mut next = None;
        for dir in &self.dirs {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            let numbers = entries.filter_map(|entry| segment_number(entry.ok()?.file_name().to_str()?));
            next = numbers.filter(|&number| number > self.number).chain(next).min();
        }
        Ok(next)
    }

    fn read_file(&mut self, each: &mut impl FnMut(LogLine) -> io::Result<()>) -> io::Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                self.file = Some(file);
                return Ok(());
            }
            self.held.extend_from_slice(&buffer[..read]);
            self.take_frames(each)?;
        }
    }

    fn take_frames(&mut self, each: &mut impl FnMut(LogLine) -> io::Result<()>) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let mut at = 0;
        while let Some(line) = held[at..].iter().position(|&byte| byte == b'\n') {
            let header = &held[at..at + line];
            let body = at + line + 1;
            if let Some(before) = header.strip_prefix(b"@").and_then(number) {
                self.gap_bytes += before.saturating_sub(self.offset);
                self.offset = before;
                at = body;
                continue;
            }
            let Some((time, stream, length)) = parse_header(header) else {
                // The rest of a frame whose writer was killed. What follows begins on a line of its own.
                at = body;
                continue;
            };
            if held.len() < body + length + 1 {
                break;
            }
            let missing = std::mem::take(&mut self.gap_bytes);
            if missing > 0 {
                let text = format!("... {} of log were dropped here: it was longer than its limit", bytes(missing));
                each(LogLine { at: time, stream: Stream::Tombolo.word().to_owned(), text })?;
            }
            let text = String::from_utf8_lossy(&held[body..body + length]);
            for line in text.trim_end_matches(['\n', '\r']).split('\n') {
                for part in line.split('\r').filter(|part| !part.is_empty() || !line.contains('\r')) {
                    each(LogLine { at: time, stream: stream.word().to_owned(), text: part.to_owned() })?;
                }
            }
            self.offset += (length + 1 + line + 1) as u64;
            at = body + length + 1;
        }
        self.held = held[at..].to_vec();
        Ok(())
    }
}

fn parse_header(header: &[u8]) -> Option<(Timestamp, Stream, usize)> {
    let mut fields = std::str::from_utf8(header).ok()?.split(' ');
    let (time, stream, length) = (fields.next()?, fields.next()?, fields.next()?);
    let (&[letter], None) = (stream.as_bytes(), fields.next()) else { return None };
    let length = length.parse().ok().filter(|&length| length <= FRAME_BYTES_MAX)?;
    Some((Timestamp(time.parse().ok()?), Stream::from_letter(letter)?, length))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
