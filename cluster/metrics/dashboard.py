"""Prints the Grafana dashboard of pdray's metrics: ``python cluster/metrics/dashboard.py > cluster/metrics/pdray.json``

A panel for each metric of :mod:`pdray.metrics`, so that no name is written twice.
"""

from __future__ import annotations

import json
from typing import Any

from pdray.metrics import METRICS, Metric

COLUMNS, WIDTH, HEIGHT = 2, 12, 8
SOURCE = {"type": "prometheus", "uid": "${source}"}


def query(metric: Metric) -> str:
    """What a panel shows: of a counter its growth in a second, of a gauge what there is."""
    labels = ", ".join(("stage", *metric.tags))
    value = f"rate({metric.exported}[$__rate_interval])" if metric.is_counter else metric.exported
    return f"sum by ({labels}) ({value})"


def panel(number: int, metric: Metric) -> dict[str, Any]:
    """The panel of a metric."""
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": metric.about + (", a second" if metric.is_counter else ""),
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": "short", "min": 0}, "overrides": []},
        "options": {"legend": {"showLegend": True, "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": "A",
                "datasource": SOURCE,
                "expr": query(metric),
                "legendFormat": " ".join(f"{{{{{label}}}}}" for label in ("stage", *metric.tags)),
            }
        ],
    }


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "uid": "pdray",
        "title": "pdray",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [panel(number, metric) for number, metric in enumerate(METRICS)],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
