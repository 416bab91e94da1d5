import io
import pathlib

import numpy as np
import pytest


@pytest.fixture(scope="session")
def blank_png():
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ones((8, 8)), format="png")
    return buffer.getvalue()


@pytest.fixture
def undrawn_figures(monkeypatch, blank_png):
    """Figures are made, but not drawn: the same ones as in the run of the module, which takes a third of its time."""
    from matplotlib.figure import Figure

    def savefig(self, target, **options):
        if hasattr(target, "write"):
            target.write(blank_png)
        else:
            pathlib.Path(target).write_bytes(blank_png)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def no_export(monkeypatch):
    """Runs leave no SavedModel, which comes last and takes as long as a short training."""
    from keras_cosmo.export import saved_model

    monkeypatch.setattr(saved_model, "export_saved_model", lambda model, folder, *_, **__: folder)
