"""What the documentation's figures come from: `python -m benchmarks` (or `make bench`) measures and reports.

`workload` says what is asked, `streams` what is measured of an answer; `served`, `bare` and `yardstick` are the three
contenders; `agreement` compares their tokens; `report` and `plot` write the results down.
"""
