#!/usr/bin/env bash
# Runs exported models on emulated Raspberry Pis: one aarch64 root per Pi OS release, the wheel with its device extras installed for it,
# then `edgekd verify` and a parity run on each processor. What it proves is arithmetic; time and memory under emulation are not a Pi's.
#
#   tools/emulated_pi.sh [options] MODEL...        as root, on Debian or Ubuntu; MODEL: int8 .tflite and .onnx files
#     --suites "bookworm trixie"                   releases: Python 3.11 and 3.13
#     --cpus "cortex-a53 cortex-a72 cortex-a76"    processors: Pi Zero 2 W and 3, Pi 4, Pi 5
#     --windows 500                                windows of the parity run
#     --data STORE [--split NAME]                  take the windows from a store, every half second, instead of golden waveforms
#     --cache DIR                                  where roots are kept, 370 MB each; default ~/.cache/edgekd/emulated-pi
#     --python PYTHON                              of an environment with edgekd and its engines; default python3
#     --mirror URL                                 of Debian; default the one that apt is configured with
#
# Exit status: 0 all agree; 1 something differs; 2 bad usage or a missing tool.
set -euo pipefail

suites="bookworm trixie"
cpus="cortex-a53 cortex-a72 cortex-a76"
windows=500
data=()
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgekd/emulated-pi
python=python3
mirror=
models=()

declare -A python_of=([bookworm]=3.11 [trixie]=3.13)
host_packages=(qemu-user-static binfmt-support debootstrap debian-archive-keyring)
root_packages=python3,libstdc++6
extras=litert,onnx-runtime
binfmt=/proc/sys/fs/binfmt_misc
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
glibc_minors=(17 24 26 27 28 31 34 35)  # of the manylinux tags that wheels for aarch64 carry
cores=4

fail() { printf 'emulated_pi: %s\n' "$1" >&2; exit 2; }
step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

read_arguments() {
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --suites | --cpus | --windows | --data | --split | --cache | --python | --mirror)
                (($# > 1)) || fail "$1 needs a value; see --help"
                case $1 in
                    --suites) suites=$2 ;;
                    --cpus) cpus=$2 ;;
                    --windows) windows=$2 ;;
                    --data | --split) data+=("$1" "$2") ;;
                    --cache) cache=$2 ;;
                    --python) python=$2 ;;
                    --mirror) mirror=$2 ;;
                esac
                shift 2 ;;
            -*) fail "unknown option $1; see --help" ;;
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
    for each in $suites; do [[ -v "python_of[$each]" ]] || fail "unknown suite '$each'; allowed: ${!python_of[*]}"; done
    for each in $cpus; do cpuinfo "$each" > /dev/null; done
    [[ $windows =~ ^[1-9][0-9]*$ ]] || fail "--windows is '$windows'; give a whole number of at least 1"
}

# What /proc/cpuinfo says on the board with this processor. Libraries choose their kernels by it. Never emulate qemu's "max": LiteRT's
# int8 was wrong by up to 199 steps on its SME.
cpuinfo() {
    local features part variant revision board model
    case $1 in
        cortex-a53) part=0xd03 variant=0x0 revision=4 board=a02082 model="3 Model B Rev 1.2" ;;
        cortex-a72) part=0xd08 variant=0x0 revision=3 board=c03114 model="4 Model B Rev 1.4" ;;
        cortex-a76) part=0xd0b variant=0x4 revision=1 board=d04170 model="5 Model B Rev 1.0" ;;
        *) fail "unknown cpu '$1'; allowed: cortex-a53, cortex-a72, cortex-a76" ;;
    esac
    features="fp asimd evtstrm crc32 cpuid"
    if [[ $1 == cortex-a76 ]]; then
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    fi
    local core
    for ((core = 0; core < cores; core++)); do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' "$core" "$features"
        printf 'CPU variant\t: %s\nCPU part\t: %s\nCPU revision\t: %s\n\n' "$variant" "$part" "$revision"
    done
    printf 'Revision\t: %s\nSerial\t\t: 100000000000000\nModel\t\t: Raspberry Pi %s\n' "$board" "$model"
}

# The host's side of emulation: tools, and the kernel told to run aarch64 programs through qemu.
prepare_host() {
    ((EUID == 0)) || fail "chroot and mounts need root; run it with sudo"
    "$python" -P -c 'import edgekd.engine, pip' 2> /dev/null || fail "$python has no edgekd or no pip; name one that has with --python"
    local missing=() package
    for package in "${host_packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    if ((${#missing[@]})); then
        step "host packages: ${missing[*]}"
        apt-get install -y --no-install-recommends "${missing[@]}" || fail "apt-get could not install ${missing[*]}; try apt-get update"
    fi
    [[ -e $binfmt/register ]] || mount -t binfmt_misc binfmt_misc "$binfmt" || fail "the kernel offers no binfmt_misc; use a host that does"
    [[ -e $binfmt/qemu-aarch64 ]] || update-binfmts --enable qemu-aarch64 || fail "qemu-aarch64 cannot be registered with binfmt_misc"
    grep -q '^flags:.*F' "$binfmt/qemu-aarch64" || fail "qemu-aarch64 is registered without the F flag, so a chroot cannot use it"
}

# Unpacks (does not emulate) a Debian root, once; it appears under its name only when it is complete.
make_root() {
    local suite=$1 root=$2 partial=$2.partial deb file
    [[ -d $root ]] && return
    step "root of $suite"
    if [[ -z $mirror ]]; then
        # shellcheck disable=SC2016  # apt expands it
        mirror=$(apt-get indextargets --format '$(SITE)' 2> /dev/null | grep -m 1 debian || true)
        [[ -n $mirror ]] || fail "apt names no Debian mirror here; give one with --mirror URL"
    fi
    rm -rf --one-file-system -- "$partial"
    mkdir -p "$partial"
    debootstrap --foreign --arch=arm64 --variant=minbase --keyring="$keyring" --include="$root_packages" "$suite" "$partial" "$mirror"
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

# Installs the wheel and its device extras for a release's Python with the host's pip, without emulation.
install_wheel() {
    local version=$1 wheel=$2 site=$3 platforms=(--platform any --platform manylinux2014_aarch64) minor
    for minor in "${glibc_minors[@]}"; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    "$python" -m pip install --quiet --no-compile --python-version "$version" --implementation cp --only-binary=:all: "${platforms[@]}" \
        --target "$site" "${wheel}[$extras]"
}

# Runs a command in a root on a processor. Its mounts are private to it and gone with it. $3 appears as /w.
run_on() {
    local root=$1 cpu=$2 work=$3
    shift 3
    [[ ! -L $root/proc ]] || fail "$root/proc is a symbolic link; remove $root"
    # shellcheck disable=SC2016  # the inner shell expands them
    env root="$root" work="$work" info="$work/cpuinfo.$cpu" unshare --mount --propagation private bash -euc '
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount --bind "$work" "$root/w"
        mount --bind "$info" "$root/proc/cpuinfo"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp LC_ALL=C.UTF-8 OMP_NUM_THREADS=1 "$@"' _ QEMU_CPU="$cpu" "$@"
}

main() {
    read_arguments "$@"
    prepare_host
    local here work suite cpu each names=() failures=()
    here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # now, while `work` is known
    trap "rm -rf -- '$work'" EXIT
    mkdir -p "$cache" "$work/models"
    cp -- "${models[@]}" "$work/models/"
    cp -- "$here/emulated_parity.py" "$work/"
    for each in "${models[@]}"; do names+=("/w/models/$(basename -- "$each")"); done
    for cpu in $cpus; do cpuinfo "$cpu" > "$work/cpuinfo.$cpu"; done

    step "wheel and cases"
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$here/.."
    "$python" "$here/emulated_parity.py" make "${models[@]}" --out "$work/cases.npz" --windows "$windows" "${data[@]}"
    for suite in $suites; do
        make_root "$suite" "$cache/$suite"
        step "device extras for $suite"
        install_wheel "${python_of[$suite]}" "$(echo "$work"/dist/edgekd-*.whl)" "$work/site.$suite"
        for cpu in $cpus; do
            step "$suite, $cpu"
            for each in "${names[@]}"; do
                run_on "$cache/$suite" "$cpu" "$work" PYTHONPATH="/w/site.$suite" /usr/bin/python3 -m edgekd.cli verify "$each" \
                    || failures+=("verify of $(basename -- "$each") on $suite, $cpu")
            done
            run_on "$cache/$suite" "$cpu" "$work" PYTHONPATH="/w/site.$suite" /usr/bin/python3 /w/emulated_parity.py replay /w/cases.npz \
                "${names[@]}" || failures+=("parity on $suite, $cpu")
        done
    done
    step "done"
    if ((${#failures[@]})); then
        printf 'emulated_pi: failed: %s\n' "${failures[@]}" >&2
        exit 1
    fi
    echo "emulated_pi: ok: ${#models[@]} models on $(wc -w <<< "$suites") releases and $(wc -w <<< "$cpus") processors"
}

main "$@"
