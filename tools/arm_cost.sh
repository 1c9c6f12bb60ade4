#!/usr/bin/env bash
# Counts the instructions that a Raspberry Pi's processor executes per inference of exported models, under emulation: the network alone, the
# front end, the pipeline from a window to a decision, and the stream of `edgekd listen`. One thread, seeded noise. Counts repeat within
# 0.1 %, so they can gate regressions and compare models. They are not times, and the effect of caches is not in them.
#
#   tools/arm_cost.sh [options] MODEL...           as root, on Debian or Ubuntu; MODEL: .tflite and .onnx files
#     --baseline FILE [--tolerance 0.01]           the JSON line of an earlier run: fail where a stage has grown by more than this share
#     --repeats 3                                  processes per model and processor; the median and the spread are reported
#     --suites bookworm                            releases, trixie being the other: Python 3.11 and 3.13
#     --cpus "cortex-a53 cortex-a72 cortex-a76"    processors: Pi Zero 2 W and 3, Pi 4, Pi 5
#     --jobs 1                                     emulated processes at a time
#     --cache DIR                                  where roots are kept, shared with emulated_pi.sh; default ~/.cache/edgekd/emulated-pi
#     --python PYTHON                              of an environment with edgekd; default python3
#     --mirror URL                                 of Debian; default the one that apt is configured with
#
# Prints a table, then one JSON line, which is the next baseline: tools/arm_cost.sh MODEL | tail -n 1 > baseline.json
# Exit status: 0 fine; 1 a stage has grown, counts do not repeat, or a process crashed; 2 bad usage or a missing tool.
set -euo pipefail

# shellcheck disable=SC2034  # emulated_root.sh uses it
program=arm_cost
# shellcheck source=SCRIPTDIR/emulated_root.sh
source "$(dirname "${BASH_SOURCE[0]}")/emulated_root.sh"
suites=bookworm
host_packages+=(qemu-user gcc libc6-dev)  # the static qemu loads no plugins
repeats=3
gate=()
plugin_apis=(1 2 3 4 5)
counting=/w/qemu  # in a root

own_option() {
    case $1 in
        --repeats) repeats=$2 ;;
        --baseline | --tolerance) gate+=("$1" "$2") ;;
        *) return 1 ;;
    esac
}

# Copies the qemu that loads plugins, its libraries and the plugin to a folder that is visible in a root.
prepare_counting() {
    local here=$1 folder=$work/qemu api each
    mkdir "$folder"
    ldd /usr/bin/qemu-aarch64 > "$work/libraries" 2> /dev/null || fail "qemu-aarch64 is linked statically here and loads no plugins"
    while read -r each; do cp -L -- "$each" "$folder/"; done < <(grep -o '/[^ ]*' "$work/libraries")
    cp -- /usr/bin/qemu-aarch64 "$folder/"
    for api in "${plugin_apis[@]}"; do
        quietly compiler gcc -O2 -Wall -shared -fPIC -DAPI="$api" -o "$folder/insn_marks.so" "$here/insn_marks.c" || fail "gcc failed"
        each=$cache/${suites%% *}
        qemu-aarch64 -L "$each" -plugin "$folder/insn_marks.so,out=/dev/null" "$each/usr/bin/true" 2> /dev/null && return
    done
    fail "qemu-aarch64 loads the plugin with none of the versions ${plugin_apis[*]} of its interface; use qemu 7.1 to 10"
}

count_on() {
    local suite=$1 cpu=$2 model=$3 name=$4
    run_on "$suite" "$cpu" "$counting/ld-linux-x86-64.so.2" --library-path "$counting" "$counting/qemu-aarch64" \
        -plugin "$counting/insn_marks.so,out=/w/results/$name.marks" /usr/bin/python3 /w/arm_cost_loops.py "/w/models/$model"
}

main() {
    local here suite cpu model repeat name status=0
    here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
    read_arguments "$@"
    check_count --repeats "$repeats"
    [[ $(uname -m) == x86_64 ]] || fail "the host is $(uname -m); this runs on x86_64"
    check_python
    "$python" "$here/arm_cost.py" check "${gate[@]}"
    prepare_host
    cp -- "$here/arm_cost_loops.py" "$work/"
    step "wheel"
    prepare_wheel
    for suite in $suites; do prepare_suite "$suite"; done
    prepare_counting "$here"
    step "counting"
    for suite in $suites; do
        for cpu in $cpus; do
            for model in "${models[@]}"; do
                model=$(basename -- "$model")
                for ((repeat = 1; repeat <= repeats; repeat++)); do
                    name=$suite/$cpu/$model.$repeat
                    spawn "$name" count_on "$suite" "$cpu" "$model" "$name"
                done
            done
        done
    done
    reap_all
    step "results"
    "$python" "$here/arm_cost.py" compare "$work/results" --qemu "$(qemu-aarch64 --version | sed -n 's/^.*version \([0-9.]*\).*/\1/p')" \
        "${gate[@]}" || status=$?
    return "$status"
}

main "$@"
