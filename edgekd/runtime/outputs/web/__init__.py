"""The output `[web]`: a live page with its event stream, and metrics for Prometheus.

Standard library and numpy alone. The page loads nothing from other sites, and nothing here waits for a client.
"""
