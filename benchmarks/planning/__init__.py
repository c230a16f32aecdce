"""Which head learns to plan: problems of tunable length, heads of several shapes, several ways to train.

    python -m benchmarks.planning --suite shapes

`tasks` draws problems, `planner` puts a head of the library behind a small embedding and counts its cost,
`training` has the ways to train, `suites` says what is compared, `tables` formats a log.
"""
