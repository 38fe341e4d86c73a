#!/usr/bin/env bash
# Gets a server out of Debian's packages, of the release that has its version,
# without installing any:
#
#   unpack.sh redis:7.0|redis:8.0|valkey:9 FOLDER
#
# FOLDER, made anew, becomes a root with the server, its command line and the
# libraries they load, and nothing else. FOLDER/redis-server, or valkey-server,
# starts it where it lies, on whatever release this machine has:
#
#   PENSTOCK_TEST_SERVERS=redis:8.0=FOLDER/redis-server make integration
#
# It takes a Debian machine, for its apt and the mirror it is set up with.
set -euo pipefail

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

(($# == 2)) || die "usage: ${0##*/} redis:7.0|redis:8.0|valkey:9 FOLDER"
case $1 in
redis:7.0) suite=bookworm name=redis ;;
redis:8.0) suite=trixie name=redis ;;
valkey:9) suite=sid name=valkey ;;
*) die "unknown server $1: it takes redis:7.0, redis:8.0 and valkey:9" ;;
esac
folder=$(realpath -m "$2")
[[ $folder != *:* ]] || die "$folder: a colon ends a path in a list of libraries' folders"
[ ! -e "$folder" ] || [ -d "$folder" ] || die "$folder is no folder"
command -v apt-get >/dev/null || die "this machine has no apt-get: it takes a Debian"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{state/lists/partial,cache/archives/partial,root}

# A package manager of its own, which knows of no installed package and so fetches whatever the server needs.
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | grep -v security | head -n 1)
[ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list 2>/dev/null | grep -v security | head -n 1)
[ -n "$mirror" ] || die "no mirror of Debian is set up in /etc/apt"
printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" >"$tmp/sources"
: >"$tmp/status"
apt=(apt-get -qq
	-o Dir::Etc::sourcelist="$tmp/sources" -o Dir::Etc::sourceparts=-
	-o Dir::State="$tmp/state" -o Dir::State::status="$tmp/status" -o Dir::Cache="$tmp/cache"
	-o APT::Install-Recommends=0 -o APT::Sandbox::User=root -o Acquire::Languages=none)
"${apt[@]}" update
"${apt[@]}" install --yes --download-only "$name-server"

# Packages of releases that moved /bin and /lib into /usr lie beside those of older ones.
for dir in bin sbin lib lib64; do
	mkdir -p "$tmp/root/usr/$dir"
	ln -s "usr/$dir" "$tmp/root/$dir"
done
for package in "$tmp"/cache/archives/*.deb; do
	dpkg-deb --fsys-tarfile "$package" | tar -x -C "$tmp/root" --keep-directory-symlink --exclude='./usr/share' --exclude='./etc' --exclude='./var'
done

# The loader lists the libraries a program loads.
shopt -s nullglob
loaders=("$tmp"/root/usr/lib64/ld-linux* "$tmp"/root/usr/lib/ld-linux*)
((${#loaders[@]})) || die "the packages of $1 have no loader"
loader=${loaders[0]#"$tmp/root"}
libraries=$(printf '%s:' "$tmp"/root/usr/lib/*-linux-gnu* "$tmp/root/usr/lib")
rm -rf "$folder"
mkdir -p "$folder/usr/bin" "$folder/usr/lib"
ln -s usr/bin "$folder/bin"
ln -s usr/lib "$folder/lib"
mkdir -p "$folder$(dirname "$loader")"
cp -L "$tmp/root$loader" "$folder$loader"
[ -e "$folder/lib64" ] || [ ! -e "$folder/usr/lib64" ] || ln -s usr/lib64 "$folder/lib64"
for program in "$name-server" "$name-cli"; do
	cp -L "$tmp/root/usr/bin/$program" "$folder/usr/bin/$program"
	used=$("$tmp/root$loader" --library-path "$libraries" --list "$tmp/root/usr/bin/$program")
	while read -r library; do
		cp -L "$library" "$folder/usr/lib/"
	done < <(grep -oE "$tmp/root[^ ]+\.so[^ ]*" <<<"$used" | grep -v "$loader" | sort -u)
	cat >"$folder/$program" <<-SCRIPT
		#!/bin/sh
		here=\$(dirname "\$(readlink -f "\$0")")
		exec "\$here$loader" --library-path "\$here/usr/lib" "\$here/usr/bin/$program" "\$@"
	SCRIPT
	chmod 755 "$folder/$program"
done

# What sid has today need not be what it had when this was written.
version=$("$folder/$name-server" --version)
[[ $version =~ \ v=([^ ]+) ]] || die "$name-server --version says: $version"
[[ ${BASH_REMATCH[1]} == "${1#*:}".* ]] || die "Debian $suite has $name ${BASH_REMATCH[1]}, not ${1#*:}"
