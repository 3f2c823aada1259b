//! `cargo xtask image`: the runner's default image as an OCI archive, made without a container engine.
//!
//! Three layers: Debian with Python ([`base`]), [`uv`], and the program. The same inputs give the same bytes, hence the
//! same digest, whenever and wherever it is made: members are sorted and their times clamped ([`layer`]), the
//! compressor is a given one ([`blob`]), and nothing of this machine is written ([`config`], [`archive`]).

mod archive;
mod base;
mod binary;
mod blob;
mod config;
mod layer;
mod name;
mod sources;
mod steps;
mod uv;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::process;
use archive::{Image, Layer};
use blob::Blob;
use layer::{Content, Kind, Member};
use name::Name;
use steps::Steps;

const TAG: &str = concat!("tombolo:", env!("CARGO_PKG_VERSION"));

#[derive(clap::Args)]
pub struct Args {
    /// The program to put in; without it the one that `cargo build --profile dist` made
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where the archive goes; without it `image/` in cargo's target directory
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the image is called once it is loaded
    #[arg(long, value_name = "NAME:TAG", default_value = TAG)]
    tag: Name,
    /// Leave the layers uncompressed: for tries, with a program that is large because it wasn't built to be distributed
    #[arg(long)]
    uncompressed: bool,
    /// Make the base anew although the cache has it: it gets Debian's updates since then, and the image another digest
    #[arg(long)]
    renew: bool,
    /// Print what was made as JSON; the steps are told on stderr all the same
    #[arg(long)]
    json: bool,
}

/// What is told at the end.
#[derive(Serialize)]
struct Report {
    archive: PathBuf,
    bytes: u64,
    /// Of the image's manifest: what a cluster pins the image by.
    digest: String,
    name: String,
    platform: String,
    layers: Vec<LayerReport>,
    steps: Vec<steps::Step>,
}

#[derive(Serialize)]
struct LayerReport {
    made_by: String,
    digest: String,
    bytes: u64,
}

/// Of one program, quickly, to be tried.
pub fn of(root: &Path, program: &Path, out: &Path) -> Result<()> {
    let (binary, out) = (Some(program.to_owned()), Some(out.to_owned()));
    run(root, &Args { binary, out, tag: TAG.parse()?, uncompressed: true, renew: false, json: false })
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let target = target_dir(root)?;
    // What is quickly found to be missing is told before the minutes of work.
    let arch = binary::Arch::of_this_machine()?;
    let binary = binary::find(args.binary.as_deref(), &target, arch)?;
    let recipe = base::Recipe::of_this_machine(arch)?;
    let out = args.out.clone().unwrap_or_else(|| default_out(&target, arch));
    let out_dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(out_dir).with_context(|| format!("can't make {}", out_dir.display()))?;
    let cache = process::cache_dir()?.join("image");
    std::fs::create_dir_all(&cache).with_context(|| format!("can't make {}", cache.display()))?;
    let scratch = tempfile::tempdir_in(&cache).with_context(|| format!("can't write to {}", cache.display()))?;

    let mut steps = Steps::default();
    let base = base::bring(&recipe, &cache, scratch.path(), args.renew, &mut steps)?;
    let uv = uv::bring(arch, &cache, scratch.path(), &mut steps)?;
    let program = steps.time("program", || {
        let members = vec![Member::program("usr/local/bin/tombolo", &binary)?];
        let blob = layer::pack(members, &scratch.path().join("program.tar"))?;
        Ok((format!("from {}", binary.display()), blob))
    })?;
    let plain = [(recipe.shown(), base), (uv::shown(), uv), ("the program tombolo".to_owned(), program)];
    let layers = plain.map(|(made_by, blob)| -> Result<Layer> {
        if args.uncompressed {
            return Ok(Layer::plain(made_by, blob));
        }
        let packed = steps.time("compression", || gzip(&blob, &made_by))?;
        Ok(Layer::gzip(made_by, &blob, packed))
    });
    let layers: Vec<Layer> = layers.into_iter().collect::<Result<_>>()?;
    let image = Image { layers: &layers, arch, name: &args.tag };
    let written = steps.time("archive", || {
        let written = archive::write(&image, &out)?;
        Ok((format!("{} layers", layers.len()), written))
    })?;
    let report = Report {
        archive: std::path::absolute(&out).unwrap_or(out),
        bytes: written.bytes,
        digest: written.digest,
        name: args.tag.full(),
        platform: format!("linux/{}", arch.oci()),
        layers: layers.into_iter().map(Layer::into).collect(),
        steps: steps.done,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.text());
    }
    Ok(())
}

/// Beside the layer, so that a layer that is kept in the cache is compressed once.
fn gzip(plain: &Blob, made_by: &str) -> Result<(String, Blob)> {
    let path = plain.file.with_extension("tar.gz");
    if let Some(kept) = Blob::kept(&path)? {
        return Ok((format!("{}, from the cache: {made_by}", steps::megabytes(kept.bytes)), kept));
    }
    let packed = plain.gzip(&path)?;
    packed.keep()?;
    Ok((format!("{} of {}: {made_by}", steps::megabytes(packed.bytes), steps::megabytes(plain.bytes)), packed))
}

/// As cargo has it configured, which needn't be in the checkout.
fn target_dir(root: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let mut cargo = process::cargo(root);
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata =
        serde_json::from_str(&process::output(&mut cargo)?).context("can't read cargo's metadata")?;
    Ok(metadata.target_directory)
}

fn default_out(target: &Path, arch: binary::Arch) -> PathBuf {
    target.join("image").join(format!("tombolo-{}-linux-{}.oci.tar", env!("CARGO_PKG_VERSION"), arch.oci()))
}

impl Member {
    /// A file that everybody may execute.
    fn program(path: &str, file: &Path) -> Result<Member> {
        let kind = Kind::File(Content::whole(file)?);
        Ok(Member { path: path.into(), mode: 0o755, uid: 0, gid: 0, mtime: layer::EPOCH, kind })
    }
}

impl From<Layer> for LayerReport {
    fn from(layer: Layer) -> LayerReport {
        LayerReport { made_by: layer.made_by, digest: layer.blob.digest, bytes: layer.blob.bytes }
    }
}

impl Report {
    fn text(&self) -> String {
        let Report { archive, bytes, digest, name, platform, .. } = self;
        let archive = archive.display();
        let size = steps::megabytes(*bytes);
        format!("{name} for {platform}\n  archive  {archive}\n  size     {size}\n  digest   {digest}")
    }
}
