"""`python -m cluster doctor`: what is wrong with a running cluster, before a job finds out."""
