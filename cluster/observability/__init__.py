"""Prometheus and Grafana for a cluster, and whether a cluster exports what they ask for."""
