//! What an image is called: `NAME:TAG`, and in full with the registry's host, as container engines know it.

use std::str::FromStr;

use anyhow::{Result, bail, ensure};

/// Longest tag, by the distribution specification.
const TAG_BYTES_MAX: usize = 128;
/// Longest name, by what most registries take.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq)]
pub struct Name {
    /// As it was given.
    name: String,
    pub tag: String,
}

impl Name {
    /// With the host and path that engines add where a name has none: a kubelet looks for an image under this name.
    pub fn full(&self) -> String {
        let Name { name, tag } = self;
        match name.split_once('/') {
            Some((host, _)) if is_host(host) => format!("{name}:{tag}"),
            Some(_) => format!("docker.io/{name}:{tag}"),
            None => format!("docker.io/library/{name}:{tag}"),
        }
    }
}

fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Name> {
        let Some((name, tag)) = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
            bail!("{text:?} has no tag; hint: NAME:TAG, such as tombolo:{}", env!("CARGO_PKG_VERSION"));
        };
        let tag_fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        ensure!(
            !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && tag.chars().all(tag_fits) && !tag.starts_with(['.', '-']),
            "{tag:?} is no tag; hint: letters, digits and _ . - after the first, {TAG_BYTES_MAX} at most"
        );
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => ("", name),
        };
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
        let part_fits = |part: &str| part.chars().all(fits) && !part.trim_matches(['_', '.', '-']).is_empty();
        let host_fits = host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-".contains(c));
        ensure!(
            name.len() <= NAME_BYTES_MAX && host_fits && path.split('/').all(part_fits),
            "{name:?} is no image's name; hint: lower case letters, digits and _ . - in parts that / separates"
        );
        Ok(Name { name: name.to_owned(), tag: tag.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_full() {
        for (given, full) in [
            ("tombolo:0.1.0", "docker.io/library/tombolo:0.1.0"),
            ("us/tombolo:v1", "docker.io/us/tombolo:v1"),
            ("registry.example.org/tombolo:v1", "registry.example.org/tombolo:v1"),
            ("localhost:5000/a/b:x_Y", "localhost:5000/a/b:x_Y"),
        ] {
            assert_eq!(given.parse::<Name>().unwrap().full(), full);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_hint() {
        for text in ["tombolo", "localhost:5000/tombolo", "tombolo:", "Tombolo:1", "a//b:1", "a@sha256:1", "a:.x", ":1"]
        {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("hint: "), "{text}: {error}");
        }
        assert!(format!("a:{}", "x".repeat(TAG_BYTES_MAX + 1)).parse::<Name>().is_err());
    }
}
