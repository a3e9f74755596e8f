"""The embedded dataset: real films (facts only) with generated viewers; see docs/films.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmrec.data.catalogue import Catalogue
from llmrec.data.choice import choose
from llmrec.data.choice_films import Film
from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.errors import DataError

CATALOGUE_FILE = Path(__file__).with_name("films_catalogue.jsonl")
ATTRIBUTES = (
    "year", "genres", "directors", "actors", "keywords", "countries", "runtime_min", "series", "logline",
)  # fmt: skip
_TYPES: dict[str, Any] = {"year": pa.int64(), "runtime_min": pa.int64(), "series": pa.string(), "logline": pa.string()}


@cache
def records() -> tuple[dict[str, Any], ...]:
    """The films as plain records, in catalogue order.

    Raises:
        DataError: the file of the installed package is damaged.
    """
    try:
        text = CATALOGUE_FILE.read_text(encoding="utf-8")
        return tuple(json.loads(line) for line in text.splitlines())
    except (OSError, ValueError) as error:
        raise DataError(f"the embedded film catalogue is damaged ({error}); reinstall llmrec") from error


def film_catalogue() -> Catalogue:
    """The films as a catalogue."""
    films = records()
    columns = {name: pa.array([film[name] for film in films], type=pa.string()) for name in ("item_id", "title")}
    for name in ATTRIBUTES:
        columns[name] = pa.array([film[name] for film in films], type=_TYPES.get(name, pa.list_(pa.string())))
    return Catalogue(pa.table(columns), flat_fields=("genres",), kinds={"series": "category", "logline": "text"})


def load_films(*, seed: int = 0, settings: ChoiceSettings | None = None) -> Dataset:
    """The films with generated users; equal seeds give equal data on every machine.

    Args:
        seed: of the users and their choices; the films are always the same.
        settings: of the choice model; the default gives 2,000 users and about 60,000 events.
    """
    settings = settings or ChoiceSettings()
    chosen, planted = choose([_film(record) for record in records()], settings, seed=seed)
    user_ids = [f"u{number:04d}" for number in range(settings.n_users)]
    public = {"user_id": user_ids, "age_group": chosen.age_groups, "occupation": chosen.occupations}
    interactions = Interactions.from_arrays(
        chosen.users,
        chosen.items,
        chosen.timestamps,
        chosen.ratings,
        user_ids=user_ids,
        n_items=len(records()),
        tie_rule="no ties: timestamps increase inside a user",
        users_table=pa.table({name: pa.array(list(values), type=pa.string()) for name, values in public.items()}),
    )
    return Dataset(
        name="films",
        spec="films",
        catalogue=film_catalogue(),
        interactions=interactions,
        notes=(f"users and choices are generated (seed {seed}); films are real", "no user takes a film twice"),
        licence="Apache-2.0 (facts and generated data)",
        item_noun="film",
        domain="films",
        planted=planted,
    )


def _film(record: dict[str, Any]) -> Film:
    lists = {name: tuple(record[name]) for name in ("genres", "keywords", "directors", "actors")}
    return Film(year=record["year"], series=record["series"], series_order=record["series_order"], **lists)
