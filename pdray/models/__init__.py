"""The facts of a model folder: what is checked before it is loaded, how it is loaded, and two that packages hold."""
