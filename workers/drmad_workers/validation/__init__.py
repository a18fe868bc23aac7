"""Validation of hypergradients by retraining: do they predict what a change of λ does?"""
