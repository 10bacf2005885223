"""What functions return is saved by xarray's own functions, with the engines that there are, and read again."""

import numpy as np
import pytest
import xarray as xr
from conftest import find, needs_export, still_model
from lightning.pytorch import Trainer

import mei_lightning as ml

MODEL = still_model()
SETTINGS = {"max_steps": 2, "restarts": 1}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    find(MODEL, [0, 1], directory=place, **SETTINGS)
    return place


def of_a_directory(directory):
    return find(MODEL, [0, 1], directory=directory, **SETTINGS)


def of_a_module(directory):
    module = ml.MEIModule(MODEL, [0, 1], **SETTINGS)
    Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[ml.ResultsWriter(directory, report=False)],
    ).fit(module)
    return module.meis()


RETURNED = {
    "find_meis": lambda directory: find(MODEL, [0], **SETTINGS),
    "find_meis, with a directory": of_a_directory,
    "MEIModule.meis": of_a_module,
    "analyze_meis": lambda directory: ml.analyze_meis(
        directory / "meis.zarr", progress_bar=False, overwrite=True, accelerator="cpu"
    ),
    "score_held_out": lambda directory: ml.score_held_out(
        directory / "meis.zarr", still_model(1), progress_bar=False, accelerator="cpu"
    ),
    "most_similar_meis": lambda directory: ml.most_similar_meis(opened(directory), "0", n=1),
    "compare_meis": lambda directory: ml.compare_meis(opened(directory), opened(directory), progress_bar=False),
    "measure_meis": lambda directory: ml.measure_meis(opened(directory), progress_bar=False),
    "find_diverse_stimuli": lambda directory: ml.find_diverse_stimuli(
        MODEL, [0], number=2, search="quick", max_steps=2, progress_bar=False
    ),
    "find_meis, several norms": lambda directory: find(MODEL, [0], norm=[1, 2], **SETTINGS),
    "open_norms": lambda directory: opened_norms(directory / "norms"),
    "find_receptive_fields": lambda directory: ml.find_receptive_fields(MODEL, [0]),
}


def opened_norms(directory):
    find(MODEL, [0, 1], norm=[1, 2], directory=directory, **SETTINGS)
    return ml.open_norms(directory)


def opened(directory):
    """As users open a store, with all that zarr says of it."""
    return xr.open_zarr(directory / "meis.zarr", chunks=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The data type", "ignore:Consolidated metadata")
@pytest.mark.parametrize("function", RETURNED)
def test_what_a_function_returns_is_saved_by_xarray(function, directory, tmp_path):
    needs_export()
    returned = RETURNED[function](directory)
    returned = returned.to_dataset() if isinstance(returned, xr.DataArray) else returned
    returned.to_zarr(tmp_path / "a")
    returned.to_netcdf(tmp_path / "default.nc")
    returned.to_netcdf(tmp_path / "h5.nc", engine="h5netcdf")
    returned.to_netcdf(tmp_path / "3.nc", engine="scipy")
    for again in [
        xr.open_zarr(tmp_path / "a", chunks=None),
        xr.open_dataset(tmp_path / "default.nc"),
        xr.open_dataset(tmp_path / "h5.nc", engine="h5netcdf"),
        xr.open_dataset(tmp_path / "3.nc", engine="scipy"),
    ]:
        with again:
            for name, values in returned.variables.items():
                # Seeds have more bits than a number of NetCDF 3.
                expected = values.values.astype(str) if name == "seed" else values.values
                np.testing.assert_array_equal(again[name].values, expected, err_msg=str(name))
            assert again.attrs["configuration"] == returned.attrs["configuration"] if returned.attrs else True
