"""report: what records hold is on the page, what they lack is told, and nothing in them is markup."""

from __future__ import annotations

import json
import math
import re
import string
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import prunus
from browser import CHROMIUM, opened
from prunus.cli.app import app
from prunus.cli.options import as_json
from prunus.report.words import LANGUAGES, Words

PICTURES = 1 + 2 + 2 + 1 + 1 + 2 + 2
"""Of weights, fronts, maps, a map of what was repaired, losses, training and tickets."""
MARKUP = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def runs(checkpoint, text_file, tmp_path_factory) -> dict[str, Path]:
    """A run of every kind: records and their folders."""
    place = tmp_path_factory.mktemp("runs")
    calibrated = {"calibration": str(text_file), "samples": 4, "seqlen": 32, "eval_text": str(text_file), "eval_windows": 2}
    prunus.prune(checkpoint("llama"), place / "pruned", method="wanda", **calibrated)
    judged = {"text": str(text_file), "seqlen": 32, "windows": 6, "new_tokens": 3, "prompt_tokens": 4, "repeats": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunus.verbs.compare_running.memory_of", lambda run: None)
        prunus.compare(
            checkpoint("llama"), place / "pruned", **judged, watts=20, price=1.0, grid_intensity=300.0,
            prompts=(MARKUP, "The *land*"), output=place / "compared.json",
        )  # fmt: skip
    prunus.threshold(checkpoint("llama"), place / "thresholds.json", **calibrated)
    prunus.shrink(checkpoint("llama"), place / "cut", neurons=0.5, **calibrated)
    learnt = {
        "text": str(text_file), "seqlen": 32, "tokens": 512, "held_out": 4, "evaluations": 1, "eval_text": str(text_file),
        "eval_windows": 2,
    }  # fmt: skip
    prunus.distill(place / "cut", place / "healed", teacher=str(checkpoint("llama")), **learnt)
    prunus.pack(place / "pruned", place / "packed", values="int8")
    prunus.export(place / "cut", place / "exported", to="gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunus.verbs.bench.memory_of", lambda run: None)
        timed = prunus.bench(place / "packed", ways=["float32"], prompt_tokens=4, new_tokens=3, repeats=1)
    (place / "timed.json").write_text(as_json(timed.record))
    small: dict[str, Any] = {"model": "lenet-300-100", "data": "digits", "batch": 256, "epochs": 1, "latency": 2}
    half = {"name": "half", "from": "dense", "epochs": 0, "prune": {"method": "magnitude"}}
    prunus.train_runs(place / "trained", **small, runs=[{"name": "dense"}, half])
    prunus.lottery(place / "tickets", **{**small, "latency": 0}, levels=1)
    names = {
        "compare": "compared.json", "prune": "pruned", "shrink": "cut", "distill": "healed", "pack": "packed",
        "export": "exported", "bench": "timed.json", "threshold": "thresholds.json", "train": "trained",
        "lottery": "tickets",
    }  # fmt: skip
    return {kind: place / name for kind, name in names.items()}


def record_of(place: Path) -> dict[str, Any]:
    file = place / "prunus.json" if place.is_dir() else place
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_figures_of_every_run_are_on_the_page(runs, lang, tmp_path):
    found = prunus.report_runs(list(runs.values()), tmp_path / "all.html", lang=lang)
    assert (found.shown, found.problems) == (len(runs), [])
    prunus.report_runs(list(runs.values()), tmp_path / "all.md", lang=lang)
    compared, pruned, trained = (record_of(runs[kind]) for kind in ("compare", "prune", "train"))
    cut, healed, packed, exported, timed = (
        record_of(runs[kind]) for kind in ("shrink", "distill", "pack", "export", "bench")
    )
    dense, after = compared["models"]
    figures = [
        f"{after['perplexity']['value']:.3f}", f"{dense['decode_tokens_per_second']['median']:,.1f}",
        f"{after['nonzeros']:,}", f"{after['costs']['joules_per_token']:.3g} J", f"{pruned['evaluation']['pruned']:.3f}",
        f"{pruned['sparsity_total']:.2%}", f"{trained['rows'][0]['score']:.2f}", Words(lang)("reproduce"),
        f"{cut['evaluation']['pruned']:.3f}", f"{cut['plan']['parameters'][1]:,}", f"{healed['held_out']['after']:.4f}",
        f"{healed['evaluation']['kl_after']:.4f}", f"{packed['plain_bytes'] / packed['packed_bytes']:.2f}",
        f"{exported['checks'][0]['agreement']:.1%}", f"{timed['ways'][0]['decode_tokens_per_second']['median']:,.1f}",
    ]  # fmt: skip
    for name in ("all.html", "all.md"):
        page = (tmp_path / name).read_text()
        assert not [figure for figure in figures if figure not in page]
    page = (tmp_path / "all.html").read_text()
    assert page.count("<svg") == PICTURES
    assert f'<html lang="{lang}">' in page


def test_what_records_say_is_text(runs, tmp_path):
    record = record_of(runs["compare"])
    record["models"][1]["model"] = f"pruned/{MARKUP}"
    record["not_measured"] = [MARKUP, "| a | *b* |"]
    (tmp_path / "odd.json").write_text(json.dumps(record))
    pruned = record_of(runs["prune"])
    pruned["sites"][0] |= {"layer": MARKUP, "notes": [MARKUP]}
    (tmp_path / "odd-pruned.json").write_text(json.dumps({**pruned, "method": MARKUP}))
    for name in ("odd.html", "odd.md"):
        prunus.report_runs([tmp_path / "odd.json", tmp_path / "odd-pruned.json"], tmp_path / name)
        page = re.sub(r"(?s)^```.*?^```$", "", (tmp_path / name).read_text(), flags=re.M)  # in fences nothing is markup
        assert "<script" not in page
        assert page.count("&lt;script&gt;") > 4
    assert "| a | \\*b\\* |" in (tmp_path / "odd.md").read_text()


def test_what_cannot_be_read_is_told_and_the_rest_shown(runs, tmp_path):
    (tmp_path / "half.json").write_text('{"format": 1, "sites": [')
    (tmp_path / "foreign.json").write_text('{"format": 99}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    partial = tmp_path / ".stopped.prunus-partial"
    (partial / "output").mkdir(parents=True)
    (partial / "plan.json").write_text('{"digest": "", "plan": {}}')
    (partial / "done.jsonl").write_text('{"block": 0}\n')
    bad = [tmp_path / name for name in ("half.json", "foreign.json", "list.json", "empty", "stopped", "nowhere")]
    words = ["report", *map(str, [*bad, runs["prune"]]), "-o", str(tmp_path / "told.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "told.html").read_text()
    told = ["half.json cannot be read", "format 99", "format list", "prunus.json cannot be read", "1 parts done",
            "nowhere is not there"]  # fmt: skip
    for fault in told:
        assert fault in page
        assert fault in done.output
    assert page.count('class="warning"') == len(told)
    assert "1 of 7 runs" in done.output
    assert f"{record_of(runs['prune'])['evaluation']['pruned']:.3f}" in page


@pytest.mark.parametrize(
    "kind", ["compare", "prune", "shrink", "distill", "pack", "export", "bench", "train", "lottery", "threshold"]
)
def test_a_record_that_lacks_any_of_its_keys_is_shown_as_far_as_it_goes(runs, kind, tmp_path, monkeypatch):
    for module in ("pictures", "trained_pictures", "lottery_pictures"):
        monkeypatch.setattr(f"prunus.report.{module}.drawn", lambda *_: "<svg/>")  # what takes the time
    whole = record_of(runs[kind])
    for key in whole.keys() - {"format"}:
        others = ({**whole, key: value} for value in (None, [3], [], {}))
        for broken in ({k: v for k, v in whole.items() if k != key}, *others):
            (tmp_path / "broken.json").write_text(json.dumps(broken))
            found = prunus.report_runs([tmp_path / "broken.json"], tmp_path / "broken.md", overwrite=True)
            assert found.shown == 1


def test_many_models_have_a_row_each_and_a_method_is_a_curve(runs, tmp_path, monkeypatch):
    drawn: list[list[tuple[Any, ...]]] = []
    monkeypatch.setattr(
        "prunus.report.sections.fronts.front_svg", lambda points, *_, **__: drawn.append(points) or "<svg/>"
    )
    record, pruned = record_of(runs["compare"]), record_of(runs["prune"])
    dense, after = record["models"]
    names = [f"lab/wanda-{level}" for level in (30, 50, 70, 90)]
    levels = [{**after, "model": name, "perplexity_times": {"low": 0.98, "high": 1.02}} for name in names]
    levels[0] |= {
        "perplexity": {"value": 12345.678, "interval": None},
        "perplexity_times": {"low": 9000.5, "high": 10000.5},
    }
    (tmp_path / "many.json").write_text(json.dumps({**record, "models": [dense, *levels]}))
    for name in names:
        (tmp_path / f"{Path(name).name}.json").write_text(json.dumps({**pruned, "output": name}))
    found = prunus.report_runs(sorted(tmp_path.glob("*.json")), tmp_path / "many.md")
    assert found.shown == 5
    lines = (tmp_path / "many.md").read_text().splitlines()
    assert any(line.endswith("wanda-70 and 1 more") for line in lines if line.startswith("## Before and after"))
    first = next(line for line in lines if line.startswith("| wanda-30 |"))
    assert "| 12,346 | 9,000 to 10,000 |" in first
    assert sum("0.980 to 1.020, inside the noise" in line for line in lines) == 3
    assert [line.split(" | ")[0] for line in lines].count("| wanda-90") == 2 + len(record["recipe"]["prompts"])
    assert f"| {after['continuations'][1].strip()}" in "\n".join(lines)
    zeros, speeds = drawn
    assert [point.name for point in zeros] == [Path(dense["model"]).name, *["wanda"] * 4]
    assert [(point.least, point.most) for point in speeds] == [
        (one["decode_tokens_per_second"]["least"], one["decode_tokens_per_second"]["most"]) for one in (dense, *levels)
    ]


def test_figures_that_are_not_finite_are_shown(runs, tmp_path):
    record = record_of(runs["compare"])
    record["models"][1] |= {"perplexity": {"value": math.inf, "interval": None}, "perplexity_times": None}
    (tmp_path / "ruined.json").write_text(json.dumps(record))
    prunus.report_runs([tmp_path / "ruined.json"], tmp_path / "ruined.html")
    page = (tmp_path / "ruined.html").read_text()
    assert "<td>inf</td>" in page
    assert 'class="warning"' not in page.replace('class="warning">Not measured', "")
    assert page.count("<svg") == 3


def test_a_lacking_key_is_named(runs, tmp_path):
    record = record_of(runs["prune"])
    del record["evaluation"]
    (tmp_path / "cut.json").write_text(json.dumps(record))
    prunus.report_runs([tmp_path / "cut.json"], tmp_path / "cut.html")
    page = (tmp_path / "cut.html").read_text()
    assert "the record lacks &#39;evaluation&#39;" in page
    assert f"{record['sparsity_total']:.2%}" in page


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"runs": []}, "no run is given"),
        ({"output": "page.pdf"}, "ends in .html or .md"),
        ({"lang": "tlh"}, "'tlh' is none of en, zh-Hant"),
        ({"output": "there.html"}, "exists already"),
        ({"output": "there.html", "overwrite": True}, "holds no report, so it is not replaced"),
        ({"output": "nowhere/page.html"}, "there is no folder"),
    ],
)
def test_what_is_refused(settings, fault, runs, tmp_path):
    (tmp_path / "there.html").write_text("mine")
    given = {"runs": [runs["prune"]], "output": "page.html", **settings}
    with pytest.raises(prunus.PrunusError, match=fault):
        prunus.report_runs(given.pop("runs"), tmp_path / given.pop("output"), **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_a_report_makes_room_for_another(name, runs, tmp_path):
    for lang in ("en", "zh-Hant"):
        prunus.report_runs([runs["pack"]], tmp_path / name, lang=lang, overwrite=True)
    assert Words("zh-Hant")("title") in (tmp_path / name).read_text()


def test_languages_say_the_same_things_of_the_same_values():
    told = {}
    for lang in LANGUAGES:
        text = (files("prunus.report") / "languages" / f"{lang}.toml").read_text(encoding="utf-8")
        told[lang] = {
            key: {part[1] for part in string.Formatter().parse(said)} for key, said in tomllib.loads(text).items()
        }
        told[lang] = {key: names - {None} for key, names in told[lang].items()}
    assert all(one == told["en"] for one in told.values())
    code = "\n".join(path.read_text() for path in Path(prunus.__file__).parent.joinpath("report").rglob("*.py"))
    unsaid = [key for key in told["en"] if not re.search(rf"""["']{key}["']""", code)]
    assert set(unsaid) == {"score_accuracy", "score_perplexity", "layer_map_shows_sparsity"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_has_nothing_to_complain_of_and_asks_nobody_for_anything(runs, tmp_path):
    prunus.report_runs([*runs.values(), tmp_path / "nowhere"], tmp_path / "all.html")
    with opened() as page:
        for width, dark in ((1100, False), (1100, True), (390, False)):
            page.open(tmp_path / "all.html", width, dark)
            assert page.complaints == []
            assert [one for one in page.requests if not one.startswith(("file:", "data:"))] == []
            assert page.requests[0] == (tmp_path / "all.html").as_uri()
            assert page.value("document.title") == "What pruning came to"
            assert page.value("document.scripts.length") == 0
            heights = page.value(
                "[...document.querySelectorAll('figure svg')].map(one => one.getBoundingClientRect().height)"
            )
            assert len(heights) == PICTURES
            assert min(heights) > 150
            assert page.value("document.documentElement.scrollWidth") <= width
            shade = page.value("getComputedStyle(document.body).backgroundColor")
            assert shade == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
