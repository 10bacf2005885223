"""Each public class and function has an example in its docstring, and it runs and prints what it says."""

import doctest
import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from documentation import ROOT

import mei_lightning as ml

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DOCUMENTED = [name for name in ml.__all__ if inspect.isclass(getattr(ml, name)) or inspect.isroutine(getattr(ml, name))]


@pytest.mark.pictures
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DOCUMENTED)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # An example shows what happens without it.
    monkeypatch.delenv("MEI_LIGHTNING_ALLOW_UNPICKLING", raising=False)
    plt.switch_backend("Agg")
    names = {"ml": ml, "np": np, "torch": torch, "plt": plt}
    text = inspect.getdoc(getattr(ml, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert example.examples, f"{name} has no example"
    assert "+SKIP" not in text, f"an example of {name} is not run"
    said = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert not said, "".join(said)


def test_reference_lists_each_public_name_once():
    listed = [
        line.strip() for line in (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8").splitlines()
    ]
    assert {name: listed.count(name) for name in ml.__all__} == dict.fromkeys(ml.__all__, 1)
