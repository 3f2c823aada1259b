//! The program that goes into the image, and the processors that it runs on.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The architectures that an image can be made for: always that of the machine it is made on, as Debian's packages run
/// their scripts while they are installed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub fn of_this_machine() -> Result<Arch> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Arch::Amd64),
            "aarch64" => Ok(Arch::Arm64),
            other => bail!("images are made for x86_64 and aarch64, and this machine is {other}"),
        }
    }

    /// As the image specification, Debian and Go call it.
    pub fn oci(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// `e_machine` of the ELF specification.
    fn elf(self) -> u16 {
        match self {
            Arch::Amd64 => 62,
            Arch::Arm64 => 183,
        }
    }
}

/// The program that was asked for, else the one to distribute.
pub fn find(given: Option<&Path>, target: &Path, arch: Arch) -> Result<PathBuf> {
    let (path, hint) = match given {
        Some(path) => (path.to_owned(), "--binary names a program tombolo"),
        None => (target.join("dist/tombolo"), "cargo build --profile dist makes it; --binary PATH takes another one"),
    };
    ensure!(path.is_file(), "the image needs the program, and there is no {}\nhint: {hint}", path.display());
    check(&path, arch)?;
    Ok(path)
}

/// A program for another machine would only fail once the image is used.
fn check(path: &Path, arch: Arch) -> Result<()> {
    const HEAD_BYTES: u64 = 20;
    let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head).with_context(|| format!("can't read {}", path.display()))?;
    let machine = match head.as_slice() {
        [0x7f, b'E', b'L', b'F', .., low, high] if head.len() as u64 == HEAD_BYTES => u16::from_le_bytes([*low, *high]),
        _ => bail!("{} is no program for Linux (ELF)\nhint: --binary names a program tombolo", path.display()),
    };
    ensure!(
        machine == arch.elf(),
        "{} is for other processors than the image's, which are {} (ELF machine {machine}, not {})\n\
         hint: make the image on a machine of the program's kind",
        path.display(),
        arch.oci(),
        arch.elf()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_for_these_processors_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let missing = find(None, dir.path(), Arch::Amd64).unwrap_err().to_string();
        assert!(missing.contains("dist/tombolo\nhint: cargo build --profile dist"), "{missing}");

        let program = dir.path().join("program");
        let mut elf = [0; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 183;
        std::fs::write(&program, elf).unwrap();
        assert_eq!(find(Some(&program), dir.path(), Arch::Arm64).unwrap(), program);
        let other = find(Some(&program), dir.path(), Arch::Amd64).unwrap_err().to_string();
        assert!(other.contains("ELF machine 183, not 62"), "{other}");

        for text in ["#!/bin/sh\nexec something that is long enough\n", "", "\x7fELF"] {
            std::fs::write(&program, text).unwrap();
            let script = find(Some(&program), dir.path(), Arch::Amd64).unwrap_err().to_string();
            assert!(script.contains("is no program for Linux"), "{script}");
        }
    }
}
