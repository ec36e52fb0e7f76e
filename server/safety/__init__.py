"""Policy, guards and easing: what may be steered, what is checked, what is weakened."""
