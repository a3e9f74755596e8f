"""The report: numbers reach the page, foreign text stays text, nothing is fetched, absent parts are sentences."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmrec.benchmark import machine
from llmrec.benchmark.report import write_report
from llmrec.benchmark.report_shape import Evaluation, plain
from llmrec.benchmark.report_text import duration, metric_names
from llmrec.errors import ConfigError, StorageError
from tests.benchmark.report_sample import PLANTED, results

VOID = {"meta", "br", "img", "link", "input", "hr"}
FETCHING = {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "source", "base", "form", "image"}
PLOTTED = ("backbone", "adapters", "evaluation", "fidelity", "simulation")
FACTS = ("dataset", "machine", "settings", "stages", "total_seconds", "peak_mib", "seed", "command", "llmrec")
PARTS = (*PLOTTED, *FACTS, "transcripts", "out_of_catalogue")


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    return results()


@pytest.fixture(scope="module")
def written(sample: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    paths = write_report(sample, folder)
    assert (paths.html, paths.json) == (folder / "report.html", folder / "report.json")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def rewritten(sample: dict[str, Any], folder: Path, **changes: Any) -> str:
    """The page with other parts; None takes a part out."""
    changed = {name: value for name, value in {**sample, **changes}.items() if value is not None}
    return write_report(changed, folder).html.read_text(encoding="utf-8")


def test_json_holds_every_part_and_json_numbers_only(sample: dict[str, Any], written: Path) -> None:
    stored = json.loads((written / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored.keys() == sample.keys()
    assert stored["evaluation"]["models"]["calrec"]["ndcg@10"]["value"] == pytest.approx(
        sample["evaluation"]["models"]["calrec"]["ndcg@10"]["value"], rel=1e-5
    )
    assert stored["transcripts"][0]["rounds"][0]["titles"][0] == PLANTED


def test_plain_golden_rounds_to_six_digits_and_keeps_whole_numbers() -> None:
    given = {"a": 0.123456789, "b": 123456789.0, "c": float("nan"), "d": (1, True, None), "e": float("inf"), "f": 3e-3}
    assert plain(given) == {"a": 0.123457, "b": 123456789.0, "c": None, "d": [1, True, None], "e": None, "f": 0.003}
    assert plain({1: "half of a pair: \ud83d"}) == {"1": "half of a pair: ?"}


def test_page_has_every_number_that_matters(page: Page) -> None:
    # calrec: 0.058 * (0.5 + 10 / 12) = 0.0773, bounds times 0.88 and 1.13; popular 0.0413 likewise: intervals apart
    assert (
        "calrec: NDCG@10 0.0773 [0.0681 to 0.0874], above popular, 0.0413 [0.0364 to 0.0467]; n = 500 users."
        in page.text
    )
    assert "bm25-lastitem: NDCG@10 0.0480 [0.0422 to 0.0542], not clearly different from popular" in page.text
    for text in ("+0.0270", "−0.0030 to +0.0110", "1,312,128", "1.5513", "8 min 7 s", "2,210 MiB", "seed 7", "60,123"):
        assert text in page.text, text
    assert "0 among 5,321 checked; a planted case was caught" in page.text
    assert "calrec failed for 2 users (counted as misses): the prompt does not fit <the context>" in page.text


def test_simulation_is_always_called_simulated(page: Page, sample: dict[str, Any]) -> None:
    agent = sample["simulation"]["policies"]["agent"]
    assert "Simulated: the users are a language model, not people." in page.text
    assert f"{agent['rounds']['value']:.2f}" in page.text
    assert f"{agent['click_rate']['low']:.3f} to {agent['click_rate']['high']:.3f}" in page.text
    assert "Simulated: click rate of agent minus popular: " in page.text
    for heading in ("Simulated sessions", "Simulated session lengths", "Simulated actions on shown items"):
        assert heading in page.text


def test_transcripts_show_slate_actions_words_and_calls(page: Page, sample: dict[str, Any]) -> None:
    assert [t["policy"] for t in sample["transcripts"]] == ["agent", "popular", "knn"]
    for session in sample["transcripts"]:
        for one in session["rounds"]:
            assert all(title in page.text for title in one["titles"])
            assert all(f"{p:.2f}" in page.text for p in one["clicks"])
    assert 'search(query="dark <sea>", genres=["Drama"])' in page.text  # year_min was not given
    assert "no genre 'Sea'; nearest: Sci-Fi" in page.text
    assert "no more horror, please <img src=x>" in page.text
    assert "Here are five films with less horror." in page.text
    assert page.tags.count("details") >= 3


def test_foreign_text_stays_text(page: Page, written: Path) -> None:
    assert PLANTED in page.text  # the parser gave it back as data, not as tags
    raw = (written / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in raw
    assert "<script" not in raw
    assert not {"img", "i"} & set(page.tags)


def test_foreign_names_of_policies_and_models_stay_text_in_plots(sample: dict[str, Any], tmp_path: Path) -> None:
    changed = copy.deepcopy(sample)
    name = "<script>x</script>$a_$"
    changed["evaluation"]["models"][name] = changed["evaluation"]["models"]["calrec"]
    changed["simulation"]["policies"] = {name: changed["simulation"]["policies"]["agent"]}
    changed["adapters"] = {name: changed["adapters"]["user"]}
    text = rewritten(changed, tmp_path)
    assert "<script" not in text
    assert Page(text).text.count(name) >= 7  # table, differences, four plots, training


def test_page_fetches_nothing(page: Page, written: Path) -> None:
    assert not FETCHING & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "srcset", "action", "data")]
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    raw = (written / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", raw)
    assert "default-src 'none'" in raw


def test_plots_take_their_colours_from_the_page_and_ids_do_not_clash(page: Page, written: Path) -> None:
    raw = (written / "report.html").read_text(encoding="utf-8")
    svgs = re.findall(r"<svg.*?</svg>", raw, flags=re.DOTALL)
    # ranking, backbone, two adapters, fidelity, three session lengths, actions
    assert len(svgs) == 9
    for svg in svgs:
        used = set(re.findall(r"var\(--(\w+)\)", svg))
        assert used
        assert used <= set(re.findall(r"--(\w+):", raw))
        assert not re.findall(r"(?:fill|stroke): (?:#|black|rgb)", svg)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert raw.count("prefers-color-scheme: dark") == 1


def test_the_same_results_give_the_same_page(sample: dict[str, Any], written: Path, tmp_path: Path) -> None:
    assert rewritten(sample, tmp_path) == (written / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_may_be_absent(sample: dict[str, Any], tmp_path: Path, part: str) -> None:
    left_out = {part} if part in PLOTTED else {part, *PLOTTED}  # plots take time
    page = Page(rewritten(sample, tmp_path, **dict.fromkeys(left_out)))
    headings = ("Ranking", "Training", "simulated user decide", "Simulated sessions", "Transcripts", "The job")
    assert all(heading in page.text for heading in headings)
    assert part not in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_an_empty_report_says_what_is_missing(tmp_path: Path) -> None:
    text = Page(write_report({}, tmp_path).html.read_text(encoding="utf-8")).text
    for sentence in (
        "The dataset was not recorded.",
        "No recommender was evaluated in this run.",
        "Nothing was trained in this run.",
        "Click decisions were not compared with real ones in this run.",
        "No sessions were simulated in this run.",
        "No transcript was kept in this run.",
        "Times of the stages were not recorded.",
    ):
        assert sentence in text


def test_thin_parts_are_shown(tmp_path: Path) -> None:
    """No intervals, no curve, a policy whose sessions all failed at once, a session without rounds."""
    thin = {
        "evaluation": {
            "dataset": "d", "protocol": "p", "n": 3, "seed": 0, "models": {"popular": {"mrr": {"value": 0.5}}},
        },
        "backbone": {"parameters": 5},
        "adapters": {"user": {"curve": [{"step": 1.0, "loss": float("nan")}]}},
        "simulation": {"policies": {"agent": {"n": 2, "failed": 2, "rounds": None, "endings": {"failed": 2}}}},
        "transcripts": [
            {
                "user": 1, "user_id": "u1", "policy": "agent", "slate_size": 3, "profile": {}, "likes": [], "wants": [],
                "n_history": 0, "rounds": [], "ended": "failed", "failed": "ModelError: the <engine> broke",
            }
        ],
        "out_of_catalogue": {"count": 2, "checked": 10, "planted_caught": False},
    }  # fmt: skip
    text = Page(write_report(thin, tmp_path).html.read_text(encoding="utf-8")).text
    assert "The session failed: ModelError: the <engine> broke" in text
    assert "THE CHECK MISSED A PLANTED CASE" in text
    assert "No paired differences were computed." in text
    assert "No learning curve was recorded." in text
    assert "No simulated user asked for anything." in text


def test_items_without_titles_and_beyond_the_catalogue_are_named(sample: dict[str, Any], tmp_path: Path) -> None:
    session = copy.deepcopy(sample["transcripts"][0])
    session["rounds"] = session["rounds"][:1]
    session["rounds"][0] |= {
        "titles": [],
        "slate": [3, 77],
        "shown": [{"item": 3, "action": "skip"}],
        "out_of_catalogue": [999],
    }
    text = Page(write_report({"transcripts": [session]}, tmp_path).html.read_text(encoding="utf-8")).text
    assert "Titles were not recorded" in text
    assert "item 77" in text
    assert "not reached" in text
    assert "Outside the catalogue: 999" in text


def test_unknown_parts_are_kept_and_shown(tmp_path: Path) -> None:
    paths = write_report({"calibration": {"error": 0.031}}, tmp_path)
    assert json.loads(paths.json.read_text())["calibration"] == {"error": 0.031}
    text = Page(paths.html.read_text(encoding="utf-8")).text
    assert "calibration" in text
    assert "0.031" in text


@pytest.mark.parametrize(
    ("part", "value", "where"),
    [
        ("evaluation", [], "evaluation"),
        ("evaluation", {"models": {}}, "evaluation.dataset"),
        ("simulation", {"policies": {"agent": {"n": "many"}}}, "simulation.policies.agent.n"),
        ("transcripts", [{"user": 1}], "transcripts.0"),
        ("stages", [{"name": "x"}], "stages.0.seconds"),
    ],
)
def test_a_part_of_another_shape_is_an_error(tmp_path: Path, part: str, value: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(where)):
        write_report({part: value}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report({}, tmp_path / "taken")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.25, "0.2 s"), (59.94, "59.9 s"), (75.3, "1 min 15 s"), (3725.0, "1 h 2 min")]
)
def test_duration_golden(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_metrics_at_ten_come_first(sample: dict[str, Any]) -> None:
    assert metric_names(None) == []
    names = metric_names(Evaluation.model_validate(sample["evaluation"]))
    assert names[:4] == ["ndcg@10", "recall@10", "mrr", "recall@1"]
    assert sorted(names) == sorted(sample["evaluation"]["models"]["popular"])


def test_machine_facts_and_memory() -> None:
    facts = machine.machine_facts()
    assert facts["cores"] >= 1
    assert facts["python"].startswith("3.")
    assert facts["torch"]
    json.dumps(facts)


def test_peak_memory_counts_this_process_and_its_children() -> None:
    """A fresh process takes 120 MiB for a moment, then starts a child that takes 200 MiB."""
    script = (
        "import subprocess, sys\n"
        "from llmrec.benchmark.machine import peak_memory_mib as peak\n"
        "first = peak(); block = b'x' * (120 * 2**20); del block; second = peak()\n"
        "subprocess.run([sys.executable, '-c', \"b'x' * (200 * 2**20)\"], check=True); third = peak()\n"
        "print(first, second, third)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second, third = map(float, done.stdout.split())
    assert 115 < second - first < 180
    assert third - second > 150
