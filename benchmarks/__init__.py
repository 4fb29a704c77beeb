"""How fast hookline is, beside a loop written by hand and beside other trainers.

python -m benchmarks                 # everything, from the repository root; about 45 minutes
python -m benchmarks --list          # what there is
python -m benchmarks --cases mlp-small --contenders bare-fused hookline-usual --rounds 3
"""
