from __future__ import annotations

from pathlib import Path

from voxmim.report.markdown import write_markdown
from voxmim.report.page import Page, Picture, Table
from voxmim.report.plots import Curve, HeatMap, Plot, png


def page() -> Page:
    picture = png(HeatMap("t", ["a"], ["x"], [[0.5]], "rows", "columns", "Dice"))
    return Page(
        title="Who | wins?",
        lead=["First *seen*.", "", "Then more."],
        facts=[("store", "of <b> & co")],
        tables=[Table("Results", ["arm", "Dice"], [["MAE", "0.512"], ["a|b", "0.400"]], "A note.")],
        plots=[Plot("Curves", "step", "Dice", [Curve("MAE", [1, 2], [0.1, 0.2])], "One seed.")],
        pictures=[Picture("A map", picture, "Its caption.")],
        settings="seed: 0\nlr: 0.001\n",
        commands=["voxmim study one", "voxmim pretrain two"],
    )


def test_a_page_is_written_as_markdown_with_separate_pictures(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "page.md"
    write_markdown(file, page(), [("results.csv", "all of it")])
    text = file.read_text()
    assert text.startswith(
        "# Who \\| wins?\n\nFirst \\*seen\\*.\n\nThen more.\n\n- [results.csv](results.csv): all of it"
    )
    assert "| store | of \\<b> & co |" in text
    assert "### Results\n\n| arm | Dice |\n| --- | --: |\n| MAE | 0.512 |\n| a\\|b | 0.400 |\n\nA note." in text
    assert (
        "![Curves](pictures/01.png)\n\n*Curves. One seed.*\n\n![A map](pictures/02.png)\n\n*A map. Its caption.*"
        in text
    )
    assert "## Reproduce\n\n```\nvoxmim study one\n```" in text
    assert "<details><summary>The command of each step</summary>\n\n```\nvoxmim pretrain two\n```\n\n</details>" in text
    assert "```\nseed: 0\nlr: 0.001\n```" in text
    assert (tmp_path / "folder" / "pictures" / "02.png").read_bytes() == page().pictures[0].png
    assert (tmp_path / "folder" / "pictures" / "01.png").read_bytes()[:4] == b"\x89PNG"


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    write_markdown(tmp_path / "page.md", Page("Title", ["One line."]))
    assert (tmp_path / "page.md").read_text() == "# Title\n\nOne line.\n"
    assert not (tmp_path / "pictures").exists()
