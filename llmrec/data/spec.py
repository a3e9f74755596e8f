"""From a dataset spec, as every command takes it, to a `Dataset`.

Specs: ``films`` (embedded), ``movielens:PATH``, ``amazon:PATH``, ``redial:PATH``, ``opendialkg:PATH``, ``table:PATH``.
What is read from a path is converted once, kept in a cache by content hash, and opened memory-mapped afterwards.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc

from llmrec.assets import cache_dir
from llmrec.data import cache as store
from llmrec.data.arrow import numpy_column
from llmrec.data.build import Events, Raw, collect_events
from llmrec.data.catalogue import Catalogue, hash_table
from llmrec.data.dataset import Dataset, Rejected
from llmrec.data.files import FileSet, SourceFile, content_key
from llmrec.data.interactions import FILE_ORDER, Interactions
from llmrec.data.rejections import RejectedRows, Rejections
from llmrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOADER_VERSION = 3
"""Raise it when a loader reads the same files differently: old caches are then left alone and new ones written."""
_SOURCES = {
    "movielens": "llmrec.data.movielens",
    "amazon": "llmrec.data.amazon",
    "redial": "llmrec.data.redial",
    "opendialkg": "llmrec.data.opendialkg",
    "table": "llmrec.data.tables",
}
_FORMS = "films, movielens:PATH, amazon:PATH, redial:PATH, opendialkg:PATH or table:PATH"


class _Source(Protocol):
    def source_files(self, files: FileSet) -> list[SourceFile]: ...
    def read(self, files: FileSet, rejections: Rejections) -> Raw: ...


class Spec(NamedTuple):
    """A parsed spec."""

    kind: str
    path: Path | None


def parse(spec: str) -> Spec:
    """Check the form of a spec without touching the disk.

    Raises:
        ConfigError: it is none of the known forms.
    """
    kind, colon, path = spec.strip().partition(":")
    if kind == "films" and not colon:
        return Spec(kind, None)
    if kind not in _SOURCES:
        raise ConfigError(f"unknown dataset spec, got {spec!r}; expected {_FORMS}")
    if not path:
        raise ConfigError(f"the spec {spec!r} lacks its path; write {kind}:PATH")
    return Spec(kind, Path(path).expanduser())


def load(spec: str, *, seed: int = 0, strict: bool = False, cache: Path | None = None) -> Dataset:
    """Load a dataset.

    Args:
        spec: films, movielens:PATH, amazon:PATH, redial:PATH, opendialkg:PATH or table:PATH.
        seed: for generated data (films); others ignore it.
        strict: raise at the first rejected row instead of reporting it in `Dataset.rejected`.
        cache: folder for converted data; default the cache folder of the user ($LLMREC_CACHE).

    Raises:
        ConfigError: the spec or a settings file is wrong.
        DataError: the data is missing or unusable, or a row was rejected and `strict` is set.
        CacheError: the cached conversion is damaged.
        StorageError: the disk is full.
    """
    kind, path = parse(spec)
    if path is None:
        from llmrec.data.films import load_films

        return load_films(seed=seed)
    source = cast("_Source", importlib.import_module(_SOURCES[kind]))
    files = FileSet(path)
    key = content_key(source.source_files(files))
    settings = hashlib.sha256(f"{LOADER_VERSION}|{kind}|{pa.__version__}|{path.stem}".encode()).hexdigest()
    folder = (cache or cache_dir()) / "data" / f"{kind}-{key[:20]}-{settings[:8]}"
    opened = store.load(folder)
    if opened is None:
        rejections = Rejections()
        raw = source.read(files, rejections)
        store.store(folder, *_converted(raw, collect_events(raw, rejections), rejections))
        opened = store.load(folder)
    if opened is None:
        raise store.damaged(folder, "it vanished while it was read")
    dataset = _open(spec, *opened)
    if strict and dataset.rejected:
        raise _strict_error(dataset.rejected)
    return dataset


def _strict_error(rejected: Sequence[Rejected]) -> DataError:
    first = rejected[0]
    where = f"{first.source} line {first.line}: {first.reason}: {first.text!r}"
    return DataError(f"{len(rejected)} rows were rejected (strict), the first in {where}")


def _converted(raw: Raw, events: Events, rejections: Rejections) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tables and description for the cache."""
    users, user_notes = _users(raw.users, events.user_ids)
    columns: dict[str, Any] = {"user": events.users, "item": events.items, "timestamp": events.timestamps}
    if events.ratings is not None:
        columns["rating"] = events.ratings
    tables = {
        "items": raw.items,
        "events": pa.table(columns),
        "offsets": pa.table({"offset": events.offsets}),
        "users": users,
        "rejected": rejections.table(),
    }
    interactions = _interactions(tables, events.time_is_order_only, len(raw.items))
    meta = {
        "name": raw.name,
        "flat_fields": raw.flat_fields,
        "separator": raw.separator,
        "kinds": raw.kinds,
        "notes": [*raw.notes, *events.notes, *user_notes],
        "licence": raw.licence,
        "item_noun": raw.item_noun,
        "domain": raw.domain,
        "order_only": events.time_is_order_only,
        "catalogue_hash": hash_table(raw.items),
        "interactions_hash": interactions.content_hash,
    }
    return tables, meta


def _users(attributes: Any | None, user_ids: Any) -> tuple[Any, list[str]]:
    """One row per user with events, in their order."""
    if attributes is None:
        return pa.table({"user_id": user_ids}), []
    rows = pc.index_in(user_ids, value_set=attributes.column("user_id").cast(pa.string()))
    aligned = attributes.take(rows)
    aligned = aligned.set_column(aligned.column_names.index("user_id"), "user_id", user_ids)
    known = len(user_ids) - rows.null_count
    notes = [f"users: {attributes.num_rows - known} described users have no interactions and are left out"]
    if rows.null_count:
        notes.append(f"users: {rows.null_count} users with interactions are not described")
    return aligned, notes


def _interactions(
    tables: Mapping[str, Any], order_only: bool, n_items: int, content_hash: str | None = None
) -> Interactions:
    users = tables["users"]
    return Interactions.from_table(
        tables["events"],
        numpy_column(tables["offsets"], "offset"),
        user_ids=(users if isinstance(users, pa.Table) else users.data.table).column("user_id"),
        n_items=n_items,
        time_is_order_only=order_only,
        tie_rule=FILE_ORDER,
        users=users,
        content_hash=content_hash,
    )


def _open(spec: str, tables: dict[str, Any], meta: dict[str, Any]) -> Dataset:
    """A dataset over memory-mapped tables."""
    catalogue = Catalogue(
        tables["items"],
        flat_fields=tuple(meta["flat_fields"]),
        separator=meta["separator"],
        kinds=meta["kinds"],
        content_hash=meta["catalogue_hash"],
    )
    rejected = tables["rejected"].data.table
    return Dataset(
        name=meta["name"],
        spec=spec,
        catalogue=catalogue,
        interactions=_interactions(tables, meta["order_only"], len(catalogue), meta["interactions_hash"]),
        rejected=RejectedRows(rejected) if rejected.num_rows else (),
        notes=tuple(meta["notes"]),
        licence=meta["licence"],
        item_noun=meta["item_noun"],
        domain=meta["domain"],
    )
