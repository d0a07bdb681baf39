"""The one way to a data set: by name, from a folder, for a network of timm, or from a user's factory."""

from __future__ import annotations

from empool.lab.data import sets
from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.study import networks
from empool.models import Network


def load_data(
    network: Network,
    source: str,
    train_limit: int | None,
    test_limit: int | None,
    workers: int | None = None,
    *,
    validation: float = 0.0,
    label_column: str | None = None,
) -> Data:
    """Load a data set into memory, or list its images for a network that streams them.

    Args:
        network: that it is for.
        source: name of a data set, a folder, or ``package.module:factory``.
        train_limit: number of training images; None for all.
        test_limit: number of test images; None for all.
        workers: processes that load images, where these aren't held in memory.
        validation: share of the training images that is held out.
        label_column: of parquet files.

    Raises:
        LabError: for a source that is absent, incomplete or damaged, or an option that would have no effect.
    """
    own = networks.is_own(source)
    if (own or network.streams) and label_column is not None:
        raise LabError("--label-column is for a folder of parquet files")
    if network.streams and not own:
        if validation:
            raise LabError("--validation is for images in memory, not for networks of timm")
        from empool.lab.data import streams

        return streams.load(source, train_limit, test_limit)
    if own:
        from empool.lab.data import streams

        data: Data = streams.own(source, train_limit, test_limit, validation)
    else:
        data = sets.load(source, train_limit, test_limit, validation=validation, label_column=label_column)
    if workers is not None and isinstance(data, sets.DataSet):
        raise LabError("--workers is for images that are loaded when their turn comes; these are in memory")
    return data
