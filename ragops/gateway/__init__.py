"""The gateway service: it divides a rerank request over replicas, caches scores and meets a deadline.

It runs alone in its own image, as the top-level package ``gateway``: it imports nothing else of ragops.
"""
