//! The system calls of a process, as strace writes them down: those that change files, and what goes to standard output.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that change files or make changes durable, and those that move the place where `write` writes. Those of the
/// second half are told to the simulated disk so that it can refuse them: no store makes them.
const CALLS: &str = "open,openat,creat,write,lseek,fsync,fdatasync,ftruncate,rename,renameat,renameat2,link,linkat,unlink,\
    unlinkat,rmdir,mkdir,mkdirat,\
    writev,pwrite64,pwritev,pwritev2,truncate,fallocate,copy_file_range,sendfile,splice,symlink,symlinkat,mmap";
/// Longest write that is seen whole, in bytes.
const WRITE_BYTES_MAX: usize = 64 << 20;

/// One call, from when the process made it to when it went on.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    pub args: Vec<String>,
    /// Places among all beginnings and ends of calls; a call that the process was killed in has no end.
    pub began: usize,
    pub ended: Option<usize>,
    /// None where it failed, or where nobody lived to see it.
    pub result: Option<String>,
}

/// strace with the program to run still to be given.
pub fn strace(log: &Path, kill: Option<(&str, u64)>) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-xx", "-s", &WRITE_BYTES_MAX.to_string(), "-e", &format!("trace={CALLS}"), "-o"])
        .arg(log);
    if let Some((call, nth)) = kill {
        // On the way into that call, which isn't made any more.
        strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
    }
    strace
}

/// The calls of a log in the order in which they began, those that failed left out.
pub fn parse(log: &str, mut at: usize) -> (Vec<Call>, usize) {
    let (mut calls, mut open): (Vec<Call>, HashMap<&str, (usize, String)>) = (Vec::new(), HashMap::new());
    for line in log.lines() {
        let (thread, line) = line.split_once(char::is_whitespace).unwrap();
        let line = line.trim_start();
        if line.starts_with("+++") || line.starts_with("---") {
            continue;
        }
        at += 1;
        if let Some(rest) = line.strip_prefix("<... ") {
            let (_, rest) = rest.split_once(" resumed>").unwrap();
            let (call, begun) = open.remove(thread).unwrap();
            end(&mut calls[call], &format!("{begun}{rest}"), at);
            continue;
        }
        let call = Call { name: String::new(), args: Vec::new(), began: at, ended: None, result: None };
        calls.push(call);
        let last = calls.len() - 1;
        match line.strip_suffix(" <unfinished ...>") {
            Some(begun) => {
                calls[last].take_in(begun);
                open.insert(thread, (last, begun.to_owned()));
            }
            None => {
                at += 1;
                end(&mut calls[last], line, at);
            }
        }
    }
    calls.retain(|call| call.result.is_some() || call.ended.is_none());
    (calls, at)
}

fn end(call: &mut Call, line: &str, at: usize) {
    // Text is all hexadecimal, so that nothing in it looks like the end.
    let (line, result) = line.rsplit_once(" = ").unwrap();
    call.take_in(line.trim_end().trim_end_matches(')'));
    if !result.starts_with('?') {
        call.ended = Some(at);
        call.result = (!result.starts_with('-')).then(|| result.to_owned());
    }
}

impl Call {
    fn take_in(&mut self, line: &str) {
        let (name, args) = line.split_once('(').unwrap();
        self.name = name.to_owned();
        self.args = args.split(", ").map(str::to_owned).collect();
    }

    /// Whether it is about a file below the directory, and more than a look at it.
    pub fn changes(&self, dir: &Path) -> bool {
        let below = |arg: &String| match arg.strip_prefix('"') {
            Some(text) => bytes_path(&unhex(text[..text.len().min(4096) & !3].trim_end_matches('"'))).starts_with(dir),
            None => descriptor_path(arg).1.starts_with(dir),
        };
        let looks = match &*self.name {
            "mmap" => !self.has("MAP_SHARED") || !self.has("PROT_WRITE"),
            "open" | "openat" => self.has("O_RDONLY"),
            _ => false,
        };
        !looks && self.args.iter().chain(&self.result).any(below)
    }

    pub fn has(&self, flag: &str) -> bool {
        self.args.iter().any(|arg| arg.split('|').any(|part| part == flag))
    }

    /// The path of an argument, with that of the directory before it where the call has one.
    pub fn path(&self, at: usize) -> PathBuf {
        match self.args[at].starts_with('"') {
            true => bytes_path(&text(&self.args[at])),
            false => descriptor_path(&self.args[at]).1.join(bytes_path(&text(&self.args[at + 1]))),
        }
    }

    pub fn bytes(&self, at: usize) -> Vec<u8> {
        text(&self.args[at])
    }
}

/// The number of a descriptor, and the path of what it is open for; that is empty where the file is gone.
pub fn descriptor_path(arg: &str) -> (String, PathBuf) {
    let (number, path) = arg.split_once('<').unwrap_or((arg, ""));
    let path = path.strip_suffix('>').map(unhex).unwrap_or_default();
    (number.to_owned(), bytes_path(&path))
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned()
}

fn text(arg: &str) -> Vec<u8> {
    assert!(!arg.ends_with("..."), "a text was cut short");
    unhex(arg.trim_matches('"'))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    // Two digits after each "\x"; what isn't text, such as `pipe:[1]`, comes as text too.
    text.as_bytes().chunks(4).map(|four| digit(four[2]) << 4 | digit(four[3])).collect()
}

#[test]
fn a_log_is_understood() {
    let log = concat!(
        "7 openat(AT_FDCWD<\\x2f\\x74>, \"\\x61\", O_WRONLY|O_CREAT, 0600 <unfinished ...>\n",
        "8 mkdir(\"\\x2f\\x62\", 0777)   = -1 EEXIST (File exists)\n",
        "7 <... openat resumed>)             = 6<\\x2f\\x74\\x2f\\x61>\n",
        "8 fsync(6<\\x2f\\x74\\x2f\\x61>)    = ?\n",
        "8 +++ killed by SIGKILL +++\n",
    );
    let (calls, at) = parse(log, 10);
    let seen: Vec<_> = calls.iter().map(|call| (&*call.name, call.began, call.ended, call.result.is_some())).collect();
    assert_eq!(seen, [("openat", 11, Some(14), true), ("fsync", 15, None, false)]);
    assert_eq!((calls[0].path(0), calls[0].has("O_CREAT"), at), ("/t/a".into(), true, 16));
    assert_eq!(descriptor_path(&calls[1].args[0]), ("6".to_owned(), "/t/a".into()));
}
