# shellcheck shell=bash disable=SC2154
# The processes of one cluster of cluster/local.sh, which sources this file.

# Processes of this cluster: those that carry its mark in their environment, and their descendants, because
# processes that rename themselves overwrite the environment that the kernel shows.
members() {
    local marked
    marked=$(grep -lszFx "PDRAY_LOCAL_CLUSTER=$state" /proc/[0-9]*/environ 2> /dev/null | cut -d/ -f3 || true)
    [ -n "$marked" ] || return 0
    cat /proc/[0-9]*/stat 2> /dev/null | sed 's/^\([0-9]*\) (.*) . \([0-9]*\) .*/\1 \2/' | awk -v roots="$marked" '
        BEGIN { split(roots, list, "\n"); for (i in list) member[list[i]] = 1 }
        { parent[$1] = $2 }
        END {
            do {
                grown = 0
                for (pid in parent) if (!(pid in member) && parent[pid] in member) { member[pid] = 1; grown = 1 }
            } while (grown)
            for (pid in member) print pid
        }'
}

# A name is taken from its pid file only while the process with that id is still one of ours.
alive() {
    [ -f "$state/$1.pid" ] && grep -qszFx "PDRAY_LOCAL_CLUSTER=$state" "/proc/$(cat "$state/$1.pid")/environ"
}

# Without what holds the network, which ends last.
nodes_of_ray() {
    local pid
    for pid in $(members); do
        case $(tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null) in
            'sleep infinity '* | *cluster/cable.py*) ;;
            *) echo "$pid" ;;
        esac
    done
}

kill_now() {
    local pid
    for pid in $1; do kill -KILL "$pid" 2> /dev/null || true; done
}

# A container's first process may be slow to collect the dead, so zombies do not count.
any_alive() {
    local pid
    for pid in $1; do
        ! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status" || return 0
    done
    return 1
}
