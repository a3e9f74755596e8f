"""python eval/check_films.py --data ../shared/data

Compare the embedded films with public research data that lies outside the repository (folders movielens-1m, redial and
opendialkg), print how many films overlap, and list every difference for a person to read. Nothing is written.

Not every difference is an error: sources date a film by festival, home or foreign release, and label genres more or
less freely. A title counts as the same film when folded titles agree and years differ by at most two.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.data.films import records
from llmrec.errors import DataError

YEARS_APART = 2
ARTICLES = ("the", "a", "an", "le", "la", "les", "l'", "il", "el", "das", "der", "die", "los")
OUR_GENRES = {
    "children's": "Family",
    "children": "Family",
    "science fiction": "Sci-Fi",
    "romance film": "Romance",
    "crime fiction": "Crime",
    "horror film": "Horror",
    "war film": "War",
    "music": "Musical",
    "history": "",
    "biography": "",
    "sport": "",
}


@dataclass(frozen=True)
class Reference:
    """What another source says about one film."""

    title: str
    year: int | None
    genres: frozenset[str]
    directors: frozenset[str]
    stars: frozenset[str]


def fold(text: str) -> str:
    """Lower-case ASCII letters and digits, a trailing article moved to the front and leading articles dropped."""
    text = re.sub(r"^(.*), (\S+)$", lambda m: f"{m[2]} {m[1]}" if m[2].lower() in ARTICLES else m[0], text.strip())
    plain = unicodedata.normalize("NFKD", text.replace("&", "and")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(the|a|an) ", "", plain))


def person(name: str) -> str:
    """A name without accents, case, punctuation and order of its parts: sources differ on "Zhang Yimou"."""
    return "".join(sorted(fold(part) for part in re.split(r"[\s-]+", name)))


def split_year(title: str) -> tuple[str, int | None]:
    """ "Alien (1979)" as ("Alien", 1979)."""
    match = re.search(r"^(.*?)\s*\((\d{4})\)\s*$", title)
    return (match[1], int(match[2])) if match else (title, None)


def names(title: str) -> list[str]:
    """A title and its alternative in brackets: both names of "Haine, La (Hate)"."""
    match = re.search(r"^(.*?)\s*\((?:a\.k\.a\. )?(.*)\)\s*$", title)
    return [match[1], match[2]] if match else [title]


def lines(path: Path) -> Iterator[Any]:
    """Parsed lines of a compressed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def genres(labels: list[str]) -> frozenset[str]:
    """Labels in our vocabulary; labels that it does not have are dropped."""
    ours = {genre for film in records() for genre in film["genres"]}
    translated = (OUR_GENRES.get(label.lower(), label) for label in labels)
    return frozenset(genre for genre in (label.title() for label in translated) if genre in ours)


def read_movielens(folder: Path) -> Iterator[Reference]:
    """MovieLens: titles with years, genres."""
    with gzip.open(folder / "movies.dat.gz", "rt", encoding="latin-1") as file:
        for line in file:
            _, full, labels = line.rstrip("\n").split("::")
            title, year = split_year(full)
            for name in names(title):
                yield Reference(name, year, genres(labels.split("|")), frozenset(), frozenset())


def read_redial(folder: Path) -> Iterator[Reference]:
    """ReDial: titles with years, genres, directors, stars."""
    for film in lines(folder / "movies.jsonl.gz"):
        title, year = split_year(film["name"])
        people = [frozenset(person(name) for name in film.get(key) or ()) for key in ("director", "star")]
        yield Reference(title, year, genres(film.get("genre") or []), people[0], people[1])


def read_opendialkg(folder: Path) -> Iterator[Reference]:
    """OpenDialKG: titles, years, genres, directors, cast."""
    with gzip.open(folder / "items.json.gz", "rt", encoding="utf-8") as file:
        items = json.load(file)
    for film in items.values():
        year = re.search(r"\d{4}", str(film.get("year") or ""))
        people = [frozenset(person(name) for name in film.get(key) or ()) for key in ("director", "actor")]
        title, _ = split_year(film["name"])
        yield Reference(title, int(year[0]) if year else None, genres(film.get("genre") or []), people[0], people[1])


READERS = {"movielens-1m": read_movielens, "redial": read_redial, "opendialkg": read_opendialkg}


def differences(film: dict[str, Any], other: Reference) -> list[str]:
    """What two sources say differently, one line a field."""
    found = []
    if other.year is not None and other.year != film["year"]:
        found.append(f"year {film['year']}, theirs {other.year}")
    if other.genres and not set(film["genres"]) & other.genres:
        found.append(f"no common genre: {film['genres']}, theirs {sorted(other.genres)}")
    for field, theirs in (("directors", other.directors), ("actors", other.stars)):
        if theirs and not {person(name) for name in film[field]} & theirs:
            found.append(f"no common {field}: {film[field]}, theirs {sorted(theirs)}")
    return found


def compare(references: list[Reference]) -> tuple[int, dict[str, list[str]]]:
    """Number of films found in the references, and differences by item id.

    Where several references fit a film, the one with the fewest differences counts. A film whose title is there with
    quite other years only is listed but does not count as found: a namesake, or an error of ours.
    """
    by_title: dict[str, list[Reference]] = {}
    for reference in references:
        by_title.setdefault(fold(reference.title), []).append(reference)
    overlap, found = 0, {}
    for film in records():
        namesakes = by_title.get(fold(film["title"]), [])
        same = [r for r in namesakes if _near(film["year"], r.year)]
        if same:
            overlap += 1
            fewest = min((differences(film, reference) for reference in same), key=len)
            if fewest:
                found[str(film["item_id"])] = fewest
        elif namesakes:
            years = sorted({reference.year for reference in namesakes if reference.year})
            found[str(film["item_id"])] = [f"year {film['year']}, namesakes of {years} only"]
    return overlap, found


def _near(year: int, other: int | None) -> bool:
    return other is None or abs(year - other) <= YEARS_APART


def main() -> int:
    """Print overlaps and differences.

    Raises:
        DataError: none of the folders is there.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with movielens-1m, redial, opendialkg")
    data = parser.parse_args().data
    present = [name for name in READERS if (data / name).is_dir()]
    if not present:
        raise DataError(f"none of {', '.join(READERS)} is in {data}; give the folder that holds them")
    total = len(records())
    for name in present:
        overlap, found = compare(list(READERS[name](data / name)))
        print(f"\n{name}: {overlap} of {total} films found, {len(found)} to read")
        for item_id, reasons in found.items():
            print(f"  {item_id}: {'; '.join(reasons)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
