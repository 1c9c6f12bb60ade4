#!/usr/bin/env bash
# Tests `edgekd service` under a real systemd in a container: install, update, rollback, remove, the restrictions of the sandbox, and the
# watchdog when the listener hangs or gets no audio. A command that writes noise replaces the microphone.
#
#   tools/service_check.sh [options] MODEL OTHER   as root, on Debian or Ubuntu; two int8 .tflite files that differ
#     --suite bookworm                             release of Debian in the container
#     --cache DIR                                  folder of its root (400 MB); default ~/.cache/edgekd/service
#     --mirror URL                                 of Debian; default http://deb.debian.org/debian
#     --python PYTHON                              with pip, to build the wheel; default python3
#
# The container has its own processes, mounts, network and control group, and is removed when the script ends; packages come from the
# index that pip is configured with. Prints a line for each check. Exit status: 0 all pass; 1 one fails; 2 bad usage or a missing tool.
set -euo pipefail

suite=bookworm
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/edgekd/service
mirror=http://deb.debian.org/debian
python=python3
models=()
packages=systemd,systemd-sysv,dbus,python3,python3-venv,libportaudio2
limit_s=900

fail() { printf 'service_check: %s\n' "$1" >&2; exit 2; }

# --- inside the container ---

edgekd() { /opt/edgekd/bin/python -P -m edgekd.cli "$@"; }
property() { systemctl show --property="$1" --value edgekd; }
model_in_use() { readlink /var/lib/edgekd/models/current; }

check() {
    local name=$1
    shift
    if "$@" > /w/output 2>&1; then printf 'ok    %s\n' "$name"; else
        printf 'FAIL  %s\n' "$name"
        sed 's/^/      /' /w/output | tail -n 15
    fi
}

# Whether a command succeeds within some seconds.
within() {
    local seconds=$1
    shift
    for ((; seconds > 0; seconds--)); do "$@" && return; sleep 1; done
    return 1
}

is() { [[ $(property "$1") == "$2" ]]; }
is_not() { [[ $(property "$1") != "$2" ]]; }
is_healthy() { [[ $(property StatusText) == HEALTHY* ]] && is ActiveState active; }

status_is() {
    local wanted=$1 status=0
    shift
    "$@" || status=$?
    [[ $status == "$wanted" ]]
}

waits_without_audio() { edgekd service install /w/model.tflite | grep 'waits for its first samples'; }
outlasts_its_timeout() { sleep 25; is NRestarts 0 && is ActiveState activating; }

starts_with_a_source() {
    sed -i 's|^# command = .*|command = "/usr/local/bin/noise"|; s|^# rate = 48000|rate = 48000|' /etc/edgekd/listen.toml
    touch /run/noise
    systemctl kill --kill-who=main --signal=HUP edgekd
    within 60 is_healthy && edgekd service status
}

is_confined() {
    local process
    process=$(property MainPID)
    grep -q '^CapEff:.*0000000000000000$' "/proc/$process/status" && grep -q '^Seccomp:.*2$' "/proc/$process/status" || return 1
    ! nsenter -t "$process" -m -- touch /etc/x /usr/x /var/lib/edgekd/models/x || return 1
    nsenter -t "$process" -m -- touch /var/lib/edgekd/data/x
}

has_little_exposure() { systemd-analyze security --threshold=20 --no-pager edgekd; }

# Runs a program in the unit's sandbox that makes the kind of callback that a PortAudio stream needs.
can_make_callbacks() {
    printf '%s\n' 'import sounddevice' 'sounddevice._ffi.callback("PaStreamCallback", print, error=1)' > /w/callback.py
    chgrp audio /w/callback.py && chmod 640 /w/callback.py  # as sound cards are, readable by the group alone
    sed -e 's|^ExecStart=.*|ExecStart=/opt/edgekd/bin/python -P /w/callback.py|; s/^Type=.*/Type=oneshot/; /^Restart/d; /^WatchdogSec/d' \
        /etc/systemd/system/edgekd.service > /run/systemd/system/callback.service
    systemctl daemon-reload
    systemctl start callback || { journalctl -u callback -o cat | tail; return 1; }
}

is_kept() {
    local before status=$1
    before=$(model_in_use)
    shift
    status_is "$status" "$@" && [[ $(model_in_use) == "$before" ]]
}

refuses_a_truncated_model() { head -c 100000 /w/model.tflite > /w/cut.tflite; is_kept 2 edgekd service update /w/cut.tflite; }

rolls_back_by_itself() {
    cp /etc/edgekd/listen.toml /w/listen.toml
    echo 'nonsense = 1' >> /etc/edgekd/listen.toml
    is_kept 1 edgekd service update /w/other.tflite || return 1
    cat /w/listen.toml > /etc/edgekd/listen.toml
    is_healthy
}

restarts_a_hanging_listener() {
    local process
    process=$(property MainPID)
    kill -STOP "$process"
    within 60 is_not MainPID "$process" && within 60 is_healthy
}

restarts_once_without_audio() {
    local before
    before=$(property NRestarts)
    rm /run/noise
    within 60 is NRestarts $((before + 1)) && sleep 45 && is NRestarts $((before + 1)) && is ActiveState activating
}

recovers() { touch /run/noise; within 60 is_healthy; }
is_removed() { edgekd service remove --purge && [[ ! -e /etc/edgekd && ! -e /var/lib/edgekd && ! -e /etc/systemd/system/edgekd.service ]]; }

inside() {
    printf '%s\n' '#!/bin/bash' 'while :; do [[ ! -e /run/noise ]] || head -c 9600 /dev/urandom; sleep 0.09; done' > /usr/local/bin/noise
    chmod 755 /usr/local/bin/noise
    mkdir -p /run/systemd/system/edgekd.service.d
    printf '[Service]\nWatchdogSec=15s\nTimeoutStartSec=20s\n' > /run/systemd/system/edgekd.service.d/short.conf
    check "installed without a microphone, it waits" waits_without_audio
    check "and is not stopped" outlasts_its_timeout
    check "it starts with a configured source" starts_with_a_source
    check "it is confined" is_confined
    check "exposure is at most 2.0" has_little_exposure
    check "PortAudio can make callbacks" can_make_callbacks
    check "another model is installed" edgekd service update /w/other.tflite
    check "the same model again changes nothing" is_kept 0 edgekd service update /w/other.tflite
    check "a truncated model is refused" refuses_a_truncated_model
    check "the previous model is restored" edgekd service rollback
    check "a model that does not start is rolled back" rolls_back_by_itself
    check "a listener that hangs is restarted" restarts_a_hanging_listener
    check "without audio it is restarted once, then waits" restarts_once_without_audio
    check "and recovers" recovers
    check "installed again, it keeps running" edgekd service install
    check "removed, it leaves nothing" is_removed
    printf 'done\n'
}

# --- outside ---

arguments() {
    while (($#)); do
        case $1 in
            -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
            --suite | --cache | --mirror | --python) (($# > 1)) || fail "$1 needs a value; see --help"; declare -g "${1#--}=$2"; shift 2 ;;
            -*) fail "unknown option $1; see --help" ;;
            *) models+=("$1"); shift ;;
        esac
    done
    ((${#models[@]} == 2)) || fail "give two models, MODEL OTHER; export them with 'edgekd export RUN --int8'"
    local each
    for each in "${models[@]}"; do [[ -f $each && $each == *.tflite ]] || fail "$each: no .tflite file"; done
    ! cmp -s -- "${models[@]}" || fail "MODEL and OTHER are the same; give two that differ"
    ((EUID == 0)) || fail "a container needs root; run it with sudo"
    for each in debootstrap unshare pivot_root; do
        type -p "$each" > /dev/null || fail "$each is missing; install debootstrap and util-linux"
    done
}

# Makes a Debian root with the packages of a Pi's image, once; it gets its name only when it is complete.
prepare_root() {
    local partial=$1.partial
    rm -rf --one-file-system -- "$partial"
    mkdir -p "$partial"
    debootstrap --variant=minbase --include="$packages" "$suite" "$partial" "$mirror" > "$work/log" 2>&1 \
        || { tail -n 5 "$work/log" >&2; fail "no root of $suite could be made; another mirror can be given with --mirror URL"; }
    mv -- "$partial" "$1"
}

# Becomes a container with root $1 whose first process is systemd.
container() {
    # shellcheck disable=SC2016  # the inner shell expands them
    exec unshare --mount --pid --uts --ipc --net --cgroup --propagation private --fork --kill-child bash -euc '
        root=$1
        cd "$root"
        mount -t proc proc proc
        mount --bind proc/sys proc/sys
        mount -o remount,bind,ro proc/sys
        mount -t sysfs -o ro sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs run
        mount -t tmpfs -o mode=755 tmpfs dev
        for each in null zero full random urandom tty; do touch "dev/$each"; mount --bind "/dev/$each" "dev/$each"; done
        mkdir dev/pts dev/shm oldroot
        mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
        mount -t tmpfs tmpfs dev/shm
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        hostname edgekd
        pivot_root . oldroot
        umount -l /oldroot
        exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no' _ "$1"
}

clean_up() {
    [[ ! -v first ]] || kill -KILL "$first" 2> /dev/null || true
    wait 2> /dev/null || true
    [[ ! -d $work/root ]] || umount "$work/root" || true
    rm -rf --one-file-system -- "$work"
    for _ in {1..20}; do  # the last processes end shortly after the first
        [[ -d $group ]] || break
        find "$group" -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.2
    done
}

outside() {
    local root cgroups each version
    arguments "$@"
    root=$cache/$suite
    work=$(mktemp -d)
    cgroups=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)
    group=$cgroups/edgekd-service-check
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    [[ -n $cgroups ]] || fail "no cgroup2 is mounted here"
    mkdir -p "$cache" "$work/"{source,upper,overlay,root}
    [[ -d $root ]] || prepare_root "$root"
    for each in edgekd targets teachers pyproject.toml README.md LICENSE; do
        cp -r -- "$(dirname "$(realpath "$0")")/../$each" "$work/source/"
    done
    "$python" -m pip wheel -q --no-deps --wheel-dir "$work/dist" "$work/source" > "$work/log" 2>&1 || fail "the wheel could not be built"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/overlay" "$work/root"
    mkdir "$work/root/w"
    cp -- "$0" "$work/root/w/service_check.sh"
    cp -- "${models[0]}" "$work/root/w/model.tflite"
    cp -- "${models[1]}" "$work/root/w/other.tflite"
    chroot "$work/root" python3 -m venv --without-pip /opt/edgekd
    version=$(chroot "$work/root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -m pip install -q --upgrade --no-compile --only-binary=:all: --implementation cp --python-version "$version" \
        --target "$work/root/opt/edgekd/lib/python$version/site-packages" "$(echo "$work"/dist/edgekd-*.whl)[pi]" > "$work/log" 2>&1 \
        || { tail -n 5 "$work/log" >&2; fail "pip found no packages for Python $version"; }
    printf '%s\n' '[Unit]' 'After=multi-user.target' '[Service]' 'Type=oneshot' 'ExecStart=/w/service_check.sh --inside' \
        'StandardOutput=file:/w/results' 'StandardError=file:/w/results' > "$work/root/etc/systemd/system/check.service"
    mkdir -p "$work/root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../check.service "$work/root/etc/systemd/system/multi-user.target.wants/check.service"
    mkdir -p "$group"
    (echo "$BASHPID" > "$group/cgroup.procs" && container "$work/root") > "$work/log" 2>&1 &
    first=$!
    while kill -0 "$first" 2> /dev/null && ((SECONDS < limit_s)) && ! grep -qs '^done$' "$work/root/w/results"; do sleep 1; done
    grep -v '^done$' "$work/root/w/results" || { tail -n 5 "$work/log" >&2; fail "systemd did not come up in the container"; }
    grep -q '^done$' "$work/root/w/results" && ! grep -q '^FAIL' "$work/root/w/results"
}

case ${1-} in
    --inside) inside ;;
    *) outside "$@" ;;
esac
