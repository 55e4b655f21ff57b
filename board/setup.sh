#!/bin/sh
# Finds or installs what building and testing Piton needs. Run by `make`; quick when nothing is missing.
#
#   sh board/setup.sh [tests] [packages]
#
# `tests` adds what `make test` needs: programs that talk with the machine, and mpremote from the package index that pip
# is configured for. `packages` is only the distribution's packages (as root, when the rest is built by another user).
#
# As root it installs packages with apt, from the suites this machine is configured for, and QEMU from the backports
# suite of the same mirror where the machine's own is older than 9. The machine's configuration is not changed: the
# package lists are kept in build/setup. Not as root it says what to install. Each step is skipped when done, and an
# interrupted one goes on at the next run. PITON_MIRROR names a Debian mirror where apt's configuration has none.
set -eu

cd "$(dirname "$0")/.."
STATE=$PWD/build/setup
TARGET=aarch64-unknown-none-softfloat
RUST_MINOR=95
QEMU_MAJOR=9
# How long rustup may take. Where it cannot reach its server it hangs.
RUSTUP_SECONDS=60

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- Packages -------------------------------------------------------------------------------------------------------

# Lists the Debian packages whose programs are missing. QEMU is handled apart because of its version.
missing_packages() {
    have cc || echo gcc
    [ -e /usr/include/stdio.h ] || [ ! -e /etc/debian_version ] || echo libc6-dev
    have timeout || echo coreutils
    have mkfs.erofs || echo erofs-utils
    have dtc || echo device-tree-compiler
    have aarch64-linux-gnu-gcc || echo gcc-aarch64-linux-gnu
    [ -e /usr/aarch64-linux-gnu/include/stdio.h ] || [ "$(uname -m)" = aarch64 ] || echo libc6-dev-arm64-cross
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ ! -e /etc/debian_version ] || echo ca-certificates
}

# Lists the Debian packages of programs that only the tests run, which are missing.
missing_test_packages() {
    have python3 || echo python3
    # Debian has the module that makes an environment, and pip in it, in a package of its own.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    have curl || echo curl
    # The other programs of this name have other options.
    nc -h 2>&1 | grep -q OpenBSD || echo netcat-openbsd
    have telnet || echo inetutils-telnet
    have iperf3 || echo iperf3
}

# Lists the QEMU packages to install: the machines, and the emulator that runs single programs of the target.
missing_qemu() {
    [ "$(qemu_major)" -ge $QEMU_MAJOR ] || echo qemu-system-arm
    # The default network card's ROM, without which QEMU does not start unless told to leave the card out.
    [ -e /usr/lib/ipxe/qemu/efi-virtio.rom ] || [ -e /usr/share/qemu/efi-virtio.rom ] || echo ipxe-qemu
    have qemu-aarch64 || [ "$(uname -m)" = aarch64 ] || echo qemu-user
}

# The major version of QEMU, 0 when there is none.
qemu_major() {
    have qemu-system-aarch64 || { echo 0; return; }
    qemu-system-aarch64 --version | sed -n '1s/^QEMU emulator version \([0-9]*\).*/\1/p'
}

# Prints `deb` lines for the Debian suites that apt is configured for here.
configured_suites() {
    if [ -n "${PITON_MIRROR:-}" ]; then
        echo "deb $PITON_MIRROR $CODENAME main"
        return
    fi
    format='$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)'
    targets=$(apt-get indextargets --format "$format")
    # Before the first `apt-get update` only the configuration can be listed, without the origins.
    [ -n "$targets" ] || targets=$(apt-get indextargets --no-release-info --format "$format")
    echo "$targets" | sort -u | while read -r kind uri suite component origin; do
        case "$kind $suite $origin" in
        "Packages $CODENAME"*\ Debian* | "Packages $CODENAME"*\ \$*) echo "deb $uri $suite $component" ;;
        esac
    done
}

# The mirror's address: that of the configured main suite.
mirror() {
    configured_suites | while read -r _ uri suite component; do
        if [ "$suite $component" = "$CODENAME main" ]; then
            echo "$uri"
            break
        fi
    done
}

# use_lists NAME: makes `apt` below use the sources in $STATE/NAME/sources.list and lists of their own.
use_lists() {
    LISTS=$STATE/$1
    mkdir -p "$LISTS/lists/partial" "$LISTS/cache/archives/partial"
    {
        echo "Dir::Etc::sourcelist \"$LISTS/sources.list\";"
        echo "Dir::Etc::sourceparts \"/dev/null\";"
        echo "Dir::State::lists \"$LISTS/lists\";"
        echo "Dir::Cache \"$LISTS/cache\";"
        # A mirror may serve an index past its date; its signature is checked all the same.
        echo "Acquire::Check-Valid-Until \"false\";"
        echo "APT::Update::Error-Mode \"any\";"
        # The lists may lie where apt's own user cannot go.
        echo "APT::Sandbox::User \"root\";"
    } >"$LISTS/apt.conf"
}

# Reads `deb URI SUITE COMPONENT` lines and makes them the sources of the chosen lists.
set_sources() {
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e $keyring ] && signed="deb [signed-by=$keyring]" || signed=deb
    sort -u | sed "s|^deb|$signed|" >"$LISTS/sources.list"
}

# apt get|cache ARGUMENTS: apt-get or apt-cache with the lists chosen by `use_lists`.
apt() {
    program=apt-$1
    shift
    "$program" -c "$LISTS/apt.conf" "$@"
}

update_lists() {
    apt get -q update >&2 ||
        die "the package lists cannot be fetched from $MIRROR; needed for: $*. Check the network or set PITON_MIRROR"
}

install_packages() {
    DEBIAN_FRONTEND=noninteractive apt get -q -y --no-install-recommends install "$@" >&2 ||
        die "apt could not install: $*"
}

packages() {
    missing=$({ missing_packages; [ -z "$TESTS" ] || missing_test_packages; } | xargs)
    qemu=$(missing_qemu | xargs)
    [ -n "$missing$qemu" ] || return 0

    CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    DEBIAN=$(sed -n 's/^ID=//p' /etc/os-release)
    RELEASE=$(sed -n 's/^VERSION_ID="\{0,1\}\([0-9]*\).*/\1/p' /etc/os-release)
    [ "$DEBIAN $RELEASE" = "debian 12" ] && backports=$CODENAME-backports || backports=
    if [ "$(id -u)" != 0 ] || ! have apt-get || [ "$DEBIAN" != debian ]; then
        say "install these (Debian's names) and run this again:"
        [ -z "$missing" ] || say "    $missing"
        [ -z "$qemu" ] || say "    $qemu, version $QEMU_MAJOR or newer${backports:+ (from $backports)}"
        have apt-get && [ "$DEBIAN" = debian ] && say "or let root do it: sh $PWD/board/setup.sh${TESTS:+ tests} packages"
        exit 1
    fi

    MIRROR=$(mirror)
    [ -n "$MIRROR" ] || die "apt is not configured for $CODENAME main; set PITON_MIRROR to a Debian mirror"
    say "installing: $missing $qemu"
    suites=$(configured_suites)
    use_lists apt
    {
        echo "$suites"
        [ -z "$qemu" ] || [ -z "$backports" ] || echo "deb $MIRROR $backports main"
    } | set_sources
    update_lists "$missing $qemu"
    # An installation that was interrupted is finished first.
    dpkg --configure -a >&2
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || install_packages $missing
    # shellcheck disable=SC2086
    [ -z "$qemu" ] || install_packages ${backports:+-t "$backports"} $qemu
    apt get clean
    [ "$(qemu_major)" -ge $QEMU_MAJOR ] ||
        die "qemu-system-aarch64 is version $(qemu_major), $QEMU_MAJOR or newer is needed and $MIRROR has none"
}

# --- Rust -----------------------------------------------------------------------------------------------------------

rust_version() { rustc --version | sed -n 's/^rustc \([0-9.]*\).*/\1/p'; }

rust() {
    have cargo && have rustc || die "Rust 1.$RUST_MINOR or newer is needed: install it with rustup"
    version=$(rust_version)
    minor=${version#1.}
    [ "${minor%%.*}" -ge $RUST_MINOR ] ||
        die "Rust is $version, 1.$RUST_MINOR or newer is needed: rustup update"
    SYSROOT=$(rustc --print sysroot)
    have_target && return 0

    if have rustup; then
        say "adding the Rust target $TARGET with rustup (at most $RUSTUP_SECONDS s)"
        timeout $RUSTUP_SECONDS rustup target add $TARGET >&2 || true
        have_target && return 0
        say "rustup could not; building the target's core and alloc from source"
    fi
    build_target
}

have_target() {
    for crate in core alloc compiler_builtins; do
        set -- "$SYSROOT/lib/rustlib/$TARGET/lib/lib$crate"-*.rlib
        [ -e "$1" ] || return 1
    done
}

# Builds core and alloc for the target from the matching source and puts them where rustup would.
build_target() {
    library=$SYSROOT/lib/rustlib/src/rust/library
    [ -w "$SYSROOT/lib/rustlib" ] || die "$SYSROOT/lib/rustlib cannot be written to; as its owner: rustup target add $TARGET"
    linked=
    if [ ! -e "$library/Cargo.toml" ]; then
        fetch_source
        mkdir -p "${library%/*}"
        ln -sfn "$STATE/rust-src/usr/src/rustc-$version/library" "$library"
        linked=$library
    fi
    mkdir -p "$STATE/std/src"
    cat >"$STATE/std/Cargo.toml" <<-END
	[package]
	name = "piton-target"
	edition = "2024"
	[workspace]
	[profile.release]
	panic = "abort"
	END
    echo '#![no_std]' >"$STATE/std/src/lib.rs"
    status=0
    (
        cd "$STATE/std"
        unset CARGO_TARGET_DIR RUSTFLAGS
        RUSTC_BOOTSTRAP=1 cargo build --release --target $TARGET -Zbuild-std=core,alloc --target-dir target >&2
    ) || status=$?
    [ -z "$linked" ] || rm "$linked"
    [ $status = 0 ] || die "core and alloc could not be built for $TARGET (see above; it needs the crates registry)"
    # Moved into place whole: half a copy would look like a target.
    place=$SYSROOT/lib/rustlib/$TARGET
    rm -rf "$place" "$place.partial"
    mkdir -p "$place.partial/lib"
    for crate in core alloc compiler_builtins; do
        set -- "$STATE/std/target/$TARGET/release/deps/lib$crate"-*.rlib
        cp "$@" "$place.partial/lib/"
    done
    mv "$place.partial" "$place"
    have_target || die "the build left no core and alloc for $TARGET"
    say "added $TARGET to $SYSROOT"
}

# Gets the Rust library's source of this very version: Debian's package of it, from the suites that carry new ones.
fetch_source() {
    [ ! -e "$STATE/rust-src/usr/src/rustc-$version/library/Cargo.toml" ] || return 0
    have apt-get && have dpkg-deb ||
        die "$TARGET needs rustup's server or the Rust source: rustup target add $TARGET, or rustup component add rust-src"
    CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    MIRROR=${PITON_MIRROR:-$(mirror)}
    [ -n "$MIRROR" ] || die "apt names no Debian mirror for rust-src $version; set PITON_MIRROR to one"
    use_lists rust
    for suite in trixie-backports forky sid; do
        say "looking for rust-src $version in $suite"
        echo "deb $MIRROR $suite main" | set_sources
        update_lists "rust-src $version"
        exact=$(apt cache madison rust-src | sed -n "s/^ *rust-src *| *\($version[+-][^ ]*\) .*/\1/p" | head -n 1)
        [ -z "$exact" ] || break
    done
    [ -n "$exact" ] || die "$MIRROR has no rust-src $version, and rustup cannot add $TARGET"
    (cd "$STATE" && apt get -q download "rust-src=$exact" >&2) || die "rust-src $exact cannot be fetched from $MIRROR"
    rm -rf "$STATE/rust-src.partial"
    dpkg-deb -x "$STATE"/rust-src_"$version"*.deb "$STATE/rust-src.partial"
    rm -rf "$STATE/rust-src"
    mv "$STATE/rust-src.partial" "$STATE/rust-src"
    rm "$STATE"/rust-src_"$version"*.deb
}

# Fetches the crates that Cargo.lock names, so that a missing network shows here and not in the middle of a build.
crates() {
    stamp=$STATE/crates.stamp
    [ Cargo.lock -nt "$stamp" ] || [ ! -e Cargo.lock ] || [ ! -e "$stamp" ] || return 0
    cargo fetch >&2 || die "the crates that Cargo.lock names cannot be fetched from the crates registry. Check the network"
    touch "$stamp"
}

# --- Programs of the tests ------------------------------------------------------------------------------------------

# Puts MicroPython's tool into an environment of its own.
mpremote() {
    place=$PWD/build/tools/mpremote
    [ ! -x "$place/bin/mpremote" ] || return 0
    say "fetching mpremote with pip"
    rm -rf "$place" "$place.partial"
    mkdir -p "${place%/*}"
    if ! python3 -m venv "$place.partial" >&2 || ! "$place.partial/bin/pip" install --quiet mpremote >&2; then
        say "pip cannot fetch mpremote from its index (\`pip config list\`); the test of it will fail"
        return 0
    fi
    # Its programs name the place they were made for.
    sed -i "1s|$place.partial|$place|" "$place.partial/bin/mpremote"
    mv "$place.partial" "$place"
}

TESTS= ONLY_PACKAGES=
for word; do
    case $word in
    tests) TESTS=1 ;;
    packages) ONLY_PACKAGES=1 ;;
    *) die "unknown word \`$word\`; the first lines of board/setup.sh say what there is" ;;
    esac
done
mkdir -p "$STATE"
packages
[ -z "$ONLY_PACKAGES" ] || exit 0
rust
crates
[ -z "$TESTS" ] || mpremote
