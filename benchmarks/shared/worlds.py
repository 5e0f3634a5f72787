"""Worlds: data sets some of whose images come from elsewhere, by a shift that is known."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from sklearn.cluster import KMeans

from consilia.data.phantoms import write_phantoms
from consilia.decision.ood.picture import describe

HOSTS = ("radiopaedia.org", "github.com")  # of the collections that are large enough to be left out


@dataclass(frozen=True, slots=True)
class World:
    """Images of a data set, and which of them come from elsewhere."""

    table: pd.DataFrame  # path, label, patient, elsewhere
    images: Path
    size: int
    epochs: int
    clusters: int  # of look-alikes


def worlds(data: Path | None, *, quick: bool) -> dict[str, Callable[[Path], World]]:
    """Return what makes each world; making it again changes nothing."""
    n_seeds = 1 if quick else 4
    found: dict[str, Callable[[Path], World]] = {
        f"phantoms-{seed}": partial(of_phantoms, seed=seed, quick=quick) for seed in range(n_seeds)
    }
    if data and not quick:
        found |= {f"cxr-{host}": partial(of_views, root=data / "cxr-views", host=host) for host in HOSTS}
        archive = data / "pneumoniamnist_28.npz"
        found |= {f"pneumonia-{seed}": partial(of_pneumonia, archive=archive, seed=seed) for seed in range(3)}
    return found


def of_phantoms(folder: Path, *, seed: int, quick: bool) -> World:
    """Images of one scanner are from here, those of the other from elsewhere."""
    root = write_phantoms(folder, patients=60 if quick else 400, size=32, seed=seed)
    table = pd.read_csv(root / "metadata.csv")
    here = sorted(table["scanner"].unique())[seed % 2]
    table["elsewhere"] = table["scanner"] != here
    return World(table, root, size=32, epochs=2 if quick else 10, clusters=12)


def of_views(_: Path, *, root: Path, host: str) -> World:
    """Images that one collection published are from elsewhere."""
    table = pd.read_csv(root / "metadata.csv").rename(columns={"filename": "path", "view": "label"})
    table["patient"] = table["patientid"].astype(str)
    hosts = table["url"].map(lambda url: urlparse(url).netloc)
    table["elsewhere"] = table["patient"].isin(table.loc[hosts == host, "patient"])
    return World(table, root / "images", size=64, epochs=10, clusters=30)


def of_pneumonia(folder: Path, *, archive: Path, seed: int, n_images: int = 1500, n_clusters: int = 20) -> World:
    """A fifth of the clusters of look-alikes is from elsewhere; the official test split takes no part."""
    with np.load(archive, allow_pickle=False) as full:
        pixels = np.concatenate([full["train_images"], full["val_images"]])
        labels = np.concatenate([full["train_labels"], full["val_labels"]]).ravel()
    chosen = np.random.default_rng(seed).choice(len(pixels), size=n_images, replace=False)
    pixels, labels = pixels[chosen], labels[chosen]
    clusters = cluster(pixels[..., None], np.arange(n_images), n_clusters)
    far = np.random.default_rng(seed).permutation(n_clusters)[: n_clusters // 5]
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04}.png" for number in range(n_images)]
    for name, image in zip(names, pixels, strict=True):
        if not (folder / name).exists():
            Image.fromarray(image).save(folder / name)
    classes = np.array(["normal", "pneumonia"])
    table = {"path": names, "label": classes[labels], "patient": names, "elsewhere": np.isin(clusters, far)}
    return World(pd.DataFrame(table), folder, size=28, epochs=6, clusters=n_clusters)


def cluster(pixels: npt.NDArray[np.uint8], patients: npt.NDArray[Any], n_clusters: int) -> npt.NDArray[np.int64]:
    """Return the cluster of look-alikes of each image, (n_images,); images of a patient are in one."""
    features = pd.DataFrame(describe(pixels))
    means = features.groupby(patients).mean()
    spread = means.std().clip(lower=0.3 * means.std().median())
    found = KMeans(n_clusters, random_state=0, n_init=4).fit_predict((means - means.mean()) / spread)
    result: npt.NDArray[np.int64] = pd.Series(found, index=means.index).loc[patients].to_numpy()
    return result
