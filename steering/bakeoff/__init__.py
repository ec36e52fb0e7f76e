"""The bake-off behind `tiller bench steering`: steering methods compared at equal tuning."""
