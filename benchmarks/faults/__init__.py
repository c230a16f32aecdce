"""Kills training, demonstrations and evaluation at random times, and compares what becomes of them.

    python -m benchmarks.faults --kills 100 --output runs/bench/faults

`cases` has the commands, `kills` draws and delivers the signals, `starts` runs a command and says in which
phase it is, `comparison` compares two folders, `record` is the log that a benchmark goes on from.
"""
