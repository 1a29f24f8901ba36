"""Data sets of the hub in a local cache, as a download leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMIT = "1" * 40


def write_cached(root: Path, repository: str, config: str, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A config of `org/name` at COMMIT. All rows have the columns of the first one."""
    import datasets
    from datasets.arrow_writer import ArrowWriter
    from datasets.naming import camelcase_to_snakecase

    org, _, name = repository.partition("/")
    snake = camelcase_to_snakecase(name)
    folder = root / f"{org}___{snake}" / config / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    features = datasets.Dataset.from_list([dict(rows[0]) for rows in splits.values()][:1]).features
    sizes = {}
    for split, rows in splits.items():
        with ArrowWriter(path=str(folder / f"{snake}-{split}.arrow"), features=features) as writer:
            for row in rows:
                writer.write(dict(row))
            count, size = writer.finalize()
        sizes[split] = datasets.SplitInfo(split, num_bytes=size, num_examples=count, dataset_name=snake)
    info = datasets.DatasetInfo(
        features=features, config_name=config, dataset_name=snake, splits=datasets.SplitDict(sizes)
    )
    info.write_to_directory(str(folder))
