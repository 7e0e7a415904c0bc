"""The picture of the rooms, and the places that pages name, are those that there are."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "house.md"]


def picture(path: Path) -> str:
    return re.search(r"```mermaid\n(.*?)```", path.read_text(encoding="utf-8"), re.S).group(1)


def layers() -> list[str]:
    """Rooms from the top down, as the contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name.strip().replace(".", "/") for row in rows for name in row.split("|")]


def test_both_pages_show_one_picture():
    assert picture(PAGES[0]) == picture(PAGES[1])


def test_the_picture_has_every_room_and_its_arrows_point_down():
    drawn, order = picture(PAGES[1]), layers()
    rooms = dict(re.findall(r'^ +(\w+)\["([\w/]+)<br>', drawn, re.M))
    packages = [name for name in order if (ROOT / name).is_dir()]
    assert sorted(rooms.values()) == sorted(packages)
    chains = [line.split("-->") for line in drawn.splitlines() if "-->" in line]
    arrows = [(rooms[a.strip()], rooms[b.strip()]) for chain in chains for a, b in pairwise(chain)]
    assert len(arrows) > len(rooms) - 2
    assert all(order.index(above) < order.index(below) for above, below in arrows)


def test_the_image_on_the_site_is_the_picture():
    """`docs/images/house.svg` is what mermaid draws of it; after a change it is drawn anew, as CONTRIBUTING says."""
    drawn = ElementTree.parse(ROOT / "docs" / "images" / "house.svg").getroot()
    words = " ".join("".join(part.itertext()) for part in drawn.iter() if part.tag.endswith("}tspan"))
    for room, text in re.findall(r'\["([\w/]+)<br>([^"]+)"\]', picture(PAGES[1])):
        assert room in words and all(word in words for word in text.split()), room
    arrows = [part for part in drawn.iter() if "flowchart-link" in part.get("class", "")]
    assert len(arrows) == sum(line.count("-->") for line in picture(PAGES[1]).splitlines())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_places_that_a_page_names_exist(path):
    named = set(re.findall(r"`((?:harness|methods|metrics|reports|tests)/[\w/.]*)`", path.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
