#!/bin/sh
# Installs the Debian packages that the node level of the real-server tests needs. Safe to run again; needs root.
set -eu
need=
for pair in containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables \
    conntrack:conntrack catatonit:catatonit busybox:busybox-static ip:iproute2 setpriv:util-linux; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || need="$need ${pair#*:}"
done
[ -n "$need" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "tests/e2e/setup.sh: missing:$need (install them; the node level is skipped without)" >&2
    exit 0
fi
apt-get update -q >/dev/null
# shellcheck disable=SC2086 # a list of words on purpose
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $need >/dev/null
