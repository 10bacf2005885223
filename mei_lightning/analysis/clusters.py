"""Clusters of MEIs that are alike in all but place, and a two-dimensional map of them."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from mei_lightning.exceptions import InvalidValueError

Array = NDArray[np.floating[Any]]

_MOST_CLUSTERS = 50
_LEAST_NEURONS = 3
_PATIENCE = 5
_STARTS = 5
_VARIANCE_KEPT = 0.95
_LEAST_VARIANCE = 1e-4
_MAP_PERPLEXITY = 15.0


def cluster_meis(measures: xr.Dataset, clusters: int | None = None, *, seed: int = 0) -> xr.Dataset:
    """Cluster MEIs by what they are like, wherever they are, and lay them out in two dimensions.

    The features (``clustering_features``) are reduced to the principal components that hold 95 % of their variance, and
    a mixture of Gaussians is fitted to them. Types are not used; where they are known, the clusters are compared with
    them by the adjusted Rand index (Hubert and Arabie 1985).

    Args:
        measures: from ``measure_meis``, best with a model, which tells ON-OFF cells.
        clusters: how many; by default the number with the lowest Bayesian information criterion (Schwarz 1978), among
            those that leave three neurons to a cluster in the mean.
        seed: determines the starts of the fit and the map.

    Returns:
        Along ``neuron``, ``cluster``, 0 for the largest, -1 for neurons without an MEI; ``cluster_probability``, that
        of the neuron's cluster under the mixture; and ``map`` ``[neuron, map_axis]``, a t-SNE of the same components
        (van der Maaten and Hinton 2008), NaN for neurons without an MEI. Coordinates: those of the measures along
        ``neuron``. Attribute ``adjusted_rand_index`` if types are known of at least two neurons with an MEI: 1 if
        clusters and types are the same, about 0 if they have nothing to do with each other.

    Raises:
        ValueError: if fewer than two neurons have an MEI, or ``clusters`` is not between 1 and their number.

    Example:
        >>> cells = [("session_1", index) for index in (0, 3, 8, 11)]  # ON sustained and OFF transient in turn
        >>> meis = ml.find_meis("simulated", cells, search="quick", max_steps=8, progress_bar=False)
        >>> found = ml.cluster_meis(ml.measure_meis(meis, "simulated", progress_bar=False), clusters=2)
        >>> found.cluster.values[:2].tolist() == found.cluster.values[2:].tolist()
        True
        >>> found.attrs["adjusted_rand_index"]  # clusters are types
        1.0
    """
    features = clustering_features(measures)
    present = np.isfinite(features.values).all(axis=1)
    count = int(present.sum())
    if count < 2:
        raise InvalidValueError(f"{count} of these {len(present)} neurons have an MEI: clusters need at least two.")
    if clusters is not None and not 1 <= clusters <= count:
        raise InvalidValueError(f"clusters={clusters} is not between 1 and the number of neurons with an MEI, {count}.")
    components = _principal_components(features.values[present])
    # Random starts are drawn by position; sorted, they do not depend on the order of the neurons.
    order = np.lexsort(components.T)
    numbers, components = np.flatnonzero(present)[order], components[order]
    mixture = _mixture(components, clusters, seed)
    found = mixture.predict(components)
    by_size = np.argsort(-np.bincount(found, minlength=mixture.n_components), kind="stable")
    cluster = np.full(len(present), -1)
    cluster[numbers] = np.argsort(by_size)[found]
    probability = np.full(len(present), np.nan)
    probability[numbers] = mixture.predict_proba(components).max(axis=1)
    places = np.full((len(present), 2), np.nan)
    places[numbers] = _map(components, seed)

    result = xr.Dataset(
        {
            "cluster": ("neuron", cluster, {"long_name": "cluster, -1 without an MEI"}),
            "cluster_probability": ("neuron", probability, {"units": "1", "long_name": "probability of the cluster"}),
            "map": (("neuron", "map_axis"), places, {"units": "1", "long_name": "place in a map of similar MEIs"}),
        },
        coords={name: values for name, values in measures.coords.items() if values.dims == ("neuron",)},
    )
    if "type" in result.coords:
        known = present & (result["type"].values != "")
        if known.sum() >= 2:
            index = adjusted_rand_score(result["type"].values[known], cluster[known])
            result.attrs["adjusted_rand_index"] = float(index)
    return result


def clustering_features(measures: xr.Dataset) -> xr.DataArray:
    """What MEIs are clustered by: numbers that depend neither on place, nor on the direction of motion or norm.

    - the temporal kernels of all channels, at unit norm together. Of a stimulus that drifts they depend on where in its
      pattern one looks, so they count less, the larger the direction index is. An ON-OFF cell's MEI can be of either
      sign; its kernels are turned so that the largest peak is positive.
    - the logarithm of the centre's size
    - the direction index
    - polarity: whether ON, OFF or ON-OFF

    Each of the four is scaled to a total variance of 1 over the neurons, so that none outweighs another.

    Args:
        measures: from ``measure_meis``.

    Returns:
        ``[neuron, feature]``; NaN for neurons without an MEI. A size that could not be measured is taken to be the
        median, and a direction index 0.
    """
    kernels = measures["temporal_kernel"].transpose("neuron", "channel", "time").values.astype(np.float64)
    courses = kernels.reshape(len(kernels), -1)
    norms = np.linalg.norm(courses, axis=1, keepdims=True)
    present = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    courses = courses[present] / norms[present]

    polarity = measures["polarity"].values[present]
    direction = np.nan_to_num(measures["direction_index"].values[present])[:, None]
    size = np.log(measures["centre_size"].values[present])
    median = np.nanmedian(size) if np.isfinite(size).any() else 0.0
    size = np.where(np.isfinite(size), size, median)[:, None]
    peaks = np.take_along_axis(courses, np.abs(courses).argmax(axis=1)[:, None], axis=1)
    courses = np.where(polarity[:, None] == "ON-OFF", courses * np.sign(peaks), courses) * (1 - direction)
    kinds = np.stack([polarity == kind for kind in ("ON", "OFF", "ON-OFF")], axis=1).astype(np.float64)

    blocks = {"course": courses, "size": size, "direction": direction, "polarity": kinds}
    names = [name for name, block in blocks.items() for _ in range(block.shape[1])]
    features = np.full((len(kernels), len(names)), np.nan)
    features[present] = np.concatenate([_of_unit_variance(block) for block in blocks.values()], axis=1)
    return xr.DataArray(
        features,
        dims=("neuron", "feature"),
        coords={"neuron": measures["neuron"].values, "feature": names},
        name="features",
    )


def _of_unit_variance(block: Array) -> Array:
    """A block of features, its mean 0 and its total variance 1; zeros if all neurons are the same."""
    centred = block - block.mean(axis=0)
    variance = np.mean(np.sum(centred**2, axis=1))
    return centred / np.sqrt(variance) if variance > 1e-12 else np.zeros_like(centred)


def _principal_components(features: Array) -> Array:
    # If all neurons are alike there is no variance to have a share of.
    with np.errstate(invalid="ignore"):
        components = PCA(random_state=0).fit(features)
    variance = np.cumsum(components.explained_variance_)
    kept = 1 + int(np.searchsorted(variance, _VARIANCE_KEPT * variance[-1]))
    return components.transform(features)[:, :kept]


def _mixture(components: Array, clusters: int | None, seed: int) -> GaussianMixture:
    """The mixture with so many Gaussians, or with the number of them that has the lowest BIC."""

    def fit(number: int) -> GaussianMixture:
        # Clusters narrower than this are rounding, not types.
        return GaussianMixture(number, reg_covar=_LEAST_VARIANCE, n_init=_STARTS, random_state=seed).fit(components)

    if clusters is not None:
        return fit(clusters)
    best = fit(1)
    for number in range(2, min(_MOST_CLUSTERS, len(components) // _LEAST_NEURONS) + 1):
        mixture = fit(number)
        if mixture.bic(components) < best.bic(components):
            best = mixture
        if number == best.n_components + _PATIENCE:
            break
    return best


def _map(components: Array, seed: int) -> Array:
    perplexity = min(_MAP_PERPLEXITY, (len(components) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(components)
