"""Proofs that cleaning changed nothing but the masked pixels."""
