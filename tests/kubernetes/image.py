#!/usr/bin/env python3
"""Makes an OCI archive of one layer out of a directory; the same directory always gives the same bytes.

The archive is what `ctr image import` and `docker load` (25 and later) read: an OCI image layout in a tar file
(https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md). The image's digest is printed.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def main():
    asked = arguments()
    # The layer may be larger than memory likes, so it goes through a file.
    with tempfile.TemporaryFile() as layer_file:
        pack(asked.rootdir, layer_file)
        layer = describe_file(LAYER, layer_file)
        config_bytes = to_json(config_of(asked, layer["digest"]))
        config = describe(CONFIG, config_bytes)
        manifest_bytes = to_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]})
        manifest = describe(MANIFEST, manifest_bytes)
        manifest["annotations"] = {
            # containerd takes an image's name from its own annotation; the standard one holds the tag alone.
            "io.containerd.image.name": asked.name,
            "org.opencontainers.image.ref.name": tag_of(asked.name),
        }
        index_bytes = to_json({"schemaVersion": 2, "manifests": [manifest]})

        # Written beside its place and renamed, so that a reader never sees half an archive.
        unfinished = asked.out + ".unfinished"
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as archive:
            add(archive, "oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))
            add(archive, "index.json", index_bytes)
            add(archive, blob(manifest), manifest_bytes)
            add(archive, blob(config), config_bytes)
            layer_file.seek(0)
            add_stream(archive, blob(layer), layer_file, layer["size"])
        os.replace(unfinished, asked.out)
    print(manifest["digest"])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT.tar")
    parser.add_argument("name", metavar="NAME:TAG", help="with the registry's host, e.g. example.test/busybox:1")
    parser.add_argument("rootdir", metavar="ROOTDIR", help="becomes the image's /")
    parser.add_argument("--entrypoint", action="append", default=[], metavar="WORD", help="one word of it; repeatable")
    parser.add_argument("--user", default="", metavar="UID[:GID]", help="root unless given")
    asked = parser.parse_args()
    if not os.path.isdir(asked.rootdir):
        parser.error(f"{asked.rootdir} is not a directory")
    if not tag_of(asked.name):
        parser.error(f"{asked.name} has no tag")
    return asked


def tag_of(name):
    """The part after the last colon, which must not be a registry's port."""
    _, colon, tag = name.rpartition(":")
    return tag if colon and "/" not in tag else ""


def pack(rootdir, file):
    """Writes the directory as a layer. `add` walks in sorted order by itself."""

    def without_origin(entry):
        entry.mtime = 0
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        if entry.name == ".":
            # The directory often comes from mktemp, whose mode lets nobody but its owner in: a container
            # whose user isn't root could then reach nothing.
            entry.mode = 0o755
        return entry

    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as layer:
        layer.add(rootdir, arcname=".", filter=without_origin)


def config_of(asked, layer_digest):
    run = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    if asked.entrypoint:
        run["Entrypoint"] = asked.entrypoint
    if asked.user:
        run["User"] = asked.user
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def describe(media_type, content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def describe_file(media_type, file):
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return {"mediaType": media_type, "digest": "sha256:" + digest.hexdigest(), "size": file.tell()}


def blob(descriptor):
    return "blobs/" + descriptor["digest"].replace(":", "/")


def add(archive, name, content):
    add_stream(archive, name, io.BytesIO(content), len(content))


def add_stream(archive, name, stream, size):
    entry = tarfile.TarInfo(name)  # its times and owners are zero unless set
    entry.size = size
    archive.addfile(entry, stream)


if __name__ == "__main__":
    main()
