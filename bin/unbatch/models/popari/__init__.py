"""POPARI (Alam et al., bioRxiv 2025): a hidden Markov random field on the shares of metagenes in neighbouring cells.

Here is its mathematics. The model that is fitted is BatchBlend's without a batch effect, with this field as its last
phase: `unbatch.models.batchblend.Settings.popari`.
"""
