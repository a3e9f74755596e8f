"""The journal: one table of finished sessions keyed by (run, user, policy), one transaction per session.

A killed run leaves only whole sessions behind, and the run that resumes it skips those. SQLite by default; any
SQLAlchemy URL works. A run remembers its settings: resuming with others is an error that names the difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
from sqlalchemy import JSON, Engine, Integer, String, create_engine, event, select
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as Transaction

from llmrec.errors import CacheError, ConfigError, DataError, StorageError
from llmrec.simulate.session import Session

_BUSY_TIMEOUT_S = 30
_NO_SPACE = ("disk is full", "no space left", "disk full")
_DAMAGED = ("malformed", "not a database", "disk image", "corrupt")


class _Base(DeclarativeBase):
    pass


class _Run(_Base):
    __tablename__ = "runs"
    run: Mapped[str] = mapped_column(String(200), primary_key=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)


class _Session(_Base):
    __tablename__ = "sessions"
    run: Mapped[str] = mapped_column(String(200), primary_key=True)
    user: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    policy: Mapped[str] = mapped_column(String(100), primary_key=True)
    ended: Mapped[str] = mapped_column(String(40))
    n_rounds: Mapped[int] = mapped_column(Integer)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


class RunInfo(NamedTuple):
    """A run in a journal."""

    run: str
    settings: Mapping[str, Any]
    n_sessions: int


class Journal:
    """Finished sessions in a database.

    Args:
        target: path of an SQLite file (made when absent), or a SQLAlchemy URL.
        create: make the file and its tables when they are absent; else a missing file is an error.

    Raises:
        CacheError: the file is no journal, or is damaged.
        StorageError: the place cannot be read or written.
    """

    def __init__(self, target: str | Path, *, create: bool = True) -> None:
        self.name = str(target)
        self._engine = _engine(self.name, create=create)
        with self._guard():
            _Base.metadata.create_all(self._engine)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def open_run(self, run: str, settings: Mapping[str, Any]) -> frozenset[tuple[int, str]]:
        """Start a run, or resume it.

        Args:
            settings: everything that decides what the sessions look like, as plain JSON values.

        Returns:
            (user, policy) of the sessions that the run has already.

        Raises:
            ConfigError: the run exists with other settings.
        """
        given = json.loads(json.dumps(dict(settings)))
        with self._guard():
            try:
                with Transaction(self._engine) as work, work.begin():
                    known = work.get(_Run, run)
                    if known is None:
                        work.add(_Run(run=run, settings=given))
            except IntegrityError:  # another process has just opened it
                known = None
            with Transaction(self._engine) as work:
                stored = work.get(_Run, run)
                done = work.execute(select(_Session.user, _Session.policy).where(_Session.run == run)).all()
        if stored is not None:
            _same_settings(run, stored.settings, given)
        return frozenset((int(user), str(policy)) for user, policy in done)

    def add(self, run: str, session: Session) -> bool:
        """Write one session in one transaction.

        Returns:
            False when the journal has it already (another process was faster); then nothing is changed.
        """
        row = _Session(
            run=run,
            user=session.user,
            policy=session.policy,
            ended=session.ended,
            n_rounds=len(session.rounds),
            payload=session.model_dump(mode="json"),
        )
        with self._guard():
            try:
                with Transaction(self._engine) as work, work.begin():
                    work.add(row)
            except IntegrityError:
                return False
        return True

    def sessions(self, run: str, *, user: int | None = None, policy: str | None = None) -> list[Session]:
        """Sessions of a run, ordered by policy and user."""
        query = select(_Session.payload).where(_Session.run == run).order_by(_Session.policy, _Session.user)
        query = query if user is None else query.where(_Session.user == user)
        query = query if policy is None else query.where(_Session.policy == policy)
        with self._guard(), Transaction(self._engine) as work:
            payloads = work.execute(query).scalars().all()
        return [self._read(payload) for payload in payloads]

    def runs(self) -> list[RunInfo]:
        """Every run with its number of sessions, by name."""
        with self._guard(), Transaction(self._engine) as work:
            runs = work.execute(select(_Run).order_by(_Run.run)).scalars().all()
            sizes = [len(work.execute(select(_Session.user).where(_Session.run == one.run)).all()) for one in runs]
            return [RunInfo(one.run, one.settings, size) for one, size in zip(runs, sizes, strict=True)]

    def run(self, run: str) -> RunInfo:
        """One run.

        Raises:
            DataError: there is no such run; the message names those there are.
        """
        runs = {one.run: one for one in self.runs()}
        if run not in runs:
            raise DataError(f"no run {run!r} in {self.name}; runs: {', '.join(runs) or 'none'}")
        return runs[run]

    def _read(self, payload: Any) -> Session:
        try:
            return Session.model_validate(payload)
        except pydantic.ValidationError as error:
            raise CacheError(
                f"{self.name} holds a session that this version cannot read ({error.error_count()} faults, first: "
                f"{error.errors()[0]['msg']}); use another --journal"
            ) from error

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn database errors into errors that say what to do."""
        try:
            yield
        except (SQLAlchemyError, ValueError) as error:
            raise _explained(self.name, error) from error


def _engine(name: str, *, create: bool) -> Engine:
    is_url = "://" in name
    path = Path(name)
    if not is_url:
        if not create and not path.is_file():
            raise DataError(f"no journal at {name!r}; run llmrec simulate first, or name one with --journal")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder of the journal {name!r}: {error}") from error
    url = name if is_url else f"sqlite:///{path}"
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"cannot use the journal {name!r}: {error}; expected a path or a SQLAlchemy URL") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Readers beside a writer, and patience with other writers. Whole transactions survive a killed process."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _explained(name: str, error: Exception) -> Exception:
    text = str(error.__cause__ or getattr(error, "orig", None) or error)
    lower = text.lower()
    if any(sign in lower for sign in _NO_SPACE):
        return StorageError(
            f"the disk of the journal {name!r} is full: {text}; free space and run the same command again"
        )
    if any(sign in lower for sign in _DAMAGED) or isinstance(error, ValueError):
        return CacheError(f"{name!r} is damaged or no journal: {text}; move it away or name another with --journal")
    if isinstance(error, OperationalError):
        return StorageError(f"cannot use the journal {name!r}: {text}")
    if isinstance(error, DatabaseError):
        return CacheError(f"{name!r} is damaged or no journal: {text}; move it away or name another with --journal")
    return StorageError(f"cannot use the journal {name!r}: {text}")


def _same_settings(run: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    before, now = _flat(stored), _flat(given)
    changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    different = sorted(changed - {"hash"}) or sorted(changed)  # the hash says only that something differs
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more: {', '.join(different[1:5])})" if len(different) > 1 else ""
        raise ConfigError(
            f"run {run!r} was started with {key} = {before.get(key)!r}, now got {now.get(key)!r}{more}; "
            "use the same settings to resume it, or another --run"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
