import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rdvla.evaluation import EpisodeError, Interval, PairedTest, ResultsError, load_results, write_report
from rdvla.evaluation.profile import depth_profile
from rdvla.evaluation.report.content import comparison_sentence
from rdvla.evaluation.standard import Comparison
from rdvla.evaluation.summaries import summarise
from tests.support.results_sample import META, make_results

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """Collects what a browser would load, and the cells of the tables."""

    def __init__(self, text):
        super().__init__()
        self.links, self.lines, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")
        ]
        if tag == "tr":
            self.lines.append([])
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self.open and self.lines:
            self.lines[-1].append(data.strip())


@pytest.fixture(scope="module")
def page_and_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    first = make_results(folder / "a", depths=(1, 8), episodes=4, error=True)
    second = make_results(
        folder / "b", policy="single-pass", depths=(1,), adaptive=False, episodes=4, videos=0
    )
    output = write_report([folder / "a", folder / "b"], folder / "report.html")
    return output.read_text(), [first, second]


def test_the_page_loads_nothing_from_elsewhere(page_and_results):
    text, _ = page_and_results
    assert all(link.startswith(("data:", "#")) for link in Page(text).links)
    assert not re.search(r"https?://|@import|url\((?!#)|<script|<link", text)


def test_the_page_holds_every_row(page_and_results):
    text, all_results = page_and_results
    lines = Page(text).lines
    for results in all_results:
        for row in results.rows:
            wanted = [row.task, row.policy, row.setting.describe()]
            (line,) = [one for one in lines if one[:3] == wanted]
            assert f"{row.successes}/{row.episodes}" in line


def test_the_page_holds_charts_videos_strips_and_provenance(page_and_results):
    text, _ = page_and_results
    assert text.count("data:video/mp4;base64,") == 6  # 2 tasks x 3 settings
    assert text.count('<figure class="strip">') == 2  # one for each task
    assert text.count("<svg") > 6
    assert "#0a0101" not in text  # every placeholder colour has become a variable
    for word in (META["command"], META["hardware"]["cpu"], "1000000 to 1000003", "single-pass", "McNemar"):
        assert word in text


def test_every_entry_of_the_contents_leads_somewhere(page_and_results):
    text, _ = page_and_results
    entries = re.findall(r'<li><a href="#([^"]+)">', text)
    assert entries == ["cost", "settings", "tests", "tasks", "episodes", "videos", "exceptions", "method"]
    for entry in entries:
        assert text.count(f'id="{entry}"') == 1
    places = [text.index(f'<section id="{entry}"') for entry in entries]
    assert places == sorted(places)


def test_rows_and_clips_are_in_the_order_of_depth(tmp_path):
    make_results(tmp_path, depths=(8, 1), tasks=("reach", "push"), episodes=2)
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    cells = [line for line in Page(text).lines if line[:1] in (["push"], ["reach"])]
    assert [line[0] for line in cells] == ["push", "reach"] * 3
    assert [line[2] for line in cells[::2]] == ["depth 1", "depth 8", "action_change:0.001"]
    captions = re.findall(r"<figcaption>(depth \d+|action_change)", text)
    assert captions == ["depth 1", "depth 8", "action_change"] * 2


def test_exceptions_are_in_a_banner_on_top(tmp_path, page_and_results):
    text, _ = page_and_results
    assert "2 of 32 episodes ended with an exception" in text
    assert text.index('class="banner"') < text.index("<section")
    assert "ValueError: &lt;b&gt;broken&lt;/b&gt; (2 episodes)" in text
    results = make_results(tmp_path, depths=(1,), adaptive=False, tasks=("push",), episodes=1, videos=0)
    error = EpisodeError("OSError", "no display", "trace")
    broken = [dataclasses.replace(one, success=None, error=error) for one in results.episodes]
    dataclasses.replace(results, episodes=broken, rows=summarise(broken)).write(tmp_path / "results.json")
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Every episode ended with an exception: nothing was measured." in text
    assert "OSError: no display (1 episode)" in text
    make_results(tmp_path, depths=(1,), videos=0)
    assert 'class="banner"' not in write_report([tmp_path], tmp_path / "report.html").read_text()


def test_episodes_in_which_a_person_helped_are_told_and_are_no_successes(tmp_path):
    results = make_results(tmp_path, depths=(), adaptive=True, tasks=("push",), episodes=4, videos=1)
    helped = [
        dataclasses.replace(
            one, success=False, driven_steps=5, interventions=1, success_with_help=number == 0
        )
        for number, one in enumerate(results.episodes)
    ]
    rows = summarise(helped)
    assert [(row.episodes, row.successes, row.helped, row.helped_successes) for row in rows] == [(4, 0, 4, 1)]
    assert depth_profile(helped) is None  # its queries do not fill the episode
    dataclasses.replace(results, episodes=helped, rows=rows).write(tmp_path / "results.json")
    assert load_results(tmp_path).episodes == helped
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "A person stepped in in 4 of 4 episodes; 1 of these succeeded, with help." in text
    assert "with a person's help" in text.replace("&#39;", "'")  # under the video
    assert 'id="episodes"' not in text  # no film strip
    make_results(tmp_path, depths=(1,), videos=0)
    assert "A person stepped in" not in write_report([tmp_path], tmp_path / "report.html").read_text()


def test_a_clips_speed_is_in_its_caption(tmp_path):
    results = make_results(tmp_path, depths=(8,), adaptive=False, tasks=("push",), episodes=1)
    slow = [dataclasses.replace(one, video_speed=0.5) for one in results.episodes]
    dataclasses.replace(results, episodes=slow).write(tmp_path / "results.json")
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "<figcaption>depth 8 · 0.5x speed" in text


def test_runs_that_were_not_played_alike_are_named_and_not_tested(tmp_path, page_and_results):
    for name, limit in (("a", 96), ("b", 500), ("c", 96)):
        results = make_results(tmp_path / name, policy=name, depths=(8,), adaptive=False, videos=0)
        protocol = {"metaworld": {"max_steps": limit}}
        changed = dataclasses.replace(results, meta={**results.meta, "protocol": protocol})
        changed.write(tmp_path / name / "results.json")
    text = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html").read_text()
    assert "Not all runs were played alike: max_steps 96 and 500 in metaworld." in text
    assert "so no paired test compares them" in text and "against the first policy" not in text
    text = write_report([tmp_path / "a", tmp_path / "c"], tmp_path / "report.html").read_text()
    assert "against the first policy" in text
    with pytest.raises(ResultsError, match="max_steps 96 in metaworld, the other 500"):
        write_report([f"both={tmp_path / 'a'},{tmp_path / 'b'}"], tmp_path / "report.html")
    assert "played alike" not in page_and_results[0]


def test_times_of_several_runs_are_in_no_chart(tmp_path, page_and_results):
    several, _ = page_and_results
    assert "ms per query" in several and "milliseconds per query" not in several
    make_results(tmp_path, depths=(1, 8), videos=0)
    assert "milliseconds per query" in write_report([tmp_path], tmp_path / "report.html").read_text()


def test_environments_have_a_section_of_their_own(tmp_path, page_and_results):
    envs = ("libero_spatial", "libero_goal")
    make_results(tmp_path, envs=envs, tasks=("lift_it",), depths=(1, 8), episodes=3)
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Success against depth on 2 tasks of libero_spatial, libero_goal" in text
    assert "Environment by environment" in text and "step limits" in text
    assert "Environment by environment" not in page_and_results[0]
    averages = [line for line in Page(text).lines if line[:2] == ["recurrent", "depth 8"] and len(line) == 5]
    assert len(averages) == 1  # policy, setting, two environments, average
    assert text.count("data:video/mp4;base64,") == 6
    assert text.count('<figure class="strip">') == 2


def test_no_mean_of_some_environments_stands_next_to_means_of_all(tmp_path):
    options = {"tasks": ("push",), "depths": (1, 8), "adaptive": False, "videos": 0, "episodes": 3}
    make_results(tmp_path / "all", envs=("libero_goal", "libero_10"), **options)
    make_results(tmp_path / "part", envs=("libero_goal",), policy="rival", **options)
    text = write_report([tmp_path / "all", tmp_path / "part"], tmp_path / "report.html").read_text()
    assert "Not in the charts, as they did not play every environment: rival." in text
    suites = [line for line in Page(text).lines if len(line) == 5 and line[:1] in (["recurrent"], ["rival"])]
    assert [line[-1] == "-" for line in suites] == [False, False, True, True]
    alone = write_report([tmp_path / "all"], tmp_path / "report.html").read_text()
    assert "Not in the charts" not in alone


def test_a_page_holds_a_limited_number_of_videos(tmp_path, monkeypatch):
    monkeypatch.setattr("rdvla.evaluation.report.page.CLIPS", 4)
    results = make_results(tmp_path, depths=(1, 2, 4), episodes=2)
    text = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert text.count("data:video/mp4;base64,") == 4
    for task in ("push", "reach"):  # the first and the last setting's are among them
        last = next(one for one in results.episodes if one.task == task and one.setting.depth is None)
        assert f"action_change:0.001 · {np.mean(last.depths):.1f} iterations" in text


@pytest.mark.parametrize(
    ("p_value", "low", "sentence"),
    [
        (0.01, -0.1, "better (p = 0.01)"),
        (0.2, 0.1, "not told apart (p = 0.2)"),
        (None, 0.1, "better (by the interval)"),
        (None, -0.1, "not told apart (by the interval)"),
    ],
)
def test_a_comparison_in_words(p_value, low, sentence):
    test = PairedTest(
        pairs=20,
        first_success=0.6,
        second_success=0.4,
        only_first=5,
        only_second=1,
        p_value=p_value,
        difference=0.2,
        interval=Interval(low, 0.5),
    )
    assert comparison_sentence(Comparison("", first=None, second=None, test=test)) == sentence


def test_messages_are_escaped(page_and_results):
    text, _ = page_and_results
    assert "&lt;b&gt;broken&lt;/b&gt;" in text
    assert "<b>broken</b>" not in text


def test_videos_outside_the_run_directory_are_not_embedded(tmp_path):
    results = make_results(tmp_path / "run", depths=(1,), adaptive=False, episodes=2, tasks=("push",))
    outside = tmp_path / "outside.mp4"
    (tmp_path / "run" / results.episodes[0].video).rename(outside)
    path = tmp_path / "run" / "results.json"
    content = json.loads(path.read_text().replace(results.episodes[0].video, "../outside.mp4"))
    del content["crc32"]  # as in files of older versions, and in a stranger's
    path.write_text(json.dumps(content))
    assert "data:video" not in write_report([path], tmp_path / "report.html").read_text()


def test_an_empty_result_is_refused(tmp_path):
    results = make_results(tmp_path, tasks=())
    assert results.rows == []
    with pytest.raises(ResultsError, match="nothing to report"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
