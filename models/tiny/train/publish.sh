#!/bin/sh
# Put a finished run into models/tiny: the checkpoint (gzip), the quantised bundle made from it, golden and held-out files.
#   publish.sh RUN_DIR      needs deno on the PATH, or DENO="npx -y deno@2.9.6"
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tiny=$(cd "$here/.." && pwd)
run=$(cd "$1" && pwd)
mkdir -p "$tiny/checkpoint"
cp "$run/hf/config.json" "$run/hf/generation_config.json" "$tiny/checkpoint/"
gzip -9 -n -c "$run/hf/model.safetensors" > "$tiny/checkpoint/model.safetensors.gz"
cd "$tiny/../.."
${DENO:-deno} task convert "$run/hf" models/tiny --dtype q8 --recipe models/tiny/recipe.json --force
