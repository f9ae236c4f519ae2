"""Pairs of a kind of its own: the documentation of the libraries that are installed here."""

import inspect
import re
import warnings
from collections.abc import Iterable
from importlib import import_module

import pandas as pd

MODULES = ("numpy", "numpy.fft", "numpy.linalg", "pandas", "scipy.cluster.hierarchy",
           "scipy.fft", "scipy.integrate", "scipy.interpolate", "scipy.linalg",
           "scipy.ndimage", "scipy.optimize", "scipy.signal", "scipy.sparse",
           "scipy.spatial", "scipy.special", "scipy.stats")
_NO_PROSE = re.compile(r"`|::|>>>|\.\. |-{4,}")      # markup, code, a line below a heading


def documentation_pairs(modules: Iterable[str] = MODULES) -> pd.DataFrame:
    """What each function and class is, and its explanation: connected, and nobody scored it.

    Columns: name, sentence1 (the docstring's first paragraph), sentence2 (its second). Only
    prose is taken, of at least 4 and 8 words, and each text once. Which pairs there are
    depends on the versions of the packages.
    """
    rows = []
    for module in modules:
        home = import_module(module)
        public = [name for name in dir(home) if not name.startswith("_")]
        for name in sorted(getattr(home, "__all__", public)):
            with warnings.catch_warnings(action="ignore"):       # a name may be deprecated
                thing = getattr(home, name)
            text = inspect.getdoc(thing) or "" if callable(thing) else ""
            paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)
                          if not each.startswith(f"{name}(")]    # a call: it is written in C
            if (len(paragraphs) > 1 and not _NO_PROSE.search(" ".join(paragraphs[:2]))
                    and len(paragraphs[0].split()) >= 4 and len(paragraphs[1].split()) >= 8):
                rows.append((f"{module}.{name}", *paragraphs[:2]))
    pairs = pd.DataFrame(rows, columns=["name", "sentence1", "sentence2"])
    return pairs.drop_duplicates("sentence1").drop_duplicates("sentence2", ignore_index=True)
