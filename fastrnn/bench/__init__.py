"""The benchmark behind ``fastrnn bench``: cases, contenders in processes of their own, the machine's limits, reports.

One table, `cases`, drives the command, ``pytest benchmarks`` and the tests. Nothing here is imported by the library.
"""
