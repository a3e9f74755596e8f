"""The journal: exactly once, resumable, and clear about what is wrong."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from llmrec.errors import CacheError, ConfigError, DataError, StorageError
from llmrec.roles.mindset import UserConfig
from llmrec.simulate.journal import Journal
from llmrec.simulate.policies import RandomPolicy
from llmrec.simulate.session import Round, Session
from tests.simulate.conftest import Run
from tests.simulate.world import FixedPolicy, Taster


def _session(user: int = 1, policy: str = "random", **changes: Any) -> Session:
    settings: dict[str, Any] = {
        "user": user,
        "user_id": f"u{user}",
        "policy": policy,
        "slate_size": 5,
        "profile": {"age_group": "25-34"},
        "likes": ("Drama",),
        "wants": (),
        "n_history": 3,
        "rounds": (
            Round(
                turn=0, slate=(1, 2), titles=("Amélie", "七人の侍"), shown=({"item": 1, "action": "rate", "rating": 4},)
            ),
        ),
        "ended": "round limit",
    }
    return Session(**(settings | changes))


def test_a_session_comes_back_as_it_was(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "folder" / "j.db") as book:
        assert book.open_run("a", {"seed": 1}) == frozenset()
        assert book.add("a", _session())
        assert book.sessions("a") == [_session()]
        assert book.open_run("a", {"seed": 1}) == {(1, "random")}


def test_a_session_is_kept_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as book, Journal(tmp_path / "j.db") as other:
        assert book.add("a", _session())
        assert not other.add("a", _session(ended="failed", failed="late"))
        assert book.sessions("a") == [_session()]
        assert other.add("b", _session())


def test_sessions_are_found_by_user_and_policy(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as book:
        for user in (2, 1):
            for policy in ("random", "knn"):
                book.add("a", _session(user, policy))
        assert [(one.policy, one.user) for one in book.sessions("a")] == [
            ("knn", 1),
            ("knn", 2),
            ("random", 1),
            ("random", 2),
        ]
        assert [one.policy for one in book.sessions("a", user=1)] == ["knn", "random"]
        assert [one.user for one in book.sessions("a", policy="knn")] == [1, 2]


def test_other_settings_are_an_error_that_names_them(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as book:
        book.open_run("a", {"seed": 1, "user": {"threshold": 0.4}})
        with pytest.raises(ConfigError, match=re.escape("run 'a' was started with seed = 1, now got 2")):
            book.open_run("a", {"seed": 2, "user": {"threshold": 0.4}})
        with pytest.raises(ConfigError, match=re.escape("user.threshold = 0.4, now got 0.5")):
            book.open_run("a", {"seed": 1, "user": {"threshold": 0.5}})


def test_unknown_runs_name_those_there_are(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as book:
        book.open_run("first", {})
        with pytest.raises(DataError, match=r"no run 'second'.*runs: first"):
            book.run("second")


def test_a_missing_journal_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no journal at"):
        Journal(tmp_path / "absent.db", create=False)
    assert not (tmp_path / "absent.db").exists()


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_bytes(b"user,item\n" * 500)
    with pytest.raises(CacheError, match="damaged or no journal"):
        Journal(tmp_path / "j.db")


def test_a_damaged_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Journal(path) as book:
        book.open_run("a", {})
        for user in range(40):
            book.add("a", _session(user))
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(CacheError, match="damaged or no journal"), Journal(path) as book:
        book.sessions("a")


def test_a_session_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Journal(path) as book:
        book.add("a", _session())
    with sqlite3.connect(path) as connection:
        connection.execute("update sessions set payload = '{\"user\": 1}'")
    connection.close()
    with Journal(path) as book, pytest.raises(CacheError, match="cannot read"):
        book.sessions("a")


def test_a_payload_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with Journal(path) as book:
        book.add("a", _session())
    with sqlite3.connect(path) as connection:
        connection.execute("update sessions set payload = '{broken'")
    connection.close()
    with Journal(path) as book, pytest.raises(CacheError, match="damaged"):
        book.sessions("a")


def test_a_full_disk(tmp_path: Path) -> None:
    """SQLite itself refuses to grow beyond max_page_count with "database or disk is full"."""
    with Journal(tmp_path / "j.db") as book:
        book.open_run("a", {})

        def limit(connection: Any, _record: Any, _proxy: Any) -> None:
            connection.execute("pragma max_page_count = 12")

        event.listen(book._engine, "checkout", limit)
        with pytest.raises(StorageError, match=r"disk of the journal .* is full"):
            _fill(book)
        kept = book.sessions("a")
    assert 0 < len(kept) < 200
    assert kept[0] == _session(0)


def _fill(book: Journal) -> None:
    for user in range(200):
        book.add("a", _session(user))


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot make the folder"):
        Journal(tmp_path / "file" / "j.db")
    with pytest.raises(StorageError, match="cannot use the journal"):
        Journal(tmp_path)


@pytest.mark.parametrize("url", ["nonsense://x", "sqlite//x://"])
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a path or a SQLAlchemy URL"):
        Journal(url)


def test_a_url_works_like_a_path(tmp_path: Path) -> None:
    with Journal(f"sqlite:///{tmp_path / 'j.db'}") as book:
        book.add("a", _session())
    with Journal(tmp_path / "j.db", create=False) as book:
        assert len(book.sessions("a")) == 1


async def test_a_run_resumes_where_it_was_stopped(run: Run) -> None:
    whole = await run([RandomPolicy(240)], n_users=8, journal="whole.db", max_rounds=3)
    with pytest.raises(ConfigError, match="not today"):
        await run([_Stops("random", run.world[0])], n_users=8, journal="stopped.db", concurrency=1, max_rounds=3)
    calls: list[tuple[int, int]] = []
    rest = await run(
        [RandomPolicy(240)],
        n_users=8,
        journal="stopped.db",
        max_rounds=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert rest.n_resumed == 3
    assert calls == [(done, 8) for done in range(4, 9)]
    assert [one.user for one in rest.sessions] == [one.user for one in whole.sessions]
    again = await run([RandomPolicy(240)], lm=Taster(fail_on=""), n_users=8, journal="stopped.db", max_rounds=3)
    assert again.sessions == rest.sessions


class _Stops(FixedPolicy):
    """Stops the whole run in the fourth session, as a person would have to."""

    async def recommend(self, observation: Any, *, user: int, slate_size: int, seed: int) -> Any:
        users = {user} if not self.seen else getattr(self, "users", set()) | {user}
        self.users: set[int] = users
        if len(users) > 3:
            raise ConfigError("not today")
        return await super().recommend(observation, user=user, slate_size=slate_size, seed=seed)


async def test_resuming_with_another_seed_is_an_error(run: Run) -> None:
    await run([RandomPolicy(240)], n_users=2, journal="j.db", max_rounds=1)
    with pytest.raises(ConfigError, match="seed = 0, now got 1"):
        await run([RandomPolicy(240)], n_users=2, journal="j.db", max_rounds=1, seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_users": 0}, "number of users must be between 1 and 40, got 0"),
        ({"n_users": 41}, "number of users must be between 1 and 40, got 41"),
        ({"max_rounds": 0}, "max_rounds must be at least 1, got 0"),
        ({"slate_size": 0}, "slate_size must be at least 1, got 0"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
    ],
)
async def test_wrong_settings(run: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run([RandomPolicy(240)], **changes)


async def test_policies_need_different_names_and_users_need_their_adapter(run: Run) -> None:
    with pytest.raises(ConfigError, match="no name twice"):
        await run([RandomPolicy(240), RandomPolicy(240)])
    with pytest.raises(ConfigError, match="no adapter 'viewer'"):
        await run([RandomPolicy(240)], config=UserConfig(adapter="viewer"))
