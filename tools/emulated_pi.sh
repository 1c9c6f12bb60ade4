#!/usr/bin/env bash
# Runs exported models on emulated Raspberry Pis: one aarch64 root per Pi OS release with the wheel and its device extras, `edgekd verify`
# and a parity run on each processor, and with --recording `edgekd listen`, compared line by line with this machine. It checks the
# arithmetic; time and memory under emulation are not those of a Pi.
#
#   tools/emulated_pi.sh [options] MODEL...        as root, on Debian or Ubuntu; MODEL: int8 .tflite and .onnx files
#     --suites "bookworm trixie"                   releases: Python 3.11 and 3.13
#     --cpus "cortex-a53 cortex-a72 cortex-a76"    processors: Pi Zero 2 W and 3, Pi 4, Pi 5
#     --parity-suites "bookworm trixie"            the releases of the parity run; all of --suites by default
#     --windows 500                                windows of the parity run
#     --data STORE [--split NAME] [--hop 0.5]      windows of a store, evenly chosen, none silent, instead of golden waveforms
#     --recording WAV                              also run `edgekd listen` on it, 16-bit at the models' rate, with the same wheel here
#     --run RUN                                    run folder of a model; repeatable. Logits are compared with its integer reference;
#                                                  without a run, with this machine's engine
#     --jobs 1                                     emulated processes at a time
#     --cache DIR                                  folder of roots (300 MB each) and cases; default ~/.cache/edgekd/emulated-pi
#     --python PYTHON                              of an environment with edgekd and its engines, for --run with training; default python3
#     --mirror URL                                 of Debian; default the one that apt is configured with
#
# Prints a table, then one JSON line. Exit status: 0 all agree; 1 something differs or crashes; 2 bad usage or a missing tool.
set -euo pipefail

# shellcheck disable=SC2034  # emulated_root.sh uses it
program=emulated_pi
# shellcheck source=SCRIPTDIR/emulated_root.sh
source "$(dirname "${BASH_SOURCE[0]}")/emulated_root.sh"
windows=500
parity_suites=
recording=
listen_hop=0.25  # seconds
window_options=()

own_option() {
    case $1 in
        --windows) windows=$2 ;;
        --parity-suites) parity_suites=$2 ;;
        --recording) recording=$2 ;;
        --data | --split | --hop | --run) window_options+=("$1" "$2") ;;
        *) return 1 ;;
    esac
}

# Runs `edgekd listen` on the recording with each model: on this machine, from the wheel, and on each release and processor.
listen_everywhere() {
    local suite cpu model arguments
    quietly pip "$python" -m pip install --no-compile --no-deps --target "$work/site.host" "$work"/dist/edgekd-*.whl \
        || fail "the wheel could not be installed here"
    for model in "${models[@]}"; do
        model=$(basename -- "$model")
        arguments=(-P -m edgekd.cli listen --json --hop "$listen_hop" --model)
        spawn "host/$(uname -m)/$model.listen" env PYTHONPATH="$work/site.host" "$python" "${arguments[@]}" "$work/models/$model" \
            "$work/recording.wav"
        for suite in $suites; do
            for cpu in $cpus; do
                spawn "$suite/$cpu/$model.listen" run_on "$suite" "$cpu" /usr/bin/python3 "${arguments[@]}" "/w/models/$model" \
                    /w/recording.wav
            done
        done
    done
}

main() {
    local here suite cpu model status=0
    here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
    read_arguments "$@"
    check_count --windows "$windows"
    # shellcheck disable=SC2086  # a list of names
    check_names "suite of the parity run" "${parity_suites:=$suites}" $suites
    [[ -z $recording || -f $recording ]] || fail "$recording: no such file"
    check_python
    prepare_host
    cp -- "$here/emulated_parity.py" "$here/toolbox.py" "$work/"
    [[ -z $recording ]] || cp -- "$recording" "$work/recording.wav"
    step "wheel"
    prepare_wheel
    step "cases"
    "$python" "$here/emulated_cases.py" "${models[@]}" --out "$work/cases" --cache "$cache/cases" --windows "$windows" "${window_options[@]}"
    for suite in $suites; do prepare_suite "$suite"; done
    step "verify and parity"
    for suite in $suites; do
        for cpu in $cpus; do
            for model in "${models[@]}"; do
                model=$(basename -- "$model")
                spawn "$suite/$cpu/$model.verify" run_on "$suite" "$cpu" /usr/bin/python3 -m edgekd.cli verify --json "/w/models/$model"
            done
        done
    done
    for suite in $parity_suites; do
        for cpu in $cpus; do
            for model in "${models[@]}"; do
                model=$(basename -- "$model")
                spawn "$suite/$cpu/$model.parity" run_on "$suite" "$cpu" /usr/bin/python3 /w/emulated_parity.py replay /w/cases \
                    "/w/models/$model"
            done
        done
    done
    if [[ $recording ]]; then listen_everywhere; fi
    reap_all
    step "results"
    "$python" "$here/emulated_parity.py" table "$work/results" || status=$?
    if [[ $recording ]]; then "$python" "$here/emulated_listen.py" "$work/results" "${models[@]}" || status=$?; fi
    return "$status"
}

main "$@"
