"""Bake-off of `tiller bench steering`: steering methods compared at equal tuning."""
