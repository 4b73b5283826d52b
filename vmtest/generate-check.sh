#!/bin/sh
# Compiles the BPF programs in a copy of the tree and compares with what is committed, so that the
# tree itself is left alone.
set -eu

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r --parents go.mod go.sum bpf vmtest/flood "$copy"
(cd "$copy" && ${GO:-go} generate ./bpf ./vmtest/flood)
if ! diff -rq bpf "$copy/bpf" || ! diff -rq vmtest/flood "$copy/vmtest/flood"; then
	echo "the committed BPF objects differ from their source: run make generate and commit" >&2
	exit 1
fi
