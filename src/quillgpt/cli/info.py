"""`quill info`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import MODEL, from_home
from quillgpt.config import SampleSettings, resolve_flat
from quillgpt.console import stdout, table

DATA_DIR = Parameter("--data_dir", converter=from_home, help=SampleSettings.model_fields["data_dir"].description)
SAID = ("bias", "dropout", "tokenizer", "tokenizer_fingerprint")
"""The values of config.json that other rows show."""


def info(model: Annotated[str, MODEL], /, *, data_dir: Annotated[str | None, DATA_DIR] = None) -> None:
    """Describe a model: configuration, parameters, tokenizer, where it comes from."""
    settings = resolve_flat(SampleSettings, {} if data_dir is None else {"data_dir": data_dir})

    from quillgpt.checkpoint.load import identify
    from quillgpt.interop import open_model
    from quillgpt.optim.groups import count_values, group_parameters

    loaded = open_model(model, data_dir=Path(settings.data_dir))
    config, skeleton = loaded.config, loaded.skeleton()
    groups = group_parameters(skeleton)
    end = loaded.tokenizer.end_of_text
    table(
        str(loaded.folder),
        {
            **{
                name: value
                for name, value in asdict(config).items()
                if name not in (config.architecture.unused | {"kernel"})
            },
            "attention": str(config.kernel),
            "dropout": loaded.dropout,
            "parameters": f"{skeleton.parameter_count():,} "
            f"({skeleton.parameter_count(positions=False):,} without positions)",
            "matrices": count_values(groups.decayed),
            "vectors": count_values(groups.vectors),
            "tokenizer": f"{identify(loaded.tokenizer)}, "
            + ("no end-of-text" if end is None else f"end-of-text is {end}"),
            **{name: value for name, value in loaded.about.items() if name not in SAID},
        },
        console=stdout,
    )
