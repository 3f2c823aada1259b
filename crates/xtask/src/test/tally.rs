//! Counting what libtest prints.

use std::collections::BTreeSet;

/// What came of one or more test programs.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub passed: usize,
    /// `program: test`, or `program: what became of it`.
    pub failed: Vec<String>,
    /// `program: test`, with the reason where there is one: what is ignored, and what says itself that it, or a part of
    /// it, couldn't be tried here. None of these counts as passed.
    pub skipped: Vec<String>,
    pub programs: usize,
    /// The program that is running.
    program: String,
    failed_before: usize,
    passed_by_line: usize,
    passed_by_result: usize,
    part: Part,
    /// Tests of this program that left something out.
    left_out: BTreeSet<String>,
}

/// Where in a program's output its lines stand.
#[derive(Debug, Default, Clone, PartialEq)]
enum Part {
    #[default]
    Tests,
    /// The outputs of the tests that passed; the test whose output it is.
    Outputs(String),
    /// Their names, once more.
    Names,
}

/// What a test writes at the beginning of a line that says what it left out, and why.
const LEFT_OUT: &str = "SKIPPED: ";

impl Tally {
    pub fn start(&mut self, program: &str) {
        self.program = program.to_owned();
        self.programs += 1;
        self.failed_before = self.failed.len();
        (self.passed_by_line, self.passed_by_result) = (0, 0);
        (self.part, self.left_out) = (Part::Tests, BTreeSet::new());
    }

    /// Takes in one line of output. A test's own output may come before or within its line when it isn't captured,
    /// which is why the closing line's count is believed over that of the lines. Answers whether it is worth showing:
    /// what a test that passed has printed is only where it says what was left out.
    pub fn line(&mut self, line: &str) -> bool {
        match (&self.part, line) {
            (Part::Tests, "successes:") => self.part = Part::Outputs(String::new()),
            // A test may print whatever looks like libtest's own lines.
            (Part::Outputs(_), "successes:") => self.part = Part::Names,
            (Part::Outputs(test), line) => {
                if let Some(why) = line.strip_prefix(LEFT_OUT) {
                    self.skipped.push(format!("{}: {test}: {why}", self.program));
                    self.left_out.insert(test.clone());
                    return true;
                }
                let name = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
                if let Some(name) = name {
                    self.part = Part::Outputs(name.to_owned());
                }
            }
            (Part::Names, line) if line.starts_with("    ") => {}
            (Part::Tests | Part::Names, line) => {
                self.part = Part::Tests;
                self.test_line(line);
                return true;
            }
        }
        false
    }

    fn test_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed_by_result += count(result, "passed");
            return;
        }
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            return;
        };
        match outcome {
            "ok" => self.passed_by_line += 1,
            "FAILED" => self.failed.push(format!("{}: {name}", self.program)),
            _ => {
                if let Some(reason) = outcome.strip_prefix("ignored") {
                    self.skipped.push(format!("{}: {name}{}", self.program, reason.replacen(',', ":", 1)));
                }
            }
        }
    }

    /// The program has ended; `fault` is empty if it ended well.
    pub fn end(&mut self, fault: &str) {
        self.passed += self.passed_by_result.max(self.passed_by_line).saturating_sub(self.left_out.len());
        // A program that crashed has named no failed test, and must count all the same.
        if !fault.is_empty() && self.failed.len() == self.failed_before {
            self.failed.push(format!("{}: {fault}", self.program));
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed.extend(other.failed.iter().cloned());
        self.skipped.extend(other.skipped.iter().cloned());
        self.programs += other.programs;
    }
}

/// The number before a word: 3 in `ok. 3 passed; 0 failed` for `passed`.
fn count(text: &str, word: &str) -> usize {
    let words: Vec<&str> = text.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str, fault: &str) -> Tally {
        let mut tally = Tally::default();
        tally.start("core");
        for line in lines.lines() {
            tally.line(line);
        }
        tally.end(fault);
        tally
    }

    #[test]
    fn a_programs_lines_are_counted() {
        let lines = "\nrunning 4 tests\ntest ids::names ... ok\ntest a ... FAILED\ntest b ... ignored\n\
                     test c ... ignored, needs a GPU\n\nfailures:\n    a\n\n\
                     test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let tally = tally(lines, "ended with exit status: 101");
        assert_eq!((tally.passed, tally.programs), (1, 1));
        assert_eq!(tally.failed, ["core: a"]);
        assert_eq!(tally.skipped, ["core: b", "core: c: needs a GPU"]);
    }

    #[test]
    fn what_a_test_left_out_is_told_and_does_not_count() {
        let lines = "test a ... ok\ntest b ... ok\ntest c ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\n\
                     test z ... FAILED\ntest result: FAILED. 9 passed; 9 failed\n\n---- b stdout ----\n\
                     SKIPPED: no root\nSKIPPED: no network\n\n\nsuccesses:\n    a\n    b\n    c\n\n\
                     test result: ok. 3 passed; 0 failed";
        let told = tally(lines, "");
        assert_eq!((told.passed, told.failed.len()), (2, 0));
        assert_eq!(told.skipped, ["core: b: no root", "core: b: no network"]);
        let mut shown = Tally::default();
        shown.start("core");
        let shown: Vec<_> = lines.lines().filter(|line| !line.is_empty() && shown.line(line)).collect();
        let last = "test result: ok. 3 passed; 0 failed";
        let tests = ["test a ... ok", "test b ... ok", "test c ... ok"];
        assert_eq!(shown, [&tests[..], &["SKIPPED: no root", "SKIPPED: no network", last]].concat());
        // Of one that failed everything is shown.
        let mut failed = Tally::default();
        failed.start("core");
        let lines = ["successes:", "successes:", "    a", "failures:", "---- b stdout ----", "why"];
        let shown: Vec<_> = lines.into_iter().filter(|line| failed.line(line)).collect();
        assert_eq!(shown, ["failures:", "---- b stdout ----", "why"]);
    }

    #[test]
    fn a_crash_counts_as_a_failure() {
        let tally = tally("test a ... ok", "ended with signal: 6 (SIGABRT)");
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["core: ended with signal: 6 (SIGABRT)"]);
    }

    #[test]
    fn the_closing_line_is_believed_where_output_has_garbled_the_others() {
        assert_eq!(tally("test a ... noise ok\ntest result: ok. 2 passed; 0 failed", "").passed, 2);
    }
}
