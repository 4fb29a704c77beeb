"""What ``hookline plugins`` tells: plugins looked at from outside, none of them trusted.

Its modules are imported one by one: a list of what is installed needs none of the others.
"""
