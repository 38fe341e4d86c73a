#!/usr/bin/env bash
# Makes sure that Docker has the images of the servers that tests run:
#
#   make.sh [redis:7.0|redis:8.0|valkey:9 …]     all three by default
#
# An image that is there stays; one that is not is pulled; and where no registry
# can be reached it is made from Debian's packages, under the name it would have
# had. It takes a Docker daemon; making an image takes a Debian machine with busybox.
set -euo pipefail

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# from_packages KIND IMAGE: an image that behaves like the official one
from_packages() {
	local root=$tmp/${1%%:*} server busybox applet
	busybox=$(command -v busybox) || die "no busybox for the shell of $2: apt-get install busybox-static"
	"$here/unpack.sh" "$1" "$root"
	server=${1%%:*}-server
	rm "$root"/*-server "$root"/*-cli # where they lie is where they belong
	mkdir -p "$root"/{data,tmp,etc}
	echo 'root:x:0:0::/data:/bin/sh' >"$root/etc/passwd"
	cp -L "$busybox" "$root/usr/bin/busybox"
	for applet in sh cat ls grep awk sed sleep echo tail kill id; do ln -s busybox "$root/usr/bin/$applet"; done
	cat >"$root/usr/bin/entrypoint" <<-SCRIPT
		#!/bin/sh
		# Bare arguments are the server's, and it is not protected: published ports would not work.
		case "\$1" in -* | *.conf) set -- $server "\$@" ;; esac
		case "\$*" in *--sentinel*) ;; $server*) set -- "\$@" --protected-mode no ;; esac
		exec "\$@"
	SCRIPT
	chmod 755 "$root/usr/bin/entrypoint"
	tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/bin:/bin' \
		-c 'WORKDIR /data' -c 'VOLUME /data' -c 'EXPOSE 6379' -c 'ENTRYPOINT ["entrypoint"]' -c "CMD [\"$server\"]" - "$2" >/dev/null
	docker run --rm "$2" sh -c "$server --version" >/dev/null || die "the image made of $1 does not run (busybox has to be the static one)"
}

docker info >/dev/null 2>&1 || die "no Docker daemon answers"
(($#)) || set -- redis:7.0 redis:8.0 valkey:9
for kind; do
	case $kind in
	redis:7.0 | redis:8.0) image=$kind ;;
	valkey:9) image=valkey/valkey:9 ;;
	*) die "unknown server $kind: it takes redis:7.0, redis:8.0 and valkey:9" ;;
	esac
	if docker image inspect "$image" >/dev/null 2>&1; then
		echo "$image is there"
	elif timeout 30 docker pull --quiet "$image" >/dev/null 2>"$tmp/pull"; then
		echo "$image was pulled"
	else
		echo "$image cannot be pulled ($(tail -n 1 "$tmp/pull")), making it"
		from_packages "$kind" "$image"
		echo "$image was made"
	fi
done
