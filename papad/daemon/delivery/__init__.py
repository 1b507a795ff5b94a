"""Delivery of output: to watches, which acknowledge it, and to readers, which do not.

May import tables and below.
"""
