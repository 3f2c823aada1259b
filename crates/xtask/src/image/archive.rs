//! The archive: an OCI image layout in a tar, which `ctr image import`, `skopeo` and `podman load` take.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tar::{Builder, EntryType, Header};

use super::binary::Arch;
use super::blob::{self, Blob};
use super::config;
use super::layer;
use super::name::Name;

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub struct Layer {
    /// For the image's history.
    pub made_by: String,
    /// The digest of the tar before it was compressed.
    pub diff_id: String,
    pub blob: Blob,
    media_type: &'static str,
}

impl Layer {
    pub fn plain(made_by: String, blob: Blob) -> Layer {
        Layer { made_by, diff_id: blob.digest.clone(), blob, media_type: LAYER }
    }

    pub fn gzip(made_by: String, plain: &Blob, packed: Blob) -> Layer {
        Layer { made_by, diff_id: plain.digest.clone(), blob: packed, media_type: LAYER_GZIP }
    }
}

pub struct Image<'a> {
    /// The lowest first.
    pub layers: &'a [Layer],
    pub arch: Arch,
    pub name: &'a Name,
}

#[derive(Debug, PartialEq)]
pub struct Written {
    /// Of the manifest.
    pub digest: String,
    /// Of the whole archive.
    pub bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

impl Descriptor {
    fn new(media_type: &'static str, digest: String, size: u64) -> Descriptor {
        Descriptor { media_type, digest, size, platform: None, annotations: BTreeMap::new() }
    }
}

/// Under its name only once it is whole.
pub fn write(image: &Image, out: &Path) -> Result<Written> {
    let what = || format!("can't write {}", out.display());
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut part = tempfile::NamedTempFile::new_in(dir).with_context(what)?;
    let digest = fill(image, part.as_file_mut()).with_context(what)?;
    let bytes = part.as_file().metadata().with_context(what)?.len();
    part.as_file().set_permissions(Permissions::from_mode(0o644)).with_context(what)?;
    part.persist(out).map_err(|error| error.error).with_context(what)?;
    Ok(Written { digest, bytes })
}

fn fill(image: &Image, out: &mut File) -> Result<String> {
    let config = serde_json::to_vec(&config::config(image.layers, image.arch))?;
    let config_digest = blob::digest(&config);
    let layer = |layer: &Layer| Descriptor::new(layer.media_type, layer.blob.digest.clone(), layer.blob.bytes);
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: Descriptor::new(CONFIG, config_digest.clone(), config.len() as u64),
        layers: image.layers.iter().map(layer).collect(),
    })?;
    let digest = blob::digest(&manifest);
    let index = serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: INDEX,
        manifests: [Descriptor {
            platform: Some(Platform { architecture: image.arch.oci(), os: "linux" }),
            annotations: BTreeMap::from([
                ("io.containerd.image.name", image.name.full()),
                ("org.opencontainers.image.ref.name", image.name.tag.clone()),
            ]),
            ..Descriptor::new(MANIFEST, digest.clone(), manifest.len() as u64)
        }],
    })?;

    let mut builder = Builder::new(BufWriter::new(out));
    append(&mut builder, "oci-layout", LAYOUT.len() as u64, LAYOUT.as_bytes())?;
    append(&mut builder, "index.json", index.len() as u64, index.as_slice())?;
    append(&mut builder, &blob_path(&digest), manifest.len() as u64, manifest.as_slice())?;
    append(&mut builder, &blob_path(&config_digest), config.len() as u64, config.as_slice())?;
    let mut there = BTreeSet::new();
    for Layer { blob, .. } in image.layers {
        if there.insert(&blob.digest) {
            let file = File::open(&blob.file).with_context(|| format!("can't read {}", blob.file.display()))?;
            let found = file.metadata()?.len();
            ensure!(found == blob.bytes, "{} changed from {} bytes to {found}", blob.file.display(), blob.bytes);
            append(&mut builder, &blob_path(&blob.digest), blob.bytes, file)?;
        }
    }
    builder.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(digest)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn append(builder: &mut Builder<impl io::Write>, path: &str, bytes: u64, content: impl io::Read) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(layer::EPOCH);
    header.set_size(bytes);
    builder.append_data(&mut header, path, content)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::PathBuf;

    use serde_json::Value;

    use super::super::layer::{Kind, Member};
    use super::*;

    /// An image of two small layers, the upper one compressed.
    fn make(dir: &Path, out: &str) -> (PathBuf, Written) {
        std::fs::write(dir.join("program"), "#!/bin/sh\n").unwrap();
        let home = Member { path: "home".into(), mode: 0o700, uid: 1, gid: 1, mtime: 0, kind: Kind::Directory };
        let lower = layer::pack(vec![home], &dir.join("lower.tar")).unwrap();
        let program = vec![Member::program("bin/program", &dir.join("program")).unwrap()];
        let upper = layer::pack(program, &dir.join("upper.tar")).unwrap();
        let packed = upper.gzip(&dir.join("upper.tar.gz")).unwrap();
        let layers = [Layer::plain("lower".to_owned(), lower), Layer::gzip("upper".to_owned(), &upper, packed)];
        let name = "us/tombolo:v1".parse().unwrap();
        let out = dir.join(out);
        let written = write(&Image { layers: &layers, arch: Arch::Arm64, name: &name }, &out).unwrap();
        (out, written)
    }

    fn members(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(File::open(archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        members
    }

    #[test]
    fn the_same_layers_give_the_same_archive() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (one, one_written) = make(dirs[0].path(), "one.tar");
        let (other, other_written) = make(dirs[1].path(), "other.tar");
        assert_eq!(one_written, other_written);
        assert_eq!(one_written.bytes, one.metadata().unwrap().len());
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    }

    #[test]
    fn whatever_is_named_by_its_digest_is_there_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, written) = make(dir.path(), "image.tar");
        let members = members(&archive);
        for (path, bytes) in members.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(*path, blob_path(&blob::digest(bytes)));
        }
        assert_eq!(members.len(), 2 + 4, "{:?}", members.keys());
        assert_eq!(members["oci-layout"], LAYOUT.as_bytes());
        let followed = |descriptor: &Value| {
            let bytes = &members[&blob_path(descriptor["digest"].as_str().unwrap())];
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let index: Value = serde_json::from_slice(&members["index.json"]).unwrap();
        let listed = &index["manifests"][0];
        assert_eq!(listed["digest"], written.digest.as_str());
        assert_eq!(listed["platform"], serde_json::json!({"architecture": "arm64", "os": "linux"}));
        let annotations = &listed["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/us/tombolo:v1");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "v1");

        let manifest: Value = serde_json::from_slice(followed(listed)).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], LAYER);
        assert_eq!(manifest["layers"][1]["mediaType"], LAYER_GZIP);
        let config: Value = serde_json::from_slice(followed(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "10001:10001");
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/tombolo"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        let diff_ids = &config["rootfs"]["diff_ids"];
        assert_eq!(diff_ids[0], blob::digest(followed(&manifest["layers"][0])));
        let mut upper = Vec::new();
        flate2::read::GzDecoder::new(followed(&manifest["layers"][1]).as_slice()).read_to_end(&mut upper).unwrap();
        assert_eq!(diff_ids[1], blob::digest(&upper));
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_layer_that_changed_makes_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let blob = Blob::write(&dir.path().join("layer.tar"), |writer| Ok(writer.write_all(b"abc")?)).unwrap();
        std::fs::write(&blob.file, "abcd").unwrap();
        let layers = [Layer::plain("it".to_owned(), blob)];
        let name = "tombolo:v1".parse().unwrap();
        let out = dir.path().join("image.tar");
        let error = write(&Image { layers: &layers, arch: Arch::Amd64, name: &name }, &out).unwrap_err();
        assert!(format!("{error:#}").contains("changed from 3 bytes to 4"), "{error:#}");
        assert!(!out.exists());
    }
}
