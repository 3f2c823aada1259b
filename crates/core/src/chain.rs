//! Errors with what they come from, on one line.

use std::error::Error;

/// An error's text with those of its causes, save what it has said itself: the outer error of a client often says just
/// what was tried.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
    causes.map(ToString::to_string).fold(error.to_string(), |told, cause| match told.contains(&cause) {
        true => told,
        false => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] Option<Box<Outer>>);

    #[test]
    fn causes_are_told_once() {
        let inner = |text, cause: Option<Outer>| Outer(text, cause.map(Box::new));
        let deep = inner("no answer", Some(inner("connection refused", Some(inner("refused", None)))));
        assert_eq!(chain(&deep), "no answer: connection refused");
        assert_eq!(chain(&inner("alone", None)), "alone");
    }
}
