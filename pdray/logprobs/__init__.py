"""How likely the policy and the reference find every response."""
