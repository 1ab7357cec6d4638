"""Stores: one module for each kind, all with the contract of ``stores.base``."""
