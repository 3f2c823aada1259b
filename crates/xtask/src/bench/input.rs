//! The inputs, made anew from fixed seeds: the same bytes everywhere and every time.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Context, peers};
use crate::process;

const TABLES: &str = include_str!("tables.py");

/// Tables of flights, half of them CSV and half Parquet, of about so many bytes. With `changed`, one row in a hundred
/// has other values: in runs of neighbours spread over all files, as corrections of single days come.
pub fn tables(ctx: &Context, name: &str, bytes: u64, changed: bool) -> Result<PathBuf> {
    let dir = ctx.fresh(name)?;
    let script = ctx.path("tables.py");
    std::fs::write(&script, TABLES).context("can't write the script that makes the tables")?;
    let mut python = process::command(peers::python(peers::ARROW, "python")?);
    python.arg(&script).arg(&dir).arg(bytes.to_string()).arg(if changed { "1" } else { "0" });
    process::run(&mut python)?;
    Ok(dir)
}

/// Small files of 200 bytes to 8 KiB, a hundred in a directory, of text that compresses to about a half.
pub fn small_files(ctx: &Context, name: &str, files: u64) -> Result<PathBuf> {
    let dir = ctx.fresh(name)?;
    let mut random = Random(7);
    let mut text = Vec::new();
    for number in 0..files {
        let parent = dir.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&parent).with_context(|| format!("can't create {}", parent.display()))?;
        }
        text.clear();
        let bytes = 200 + (random.next() % 8_000) as usize;
        while text.len() < bytes {
            // Sixteen hexadecimal digits hold eight bytes' worth.
            write!(text, "{:016x}", random.next())?;
        }
        text.truncate(bytes);
        let path = parent.join(format!("{number:06}.txt"));
        std::fs::write(&path, &text).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(dir)
}

/// Reads a tree once, so that each side finds it in the kernel's cache and none pays for filling it.
pub fn warm(tree: &Path) -> Result<()> {
    let entries = std::fs::read_dir(tree).with_context(|| format!("can't list {}", tree.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            warm(&path)?;
        } else {
            std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        }
    }
    Ok(())
}

/// One file of random bytes: nothing in it compresses or repeats.
pub fn random_file(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("can't create {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut random = Random(seed);
    for _ in 0..bytes / 8 {
        out.write_all(&random.next().to_le_bytes())?;
    }
    out.flush().with_context(|| format!("can't write {}", path.display()))
}

/// The same in memory.
pub fn random_bytes(bytes: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..bytes / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_files_are_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            random_file(&dir.path().join(name), 4096, 3).unwrap();
            std::fs::read(dir.path().join(name)).unwrap()
        };
        let first = made("a");
        assert_eq!(first.len(), 4096);
        assert_eq!(first, made("b"));
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
