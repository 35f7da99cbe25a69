#!/usr/bin/env bash
# A head and worker nodes of Ray on this machine, on loopback or in network namespaces, behind a token.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=cluster/processes.sh
. "$repo/cluster/processes.sh"
# shellcheck source=cluster/namespaces.sh
. "$repo/cluster/namespaces.sh"
python=$repo/.venv/bin/python
[ -x "$python" ] || python=$(command -v python3 || true)

command=help
state=$repo/.cluster
marker=pdray-cluster
workers=2
head_cpus=1
worker_cpus=$(($(getconf _NPROCESSORS_ONLN) / 2))
[ "$worker_cpus" -ge 1 ] || worker_cpus=1
port=6379
dashboard_port=8265
object_store_mb=256
metrics=0
memory_mb=
namespaces=
latency_ms=0
slow_latency_ms=
slow_mbit=0
spill_mb=0
worker=
words=()
start_seconds=120
stop_seconds=20
. "$repo/cluster/metrics/servers.sh"

usage() {
    cat << EOF
usage: cluster/local.sh up [options]       start the nodes
       cluster/local.sh status [--state]   exit 0 if all of them run, 1 if not
       cluster/local.sh down [--state]     stop them, and no other Ray on this machine
       cluster/local.sh exec [--state] COMMAND ...         with --namespaces: run a command beside the head
       cluster/local.sh cut | mend --worker N [--state]    with --namespaces: take a worker off the network, and back

options (default):
  --workers N            worker nodes beside the head ($workers)
  --head-cpus N          CPUs that the head offers ($head_cpus)
  --worker-cpus N        CPUs that each worker offers ($worker_cpus)
  --port P               Ray's own port; P+1 is taken as well ($port)
  --dashboard-port P     dashboard and jobs API ($dashboard_port)
  --object-store-mb N    object store of each node ($object_store_mb)
  --memory-mb N          memory that tasks of each node may ask for (Ray's own: what the machine has)
  --namespaces           each node in a network namespace of its own, at $subnet.1, .2, ...
  --latency-ms N         with it: of a packet to or from a worker ($latency_ms)
  --slow-latency-ms N    the same of the last worker (as the others)
  --slow-mbit N          what goes to or from the last worker in a second (no limit)
  --spill-mb N           disk of each node for objects that its store does not hold (no limit)
  --state FOLDER         process ids, token and logs ($state)
  --metrics              Prometheus beside them, and Grafana where it is installed
  --prometheus-port P    of its pages and queries ($prometheus_port)
  --grafana-port P       of its pages ($grafana_port)
EOF
}

die() {
    echo "local.sh: $*" >&2
    exit 2
}

parse() {
    case ${1:-help} in
        up | down | status | mend) command=$1 ;;
        cut) command=cut_off ;;
        exec) command=run_on_head ;;
        help | --help | -h) usage && exit 0 ;;
        *) die "unknown command '$1'; one of up, down, status, exec, cut, mend (see --help)" ;;
    esac
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --metrics) metrics=1 && shift && continue ;;
            --namespaces) namespaces=yes && shift && continue ;;
            --*) ;;
            *) words=("$@") && break ;;
        esac
        [ $# -ge 2 ] || die "$1 needs a value (see --help)"
        case $1 in
            --workers) workers=$(number "$@") ;;
            --head-cpus) head_cpus=$(number "$@") ;;
            --worker-cpus) worker_cpus=$(number "$@") ;;
            --port) port=$(number "$@") ;;
            --dashboard-port) dashboard_port=$(number "$@") ;;
            --object-store-mb) object_store_mb=$(number "$@") ;;
            --prometheus-port) prometheus_port=$(number "$@") ;;
            --grafana-port) grafana_port=$(number "$@") ;;
            --memory-mb) memory_mb=$(number "$@") ;;
            --latency-ms) latency_ms=$(number "$@") ;;
            --slow-latency-ms) slow_latency_ms=$(number "$@") ;;
            --slow-mbit) slow_mbit=$(number "$@") ;;
            --spill-mb) spill_mb=$(number "$@") ;;
            --worker) worker=$(number "$@") ;;
            --state) state=$(realpath -m -- "$2") ;;
            *) die "unknown option $1 (see --help)" ;;
        esac
        shift 2
    done
    [ "$command" = run_on_head ] || [ "${#words[@]}" -eq 0 ] || die "unknown word '${words[0]}' (see --help)"
    [ -n "$namespaces" ] || [ "$latency_ms$slow_latency_ms$slow_mbit$spill_mb" = 000 ] ||
        die "--latency-ms, --slow-latency-ms, --slow-mbit and --spill-mb need --namespaces as well"
    [ -z "$namespaces" ] || [ "$metrics" -eq 0 ] || die "--metrics does not reach into --namespaces; leave one of them out"
}

number() {
    [[ $2 =~ ^[0-9]+$ ]] || die "$1 is '$2' but must be a whole number"
    echo "$2"
}

# Only a folder that was new or empty when up first took it is ever cleared.
check_state() {
    [ ! -f "$state/$marker" ] || return 0
    [ -z "$(ls -A "$state" 2> /dev/null)" ] ||
        die "$state holds files but no $marker, so it is no state folder; name a new or empty one with --state"
}

listening() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

check_ports() {
    local taken
    for taken in "$port" "$((port + 1))" "$dashboard_port"; do
        ! listening "$taken" || die "port $taken is in use; choose others with --port and --dashboard-port"
    done
}

start_node() {
    local name=$1 ray=("$python" "$repo/cluster/loopback_ray.py") interface=lo address=127.0.0.1
    shift
    rm -f "$state/logs/$name.log"
    [ -z "$memory_mb" ] || set -- "$@" --memory=$((memory_mb * 1000000))
    if [ -n "$namespaces" ]; then
        ray=("$(dirname "$python")/ray") interface=$(interface_of "$name") address=$(address_of "$name")
        set -- "$@" --object-spilling-directory="$(spill_folder "$name")"
    fi
    (
        export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token RAY_USAGE_STATS_ENABLED=0
        export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 PDRAY_LOCAL_CLUSTER=$state PATH="${python%/*}:$PATH"
        export GLOO_SOCKET_IFNAME=$interface NCCL_SOCKET_IFNAME=$interface
        unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER
        [ -n "$namespaces" ] || export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
        started=(setsid "${ray[@]}" start --block --node-ip-address="$address" --min-worker-port=0 --max-worker-port=0
            --dashboard-agent-listen-port=0 --disable-usage-stats --object-store-memory=$((object_store_mb * 1000000)) "$@")
        [ -z "$namespaces" ] || enter "$name" "${started[@]}"
        exec "${started[@]}"
    ) > "$state/logs/$name.log" 2>&1 < /dev/null &
    echo $! > "$state/$name.pid"
}

await_node() {
    local name=$1 second
    for ((second = 0; second < start_seconds; second++)); do
        ! grep -qs "Ray runtime started" "$state/logs/$name.log" || return 0
        alive "$name" || [ "$second" -lt 2 ] || return 1
        sleep 1
    done
    return 1
}

# A busy machine misses the 30 seconds that Ray gives a node to start, so each gets three tries, one after another.
start_and_await() {
    local attempt
    for ((attempt = 1; attempt <= 3; attempt++)); do
        start_node "$@"
        ! await_node "$1" || return 0
        ! alive "$1" || kill -KILL -- "-$(cat "$state/$1.pid")"
    done
    fail "$1"
}

fail() {
    tail -n 15 "$state/logs/$1.log" >&2
    stop
    die "$1 did not start; the lines above are the end of $state/logs/$1.log"
}

up() {
    [ -x "$python" ] || die "no Python with Ray here; run make setup first"
    [ "$workers" -ge 1 ] || die "--workers is 0 but a cluster needs at least 1"
    [ -z "$(members)" ] || die "already up (see cluster/local.sh status); stop it first with cluster/local.sh down"
    if [ -n "$namespaces" ]; then check_namespaces; else check_ports; fi
    [ "$metrics" -eq 0 ] || check_metrics
    mkdir -p -m 700 "$state"
    mkdir -p "$state/logs"
    touch "$state/$marker"
    rm -f "$state"/*.pid "$state"/logs/*.log "$state/servers"
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$state/token")
    # Unix socket paths end at 107 bytes, so Ray's session cannot lie in a folder of any depth. Ray opens its own
    # folder to everybody, so that one lies inside this one, which mktemp makes for its owner alone.
    mktemp -d /tmp/pdray-XXXXXX > "$state/session"
    echo "$workers" > "$state/workers"
    [ -z "$namespaces" ] || make_network
    cd "$repo" # jobs start in the folder that the head was started in
    start_and_await head --head --port="$port" --num-cpus="$head_cpus" --temp-dir="$(cat "$state/session")/ray" \
        --ray-client-server-port=$((port + 1)) --dashboard-host="$(head_address)" --dashboard-port="$dashboard_port"
    start_workers
    [ "$metrics" -eq 0 ] || start_metrics
    report
}

start_workers() {
    local index
    for ((index = 1; index <= workers; index++)); do
        start_and_await "worker-$index" --address="$(head_address):$port" --num-cpus="$worker_cpus"
    done
    [ -n "$namespaces" ] || listening "$dashboard_port" || fail head
}

head_address() { if [ -n "$namespaces" ]; then address_of head; else echo 127.0.0.1; fi; }

report() {
    echo "Ray is up: a head ($head_cpus CPU) and $workers workers ($worker_cpus CPU each), reachable from this machine only."
    if [ -n "$namespaces" ]; then
        cat << EOF
Beside the head:
  cluster/local.sh exec pdray submit run.yaml --address http://$(address_of head):$dashboard_port --follow
  cluster/local.sh exec pdray run run.yaml --set cluster.address=$(address_of head):$port
Take a worker off the network, and back: cluster/local.sh cut --worker 1; cluster/local.sh mend --worker 1
EOF
        return
    fi
    cat << EOF
In the shell that submits jobs:
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
  $(dirname "$python")/pdray submit run.yaml --address http://127.0.0.1:$dashboard_port --follow
Logs: $state/logs and $(cat "$state/session")/ray/session_latest/logs
Stop it with: cluster/local.sh down
EOF
    [ "$metrics" -eq 0 ] || report_metrics
}

status() {
    local name missing=0
    [ -f "$state/workers" ] || { echo "down" && exit 1; }
    for name in head $(seq -f 'worker-%g' "$(cat "$state/workers")") $(cat "$state/servers" 2> /dev/null); do
        if alive "$name"; then
            echo "$name  up    process $(cat "$state/$name.pid")"
        else
            echo "$name  down  see $state/logs/$name.log"
            missing=1
        fi
    done
    exit "$missing"
}

# The file is only believed as far as it names a folder such as up makes.
remove_session() {
    local session
    [ -f "$state/session" ] || return 0
    session=$(cat "$state/session")
    if [[ $session =~ ^/tmp/pdray-[[:alnum:]]{6}$ ]]; then
        rm -rf -- "$session"
    else
        echo "local.sh: $state/session names '$session', which is no folder of this script; it stays" >&2
    fi
}

stop() {
    local all name second
    all=$(nodes_of_ray)
    for name in "$state"/*.pid; do
        name=$(basename "$name" .pid)
        ! alive "$name" || kill "$(cat "$state/$name.pid")" 2> /dev/null || true
    done
    for ((second = 0; second < stop_seconds; second++)); do
        any_alive "$all" || break
        sleep 1
    done
    kill_now "$all $(members)"
    remove_session
    rm -f "$state"/*.pid "$state/token" "$state/session" "$state/workers" "$state/servers" "$state/network"
}

down() {
    if [ ! -f "$state/session" ] && [ -z "$(members)" ]; then
        echo "nothing to stop"
        return
    fi
    stop
    echo "stopped; the nodes' logs stay in $state/logs"
}

parse "$@"
check_state
"$command" "${words[@]}"
