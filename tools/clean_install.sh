#!/usr/bin/env bash
# Follows "On a Raspberry Pi" of README.md in clean, emulated systems: installs the wheel with its extra [pi] by one command into a new
# environment, measures its size, installs the service, and runs the service's command on a recording as the service's user.
#
#   tools/clean_install.sh [options] MODEL         as root, on Debian or Ubuntu; MODEL: an int8 .tflite file
#     --suites "bookworm trixie"                   releases: Python 3.11 and 3.13
#     --cpus cortex-a72                            processor
#     --limit 130                                  MB (10^6 bytes on disk) that the installation may take
#     --jobs 1                                     releases at a time
#     --cache DIR                                  folder of roots (400 MB each); default ~/.cache/edgekd/emulated-pi
#     --python PYTHON                              of an environment with edgekd, numpy and pip; default python3
#     --mirror URL                                 of Debian; default the one that apt is configured with
#
# The roots contain what a Pi has from its image or from apt (python3-venv, libportaudio2, systemd), and no run changes them; wheels are
# downloaded outside and installed inside. Prints a table, then one JSON line. Exit status: 0 fine; 1 too large or no decisions; 2 bad usage
# or a missing tool.
set -euo pipefail

# shellcheck disable=SC2034  # emulated_root.sh uses it
program=clean_install
# shellcheck source=SCRIPTDIR/emulated_root.sh
source "$(dirname "${BASH_SOURCE[0]}")/emulated_root.sh"
cpus=cortex-a72
extras=pi
root_packages=python3-venv,libportaudio2,systemd,libstdc++6
limit=130
prefix=/opt/edgekd
authorities=/etc/ssl/certs/ca-certificates.crt

own_option() {
    case $1 in
        --limit) limit=$2 ;;
        *) return 1 ;;
    esac
}

# Bytes on disk of a folder.
bytes() { du -s --block-size=1 -- "$1" | cut -f 1; }

# Downloads the wheels of the extra for a release with the host's pip, so that the emulated pip needs no network.
fetch_wheels() {
    local version=$1 wheel=$2 folder=$3
    wheel_platforms
    quietly pip "$python" -m pip download --python-version "$version" --implementation cp --only-binary=:all: "${platforms[@]}" \
        --dest "$folder" "${wheel}[$extras]" || fail "pip found no device extras for Python $version"
}

# Runs a command in a release's root; its changes stay in this run's folder.
inside() {
    local suite=$1 root=$work/$1/root
    shift
    # shellcheck disable=SC2016  # the inner shell expands them
    env lower="$cache/install-$suite" over="$work/$suite" root="$root" work="$work" cpu="$cpus" \
        unshare --mount --propagation private --pid --fork --kill-child bash -euc '
        mount -t overlay overlay -o "lowerdir=$lower,upperdir=$over/upper,workdir=$over/work" "$root"
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount --bind "$work" "$root/w"
        mount --bind "$work/cpuinfo.$cpu" "$root/proc/cpuinfo"
        exec env -i "$@"' _ PATH="$host_path" HOME=/root LC_ALL=C.UTF-8 QEMU_CPU="$cpus" chroot "$root" "$@"
}

# The steps of the README on one release. The last line has the results: MB installed, MB after the first runs, decisions.
follow_readme() {
    local suite=$1 over=$work/$1/upper site before installed start
    mkdir -p "$work/$suite"/{upper,work,root}
    install -D -m 644 "$authorities" "$over$authorities"  # what update-ca-certificates makes: pip reads it even without network
    inside "$suite" systemd-sysusers  # the users of every system that has booted
    inside "$suite" python3 -m venv "$prefix"
    site=$(echo "$over$prefix"/lib/python*/site-packages)
    before=$(bytes "$site")
    inside "$suite" "$prefix/bin/pip" install --no-index --find-links "/w/wheels.$suite" --no-compile \
        "/w/dist/$(basename -- "$work"/dist/edgekd-*.whl)[$extras]"
    installed=$(($(bytes "$site") - before))
    inside "$suite" "$prefix/bin/edgekd" service install "/w/models/$(basename -- "${models[0]}")" --root /
    inside "$suite" cp /w/scene.wav "$prefix/scene.wav"
    inside "$suite" sed -i "s|^\[source\].*|[source]\nfile = \"$prefix/scene.wav\"|" /etc/edgekd/listen.toml
    inside "$suite" systemd-sysusers  # the users and modes of a boot with the new files
    inside "$suite" systemd-tmpfiles --create edgekd.conf
    inside "$suite" "$prefix/bin/edgekd" service status --root /
    start=$(sed -n 's/^ExecStart=//p' "$over/etc/systemd/system/edgekd.service")
    # shellcheck disable=SC2086  # a command line
    inside "$suite" setpriv --reuid=edgekd --regid=edgekd --init-groups $start > "$work/$suite/decisions"
    cat "$work/$suite/decisions"
    awk -v installed="$installed" -v after="$(($(bytes "$site") - before))" 'END {
        printf "%.1f %.1f %d\n", installed / 1e6, after / 1e6, NR }' "$work/$suite/decisions"
}

# Prints a table of the results, then one JSON line; status 1 where a release is over the limit or made no decisions.
report() {
    local suite installed after decisions ok all=true rows=()
    printf '%-10s %12s %18s %10s  %s\n' release "installed MB" "after first run MB" decisions ""
    for suite in $suites; do
        read -r installed after decisions < <(tail -n 1 -- "$work/results/$suite") || decisions=
        if [[ ! $decisions =~ ^[1-9][0-9]*$ ]]; then installed=null after=null decisions=0 ok=false
        elif awk -v got="$installed" -v most="$limit" 'BEGIN { exit got <= most }'; then ok=false
        else ok=true; fi
        [[ $ok == true ]] || all=false
        printf '%-10s %12s %18s %10s  %s\n' "$suite" "$installed" "$after" "$decisions" "$ok"
        rows+=("{\"release\": \"$suite\", \"installed_mb\": $installed, \"after_mb\": $after, \"decisions\": $decisions, \"ok\": $ok}")
    done
    printf '{"ok": %s, "limit_mb": %s, "rows": [%s]}\n' "$all" "$limit" "$(IFS=,; echo "${rows[*]}")"
    [[ $all == true ]]
}

main() {
    local suite
    read_arguments "$@"
    check_count --limit "$limit"
    [[ ${#models[@]} == 1 && ${models[0]} == *.tflite ]] || fail "give one MODEL, a .tflite file: [$extras] brings LiteRT alone"
    [[ $cpus != *" "* ]] || fail "--cpus is '$cpus'; give one processor"
    [[ -f $authorities ]] || fail "$authorities is missing; install ca-certificates"
    check_python
    prepare_host
    step "wheel and recording"
    prepare_wheel
    "$python" -P -c 'import sys, wave, numpy
with wave.open(sys.argv[1], "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
    file.writeframes(numpy.random.default_rng(0).normal(0, 2000, 80000).astype("<i2").tobytes())' "$work/scene.wav"
    for suite in $suites; do
        exec {lock}> "$cache/install-$suite.lock"
        flock "$lock"  # another run may make it now
        [[ -d $cache/install-$suite ]] || make_root "$suite" "$cache/install-$suite"
        exec {lock}>&-
        step "wheels for $suite"
        fetch_wheels "${python_of[$suite]}" "$(echo "$work"/dist/edgekd-*.whl)" "$work/wheels.$suite"
    done
    step "installation and service"
    for suite in $suites; do spawn "$suite" follow_readme "$suite"; done
    reap_all
    step "results"
    report
}

main "$@"
