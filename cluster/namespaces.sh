# shellcheck shell=bash disable=SC2154
# A network namespace for each node of cluster/local.sh, which sources this file: a bridge beside the head, and a cable
# (cluster/cable.py) to each worker that delays, narrows and can be cut. Nothing of it is seen outside, no root is
# needed where user namespaces are allowed, and it all ends with the processes that hold it.

bridge=pdray0
subnet=10.77.0
network_seconds=10

address_of() {
    case $1 in
        head) echo "$subnet.1" ;;
        *) echo "$subnet.$((${1#worker-} + 1))" ;;
    esac
}

interface_of() { [ "$1" = head ] && echo "$bridge" || echo far-"${1#worker-}"; }

holder_of() { sed -n "s/^$1 //p" "$state/network" 2> /dev/null; }

# Runs a command on a node; without --preserve-credentials nsenter would want to change groups, which is not allowed.
enter() {
    local name=$1
    shift
    exec nsenter --target="$(holder_of "$name")" --preserve-credentials --user --net --mount -- "$@"
}

on() { (enter "$@"); }

check_namespaces() {
    local program
    for program in unshare nsenter ip; do
        command -v "$program" > /dev/null || die "--namespaces needs $program (Debian: util-linux, iproute2)"
    done
    unshare --user --map-root-user --net --mount true 2> /dev/null ||
        die "this machine allows no user namespaces (unshare --user --net), which --namespaces needs; leave it out"
    [ -w /dev/net/tun ] ||
        die "no /dev/net/tun that can be written here (the kernel's CONFIG_TUN), which --namespaces needs; leave it out"
}

# Tries a command until it succeeds.
eventually() {
    local tenth
    for ((tenth = 0; tenth < 10 * network_seconds; tenth++)); do
        ! "$@" > /dev/null 2>&1 || return 0
        sleep 0.1
    done
    cat "$state"/logs/network-*.log >&2
    stop
    die "the network of the nodes was not there within $network_seconds seconds; the lines above may say why"
}

is_holding() { [ "$(cat "/proc/$1/comm")" = sleep ]; }

# The command makes the namespaces and becomes a sleep that holds them.
hold() {
    local name=$1
    shift
    PDRAY_LOCAL_CLUSTER=$state "$@" sleep infinity < /dev/null > "$state/logs/network-$name.log" 2>&1 &
    echo "$name $!" >> "$state/network"
    eventually is_holding $!
}

# Ray finds its own address by a route to the outside, which there has to be.
plug_in() {
    local name=$1 interface
    interface=$(interface_of "$name")
    on "$name" ip link set lo up
    on "$name" ip addr add "$(address_of "$name")/24" dev "$interface"
    on "$name" ip link set "$interface" up
    on "$name" ip route add default via "$subnet.254"
    [ "$spill_mb" -eq 0 ] || on "$name" mount -t tmpfs -o "size=${spill_mb}m" tmpfs "$(spill_folder "$name")"
}

spill_folder() { echo "$(cat "$state/session")/spill-$1"; }

make_network() {
    local index
    : > "$state/network"
    mkdir "$(spill_folder head)"
    hold head unshare --user --map-root-user --net --mount
    on head ip link add "$bridge" type bridge
    plug_in head
    for ((index = 1; index <= workers; index++)); do
        mkdir "$(spill_folder "worker-$index")"
        add_worker "$index"
    done
}

# The last worker is the slow one.
add_worker() {
    local index=$1 latency=$latency_ms mbit=0
    [ "$index" -lt "$workers" ] || { latency=${slow_latency_ms:-$latency_ms} mbit=$slow_mbit; }
    hold "worker-$index" nsenter --target="$(holder_of head)" --preserve-credentials --user --net --mount -- \
        unshare --net --mount
    PDRAY_LOCAL_CLUSTER=$state on head "$python" "$repo/cluster/cable.py" "near-$index" "far-$index" \
        --latency-ms "$latency" --mbit "$mbit" < /dev/null > "$state/logs/network-cable-$index.log" 2>&1 &
    eventually on head ip link set "far-$index" netns "$(holder_of "worker-$index")"
    on head ip link set "near-$index" master "$bridge"
    on head ip link set "near-$index" up
    plug_in "worker-$index"
}

# Packets are lost without an answer, and both ends keep their addresses.
cut_off() { switch down; }

mend() { switch up; }

switch() {
    [ -f "$state/network" ] || die "there is no network; start one with cluster/local.sh up --namespaces"
    [ -n "$(holder_of "worker-$worker")" ] || die "--worker is '$worker' but the workers are 1 to $(cat "$state/workers")"
    on head ip link set "near-$worker" "$1"
}

run_on_head() {
    [ -f "$state/network" ] || die "exec is for nodes in namespaces; start them with cluster/local.sh up --namespaces"
    unset RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
    PATH=$(dirname "$python"):$PATH enter head "$@"
}
