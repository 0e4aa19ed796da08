#!/usr/bin/env bash
# Builds the image with buildah, where there is no Docker: deploy/image.sh [NAME]
#
#   BASE           the base image; a minimal Debian with Python is made by debootstrap when absent
#   PIP_CERT, PIP_INDEX_URL   passed on to pip, for a package index of one's own
#
# It needs root, or a user for whom debootstrap and buildah work.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
NAME=${1:-localhost/kserve}
DEBIAN_BASE=localhost/kserve-base

for tool in buildah debootstrap; do
  command -v "$tool" > /dev/null || { echo "$tool is missing; on Debian and Ubuntu: apt install $tool" >&2; exit 3; }
done

make_base() {
  local folder container mirror
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' RETURN
  # The mirror that this machine itself uses, if it is a Debian.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 2> /dev/null | grep -m1 '/debian/\?$' || true)
  debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$folder/base" $mirror > "$folder/log" ||
    { tail -20 "$folder/log" >&2; return 1; }
  umount --quiet "$folder/base/proc" "$folder/base/sys" || true
  # What Debian's own slim images leave out as well.
  rm -rf "$folder"/base/var/{cache/apt,lib/apt/lists,log}/* "$folder"/base/usr/share/{doc,man,info,locale}/*
  tar -C "$folder/base" --one-file-system -cf "$folder/base.tar" .
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$folder/base.tar" / > /dev/null
  buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah commit --quiet --rm "$container" "$DEBIAN_BASE" > /dev/null
}

if [ -z "${BASE:-}" ]; then
  BASE=$DEBIAN_BASE
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || make_base
fi

arguments=(--format docker --network host --build-arg "BASE=$BASE")
if [ -n "${PIP_CERT:-}" ]; then
  arguments+=(-v "$PIP_CERT:/run/pip.crt:ro" --build-arg PIP_CERT=/run/pip.crt)
fi
if [ -n "${PIP_INDEX_URL:-}" ]; then
  arguments+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL")
fi
buildah build "${arguments[@]}" --tag "$NAME" .
