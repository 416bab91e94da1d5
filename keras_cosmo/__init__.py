"""Deep learning on cosmological maps in Keras 3: five published networks, from simulation to SavedModel."""

__version__ = "0.1.0"
