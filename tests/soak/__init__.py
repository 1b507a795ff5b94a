"""Three papads under the same load for a long time: nothing grows, nothing is lost. `make soak` is an hour of it.

One is left alone. One is killed again and again, and its keeper starts it anew. One is told to end again and again, and a
service manager starts it anew. The trend is taken in each (trend.py), for what a daemon that lives long collects is not
what the store and the nursery collect over restarts.
"""
