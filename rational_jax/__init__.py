"""Language models that reason about safety before they answer: data, training, export and measurement on JAX."""

__version__ = "0.1.0"
"""The package's version, in every manifest and model card."""
