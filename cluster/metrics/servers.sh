# Prometheus, and Grafana where it is installed, beside the nodes of cluster/local.sh, which reads this file. Both listen
# on loopback only.

prometheus_port=9090
grafana_port=3000
metrics_start_seconds=60

check_metrics() {
    command -v prometheus > /dev/null || die "no prometheus on PATH for --metrics; apt-get install prometheus on" \
        "Debian and Ubuntu (its own service need not run: systemctl disable --now prometheus), or leave --metrics out"
    ! listening "$prometheus_port" || die "port $prometheus_port is in use; choose another with --prometheus-port"
    ! has_grafana || ! listening "$grafana_port" || die "port $grafana_port is in use; choose another with --grafana-port"
}

has_grafana() { command -v grafana > /dev/null; }

start_metrics() {
    : > "$state/servers"
    sed "s|/tmp/ray/|$(cat "$state/session")/ray/|" "$repo/cluster/metrics/prometheus.yml" > "$state/prometheus.yml"
    start_server prometheus "$prometheus_port" prometheus --config.file="$state/prometheus.yml" \
        --storage.tsdb.path="$state/prometheus" --storage.tsdb.retention.time=30d \
        --web.listen-address="127.0.0.1:$prometheus_port"
    ! has_grafana || start_grafana
}

# Whoever may reach it on this machine reads the dashboards; nobody is an administrator. The program itself is started, as
# `grafana server`, which is the only one since Grafana 13: what a package puts on PATH reads the package's settings first,
# and not everybody may.
start_grafana() {
    local provisioning=$state/grafana/provisioning home=/usr/share/grafana
    [ -x "$home/bin/grafana" ] || home=$(dirname "$(dirname "$(readlink -f "$(command -v grafana)")")")
    mkdir -p "$provisioning/datasources" "$provisioning/dashboards"
    cat > "$provisioning/datasources/prometheus.yml" << EOF
apiVersion: 1
datasources: [{name: Prometheus, type: prometheus, access: proxy, isDefault: true, url: "http://127.0.0.1:$prometheus_port"}]
EOF
    cat > "$provisioning/dashboards/pdray.yml" << EOF
apiVersion: 1
providers: [{name: pdray, type: file, options: {path: "$repo/cluster/metrics"}}]
EOF
    GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=$grafana_port \
        GF_PATHS_DATA=$state/grafana GF_PATHS_LOGS=$state/grafana/log GF_PATHS_PROVISIONING=$provisioning \
        GF_AUTH_ANONYMOUS_ENABLED=true GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION=true \
        GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false \
        start_server grafana "$grafana_port" "$home/bin/grafana" server --homepath "$home"
}

start_server() {
    local name=$1 port=$2 second
    shift 2
    PDRAY_LOCAL_CLUSTER=$state setsid "$@" > "$state/logs/$name.log" 2>&1 < /dev/null &
    echo $! > "$state/$name.pid"
    echo "$name" >> "$state/servers"
    for ((second = 0; second < metrics_start_seconds; second++)); do
        ! listening "$port" || return 0
        alive "$name" || [ "$second" -lt 2 ] || break
        sleep 1
    done
    fail "$name"
}

report_metrics() {
    echo "Prometheus: http://127.0.0.1:$prometheus_port"
    if has_grafana; then
        echo "Grafana:    http://127.0.0.1:$grafana_port/d/pdray"
    else
        echo "Grafana is not here (no grafana on PATH; Debian does not have it): its own package adds it, or any" \
            "Grafana imports $repo/cluster/metrics/pdray.json"
    fi
}
