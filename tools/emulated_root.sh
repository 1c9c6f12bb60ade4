# shellcheck shell=bash
# Emulated Raspberry Pis, for the scripts that source this file: shared options, an aarch64 root per Pi OS release, the wheel with its
# device extras, and commands in a root on a processor, several at a time. A script sets `program`, and may extend `host_packages`, before
# it calls `read_arguments`, `check_python`, `prepare_host` and `prepare_wheel`.
#
# Packages, the registration of aarch64 with binfmt_misc and the roots in the cache stay on the host. All mounts are private to one
# command and end with it.

program=${program:?set it before sourcing this file}
suites="bookworm trixie"
cpus="cortex-a53 cortex-a72 cortex-a76"
jobs=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgekd/emulated-pi
python=python3
mirror=
models=()
work=  # folder of this run; /w in the roots

declare -A python_of=([bookworm]=3.11 [trixie]=3.13)
declare -A running=()  # process id -> file of its output
host_packages=(qemu-user-static binfmt-support debootstrap debian-archive-keyring)
root_packages=python3,libstdc++6
extras=litert,onnx-runtime
wheel_sources=(edgekd targets teachers pyproject.toml README.md LICENSE)
binfmt=/proc/sys/fs/binfmt_misc
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
glibc_minors=(17 24 26 27 28 31 34 35)  # of the manylinux tags that wheels for aarch64 carry
cores=4
shown_lines=15  # of the log of a failed command
pause=0.2  # seconds
host_path=/usr/sbin:/usr/bin:/sbin:/bin

fail() { printf '%s: %s\n' "$program" "$1" >&2; exit 2; }
step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

# Fills the variables above from the command line. The script's `own_option NAME VALUE` handles its own options and fails on all others.
read_arguments() {
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            -*)
                own_option "$1" "${2-}" || shared_option "$1" "${2-}" || fail "unknown option $1; see --help"
                (($# > 1)) || fail "$1 needs a value; see --help"
                shift 2 ;;
            *) models+=("$1"); shift ;;
        esac
    done
    ((${#models[@]})) || fail "no MODEL given; export one with 'edgekd export RUN --int8'"
    local each
    for each in "${models[@]}"; do
        [[ -f $each ]] || fail "$each: no such file"
        [[ $each == *.tflite || $each == *.onnx ]] || fail "$each: not a .tflite or .onnx file"
    done
    [[ $(basename -a -- "${models[@]}" | sort | uniq -d) == "" ]] || fail "two models have the same file name; rename one"
    check_names suite "$suites" "${!python_of[@]}"
    check_names cpu "$cpus" cortex-a53 cortex-a72 cortex-a76
    check_count --jobs "$jobs"
}

shared_option() {
    case $1 in
        --suites) suites=$2 ;;
        --cpus) cpus=$2 ;;
        --jobs) jobs=$2 ;;
        --cache) cache=$2 ;;
        --python) python=$2 ;;
        --mirror) mirror=$2 ;;
        *) return 1 ;;
    esac
}

# Fails unless $2 has at least one name, and each of them is among the arguments that follow.
check_names() {
    local what=$1 names=$2 each
    shift 2
    [[ $names =~ [^[:space:]] ]] || fail "no $what given; allowed: $*"
    for each in $names; do [[ " $* " == *" $each "* ]] || fail "unknown $what '$each'; allowed: $*"; done
}

check_count() { [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1 is '$2'; give a whole number of at least 1"; }

# Prints /proc/cpuinfo of the board with this processor; libraries choose their kernels by it. Do not emulate qemu's "max": LiteRT's int8
# was wrong by up to 199 steps with its SME.
cpuinfo() {
    local features part variant revision board model core
    case $1 in
        cortex-a53) part=0xd03 variant=0x0 revision=4 board=a02082 model="3 Model B Rev 1.2" ;;
        cortex-a72) part=0xd08 variant=0x0 revision=3 board=c03114 model="4 Model B Rev 1.4" ;;
        cortex-a76) part=0xd0b variant=0x4 revision=1 board=d04170 model="5 Model B Rev 1.0" ;;
    esac
    features="fp asimd evtstrm crc32 cpuid"
    if [[ $1 == cortex-a76 ]]; then
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    fi
    for ((core = 0; core < cores; core++)); do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' "$core" "$features"
        printf 'CPU variant\t: %s\nCPU part\t: %s\nCPU revision\t: %s\n\n' "$variant" "$part" "$revision"
    done
    printf 'Revision\t: %s\nSerial\t\t: 100000000000000\nModel\t\t: Raspberry Pi %s\n' "$board" "$model"
}

check_python() {
    "$python" -P -c 'import edgekd.modelfile.engine, pip' 2> /dev/null || fail "$python has no edgekd or no pip; name one that has with --python"
}

# Prepares the host: tools, the registration of qemu for aarch64 programs with the kernel, and this run's folder, which its end removes.
prepare_host() {
    ((EUID == 0)) || fail "chroot and mounts need root; run it with sudo"
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    local missing=() package cpu known
    for package in "${host_packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    if ((${#missing[@]})); then
        step "host packages: ${missing[*]}"
        type -p apt-get > /dev/null || fail "apt-get is missing: use Debian or Ubuntu, or install ${missing[*]} and dpkg"
        quietly packages apt-get install -y --no-install-recommends "${missing[@]}" || fail "could not install these; try apt-get update"
    fi
    [[ -e $binfmt/register ]] || mount -t binfmt_misc binfmt_misc "$binfmt" || fail "the kernel offers no binfmt_misc; use a host that does"
    [[ -e $binfmt/qemu-aarch64 ]] || update-binfmts --enable qemu-aarch64 || fail "qemu-aarch64 cannot be registered with binfmt_misc"
    grep -q '^flags:.*F' "$binfmt/qemu-aarch64" || fail "qemu-aarch64 is registered without the F flag, so a chroot cannot use it"
    known=$(qemu-aarch64-static -cpu help || true)  # its exit status is 1
    for cpu in $cpus; do
        [[ $known == *"$cpu"* ]] || fail "qemu here does not know $cpu; version 7.1 and later do"
        cpuinfo "$cpu" > "$work/cpuinfo.$cpu"
    done
    mkdir -p "$cache" "$work/models"
    cp -- "${models[@]}" "$work/models/"
}

clean_up() {
    if ((${#running[@]})); then kill -KILL "${!running[@]}" 2> /dev/null || true; fi
    wait
    rm -rf --one-file-system -- "$work"
}

# Runs a command and shows the end of its output only when it fails.
quietly() {
    local log=$work/$1.log
    shift
    "$@" > "$log" 2>&1 && return
    tail -n "$shown_lines" -- "$log" >&2
    return 1
}

# Builds the wheel from a copy: the build folder of a checkout may hold modules that no longer exist.
prepare_wheel() {
    local checkout each
    checkout=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/..
    mkdir "$work/source"
    for each in "${wheel_sources[@]}"; do cp -r -- "$checkout/$each" "$work/source/"; done
    quietly wheel "$python" -m pip wheel --no-deps --wheel-dir "$work/dist" "$work/source" || fail "the wheel could not be built"
}

# Makes the root of a release, and installs the wheel with its device extras for it in $work/site.SUITE.
prepare_suite() {
    local suite=$1
    exec {lock}> "$cache/$suite.lock"
    flock "$lock"  # another run may make it now
    [[ -d $cache/$suite ]] || make_root "$suite" "$cache/$suite"
    exec {lock}>&-
    step "device extras for $suite"
    install_wheel "${python_of[$suite]}" "$(echo "$work"/dist/edgekd-*.whl)" "$work/site.$suite"
}

# Unpacks a Debian root once, without emulation; it gets its name only when it is complete.
make_root() {
    local suite=$1 root=$2 partial=$2.partial deb file
    step "root of $suite"
    # shellcheck disable=SC2016  # apt expands it
    [[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(SITE)' 2> /dev/null | grep debian | grep -v -m 1 security || true)
    [[ -n $mirror ]] || fail "apt names no Debian mirror here; give one with --mirror URL"
    rm -rf --one-file-system -- "$partial"
    mkdir -p "$partial"
    quietly debootstrap debootstrap --foreign --arch=arm64 --variant=minbase --keyring="$keyring" --include="$root_packages" "$suite" \
        "$partial" "$mirror" || fail "debootstrap could not unpack $suite; another mirror can be given with --mirror URL"
    for deb in "$partial"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$partial"
    done
    rm -f -- "$partial"/var/cache/apt/archives/*.deb
    if [[ -L $partial/proc ]]; then rm -- "$partial/proc"; fi  # debootstrap may leave proc -> /proc: a mount there would cover the host's
    mkdir -p "$partial"/{proc,dev,w,sys/devices/system/cpu}
    for file in possible present online; do echo "0-$((cores - 1))" > "$partial/sys/devices/system/cpu/$file"; done  # never the host's /sys
    chroot "$partial" /sbin/ldconfig
    mv -- "$partial" "$root"
}

# Fills `platforms` with pip's options for wheels of aarch64.
wheel_platforms() {
    local minor
    platforms=(--platform any --platform manylinux2014_aarch64)
    for minor in "${glibc_minors[@]}"; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
}

# Installs the wheel and its device extras for a release's Python with the host's pip, without emulation.
install_wheel() {
    local version=$1 wheel=$2 site=$3
    wheel_platforms
    quietly pip "$python" -m pip install --no-compile --python-version "$version" --implementation cp --only-binary=:all: \
        "${platforms[@]}" --target "$site" "${wheel}[$extras]" || fail "pip found no device extras for Python $version"
}

# Replaces this shell by a command in a suite's root on a processor, with one thread; to be called by `spawn`. $work is /w in the root.
run_on() {
    local suite=$1 root=$cache/$1 cpu=$2
    shift 2
    [[ ! -L $root/proc ]] || fail "$root/proc is a symbolic link; remove $root"
    # shellcheck disable=SC2016  # the inner shell expands them
    exec env root="$root" work="$work" cpu="$cpu" unshare --mount --propagation private --pid --fork --kill-child bash -euc '
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount --bind "$work" "$root/w"
        mount --bind "$work/cpuinfo.$cpu" "$root/proc/cpuinfo"
        exec env -i "$@"' _ PATH="$host_path" HOME=/tmp LC_ALL=C.UTF-8 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONHASHSEED=0 \
        PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="/w/site.$suite" QEMU_CPU="$cpu" setarch --addr-no-randomize chroot "$root" "$@"
}

# Runs the other arguments in the background, at most $jobs at a time; standard output goes to $work/results/$1, errors to $1.log there.
spawn() {
    local output=$work/results/$1
    shift
    while ((${#running[@]} >= jobs)); do reap; done
    mkdir -p "$(dirname "$output")"
    "$@" > "$output" 2> "$output.log" &
    running[$!]=$output
}

# Waits until one of the spawned commands has ended, and prints its status. It polls: `wait -n` loses one of two that end together.
reap() {
    local pid status=0 name
    while true; do
        for pid in "${!running[@]}"; do kill -0 "$pid" 2> /dev/null || break 2; done
        sleep "$pause"
    done
    wait "$pid" || status=$?
    name=${running[$pid]#"$work/results/"}
    unset "running[$pid]"
    if ((status)); then
        printf '%5s s  %s: exit status %s\n' "$SECONDS" "$name" "$status"
        tail -n "$shown_lines" -- "$work/results/$name.log" >&2
    else
        printf '%5s s  %s\n' "$SECONDS" "$name"
    fi
}

reap_all() { while ((${#running[@]})); do reap; done; }
