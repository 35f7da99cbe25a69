"""Names of aspects that mean something. Imports nothing: workers read it without the settings and what those need."""

# What the reward model of all aspects together is called where aspects are.
UNIFIED = "unified"
