import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import results_factory as factory
from results_factory import HOSTILE, NEW, OLD, record

from kselftests_py.measure import percentile
from kselftests_py.reports import html, write_all
from kselftests_py.results import Manifest, Metric, Outcome

VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}
FETCHING = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Text of the page by element, with nesting and self-containment checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in FETCHING, (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert name not in ("href", "xlink:href") or value.startswith("#"), (tag, value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


@pytest.fixture(scope="module")
def realistic() -> str:
    return html.render([*factory.judged(), *factory.measured()], factory.manifest())


def test_the_page_needs_nothing_else(realistic):
    page = Page(realistic)
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(page.tags)
    assert re.findall(r"@import|url\((?!#)", realistic) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", realistic)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_has_its_parts_in_order_with_the_verdict_on_top(realistic):
    page = Page(realistic)
    assert page.within("h1") == [f"Userfaultfd protection of {NEW} against {OLD}"]
    assert page.within("h2") == [
        "What failed",
        "Side by side",
        "Path by path, in instructions",
        "Distributions",
        "Findings",
        "Skipped",
        "Every test",
        "Provenance",
    ]
    assert page.texts.index(("b", "CRASH")) < page.texts.index(("h2", "What failed"))


def test_light_and_dark_have_every_colour(realistic):
    light, dark = realistic.split("@media (prefers-color-scheme: dark)", 1)
    defined = set(re.findall(r"(--[a-z]+(?:-\d)?):", light))
    assert defined == set(re.findall(r"(--[a-z]+(?:-\d)?):", dark.split("} }")[0]))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", realistic)) - {"--tone"}
    assert used <= defined
    drawings = re.findall(r"<svg.*?</svg>", realistic, re.DOTALL)
    assert not [found for drawing in drawings for found in re.findall(r"(?:fill|stroke): ?#[0-9a-f]+", drawing)]


def test_every_drawing_is_an_svg_of_its_own(realistic):
    drawings = re.findall(r"<svg.*?</svg>", realistic, re.DOTALL)
    # exact: fault sync, fault async, protect, scan; wall: sync, async; histograms: 8 exact rows, 4 comparable wall rows
    assert len(drawings) == 4 + 2 + 8 + 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_side_by_side_table_under_tcg_has_ratios_and_no_nanoseconds(realistic):
    assert "nanoseconds say nothing" in realistic
    assert "Wall clock under TCG emulation: ratios only" in Page(realistic).within("summary")
    assert "Wall time: ns" not in realistic
    wall = {f"{metric.value:,.0f}" for one in factory.measured() for metric in one.metrics if metric.mode == "wall"}
    assert not wall & set(Page(realistic).within("td"))


def test_with_kvm_nanoseconds_are_shown():
    text = html.render(factory.measured(), factory.manifest("kvm"))
    assert "nanoseconds say nothing" not in text
    assert "Wall time: ns" in Page(text).within("h3")
    wall = {f"{metric.value:,.0f}" for one in factory.measured() for metric in one.metrics if metric.mode == "wall"}
    assert wall <= set(Page(text).within("td"))


def test_percentiles_are_shown_of_real_nanoseconds_only(realistic):
    """401 samples have a p99."""
    samples = [metric for one in factory.measured() for metric in one.metrics if metric.mode == "wall"]
    told = Page(html.render(factory.measured(), factory.manifest("kvm"))).within("td")
    for metric in samples:
        assert f"{percentile(metric.histogram, 99):,.0f}" in told
    assert "Percentiles" not in Page(realistic).within("summary")


def test_failures_have_their_log_and_skips_their_reason(realistic):
    page = Page(realistic)
    assert any("mrwprotect_range+0x52" in text for text in page.within("pre"))
    assert "8 \u00d7 rwp: the kernel refuses UFFDIO_REGISTER_MODE_RWP" in page.within("summary")
    assert "Passes, although finding F002 says that it fails." in page.within("p")


def test_provenance(realistic):
    for text in ("7.3.4+deb13-amd64", "a" * 64, "hpet=off", "QEMU aborted on an MSR", "6.1, 6.4", "c" * 64, "kst run"):
        assert text in realistic


@pytest.mark.parametrize(
    "text", [HOSTILE, "</pre></details><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "$x^2$", "$\\frac$"]
)
def test_hostile_text_everywhere(text):
    labels = {"path": text, "kind": text, "protection": text, text: text}
    metrics = [
        Metric(name=text, value=1, unit=text, mode="exact", labels=labels, histogram=[(1, 1)]),
        Metric(name=text, value=1, unit=text, labels={}),
    ]
    records = [
        record(id=text, suite=text, kernel=text, outcome=outcome, message=text, log=text, claim=text, finding=finding,
               metrics=metrics)
        for outcome in Outcome for finding in ("", text)
    ]  # fmt: skip
    manifest = factory.manifest(argv=[text], versions={text: text}, options={"x": text}, started=text, boot_failed=text)
    for entry in manifest.kernels:
        entry.label = entry.release = entry.spec = entry.digest = entry.accelerator_reason = text
        entry.qemu_cmdlines, entry.provenance, entry.capabilities = [text], {text: text}, {text: text}
    run_text = html.render([one.bounded() for one in records], manifest)
    page = Page(run_text)
    assert not {"script", "img"} & set(page.tags)
    assert "49" not in page.within("li")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ufffe]", run_text)
    run_text.encode()


def test_a_run_that_was_killed_before_its_manifest_has_a_page():
    page = Page(html.render([record()], Manifest()))
    assert "INCOMPLETE" in page.within("b")


def test_an_empty_run_has_a_page():
    page = Page(html.render([], factory.manifest()))
    assert "NOTHING TESTED" in page.within("b")
    assert page.within("h2") == ["Provenance"]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = factory.run_folder(tmp_path / "run", [*factory.judged(), *factory.measured()])
    paths = write_all(run)
    assert [path.name for path in paths] == ["junit.xml", "ktap.txt", "report.html"]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_all(run)] == before
