#!/bin/sh
# Bring all 3 million flights into data/flights-3m.parquet; needs npm.
set -eu

package=vega-datasets@3.2.1
sha256=dbeb920c90f59b6ccaff823dcc3d08f25a97fa1ce128d93f40be4e931f5900b0
target=$(cd "$(dirname "$0")" && pwd)/data/flights-3m.parquet

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm pack --silent "$package" >/dev/null
tar -xzf vega-datasets-3.2.1.tgz package/data/flights-3m.parquet
echo "$sha256  package/data/flights-3m.parquet" | sha256sum -c - >&2
mkdir -p "$(dirname "$target")"
mv package/data/flights-3m.parquet "$target"
