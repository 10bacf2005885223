"""MEIs of a store as one file, for programs that do not read zarr."""

import importlib
import json
import uuid
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr

from mei_lightning.exceptions import InvalidValueError, MissingPackageError, NothingThereError
from mei_lightning.paths import local_path
from mei_lightning.results.disk_errors import free_place
from mei_lightning.results.replacing import replace


def export_meis(store_path: str | Path, target: str | Path) -> Path:
    """Copy a store's dataset, of all neurons whatever their status, into one file.

    The memory that this needs does not grow with the number of neurons, except for their labels and scores. Results
    that have not been collected (``MEIStore.collect``) have the status "pending".

    Args:
        store_path: a store of MEIs, or any other dataset that ``xarray.open_zarr`` reads.
        target: the file to make: ``.nc`` (NetCDF4) or ``.h5`` (the same, which is HDF5), read with
            ``xarray.open_dataset(target, engine="h5netcdf")``; or ``.npz``, read with ``numpy.load``: an array for
            each variable and coordinate, and ``attributes`` as JSON.

    Returns:
        ``target``. It appears once it is complete.

    Raises:
        ValueError: if the name of ``target`` ends otherwise.
        FileExistsError: if there is something at ``target`` already.
        FileNotFoundError: if there is nothing at ``store_path``.
        ImportError: if packages that write NetCDF4 are missing.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> store = ml.save_dataset(meis, "meis.zarr")
        >>> with np.load(ml.export_meis(store, "meis.npz")) as file:
        ...     print(file["neuron"], file["stimulus"].shape)
        ['session_1/0'] (1, 2, 40, 18, 16)
    """
    store_path, target = local_path("store_path", store_path), local_path("target", target)
    write = {".nc": _write_netcdf, ".h5": _write_netcdf, ".npz": _write_npz}.get(target.suffix)
    if write is None:
        raise InvalidValueError(f"{target} ends in '{target.suffix}'; MEIs are exported to files in .nc, .h5 or .npz.")
    if not store_path.exists():
        raise NothingThereError(f"There is no store of MEIs at {store_path}.")
    if write is _write_netcdf:
        _check_netcdf_packages(target.suffix)
    free_place("target", target)
    hidden = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}.partial")
    try:
        write(store_path, hidden)
        replace(hidden, target)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return target


def _check_netcdf_packages(suffix: str) -> None:
    for package in ("h5netcdf", "h5py", "dask"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingPackageError(
                f'An export to {suffix} needs the package {package}: pip install "mei-lightning[export]". An export '
                "to .npz needs none."
            ) from error


def _write_netcdf(store_path: str | Path, path: Path) -> None:
    dask = importlib.import_module("dask")
    # One neuron at a time: HDF5 writes no two at once, so more of them would only fill memory.
    with xr.open_zarr(store_path, chunks={}) as dataset, dask.config.set(scheduler="synchronous"):
        dataset.to_netcdf(path, engine="h5netcdf")


def _write_npz(store_path: str | Path, path: Path) -> None:
    with xr.open_zarr(store_path, chunks=None) as dataset, zipfile.ZipFile(path, "w") as archive:
        for name, variable in dataset.variables.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {
                    "descr": np.lib.format.dtype_to_descr(variable.dtype),
                    "fortran_order": False,
                    "shape": variable.shape,
                }
                np.lib.format.write_array_header_1_0(member, header)
                rows = variable.encoding["chunks"][0]
                for start in range(0, variable.shape[0], rows):
                    member.write(np.ascontiguousarray(variable[start : start + rows].values).tobytes())
        with archive.open("attributes.npy", "w") as member:
            np.lib.format.write_array(member, np.array(json.dumps(dataset.attrs)), allow_pickle=False)
