"""What the cfg reader refuses, and at which line it says so."""

import pytest

from mpitile.errors import InputError
from mpitile.network.cfg import parse_network, read_network

NET = "[net]\nheight=8\nwidth=8\n"  # lines 1 to 3; layers start at line 4
CONV = "[conv]\nfilters=4\n"


def error(text):
    with pytest.raises(InputError) as caught:
        parse_network(text, "a.cfg")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("", 1, ["[net]", "no section"]),
        ("# only a comment\n\n", 1, ["[net]", "no section"]),
        ("\n; comment\nheight=8\n", 3, ["section header", "height=8"]),
        (CONV, 1, ["[net]", "[conv]"]),
        ("[net]\nwidth=8\n" + CONV, 1, ["[net]", "'height'"]),
        (NET + "channels=0\n" + CONV, 4, ["channels", ">= 1", "'0'"]),
        (NET + "hue=1.5\n" + CONV, 4, ["hue", "in [0, 1]", "'1.5'"]),
        (NET + "[convolutional\n", 4, ["section header", "'[convolutional'"]),
        (NET + "[]\n", 4, ["section header", "'[]'"]),
        (NET + "[conv]\nfilters\n", 5, ["key=value", "'filters'"]),
        (NET + "[conv]\nfilters=\n", 5, ["key=value", "'filters='"]),
        (NET + "[conv]\n=3\n", 5, ["key=value", "'=3'"]),
        (NET + "[conv]\nfilters=4\nsize=3\nfilters=5\n", 7, ["'filters'", "line 5"]),
        (NET + "[conv]\nfilter=4\n", 5, ["unknown key 'filter'", "[conv]", "filters, "]),
        (NET + "[avgpool]\nsize=4\n", 5, ["unknown key 'size'", "none"]),
        (NET + CONV + "[net]\nheight=8\nwidth=8\n", 6, ["second [net]"]),
        (NET + "[foo]\n", 4, ["unknown section [foo]", "[convolutional]", "[region]"]),
        (NET + CONV + "[lrn]\n", 6, ["[lrn] is not supported yet"]),
        (NET + "[crop]\ncrop_height=2\n", 4, ["[crop] is not supported yet"]),
        (NET + "[conv]\nactivation=swish\n", 5, ["activation=swish is not supported yet"]),
        (NET + "[conv]\nactivation=leeky\n", 5, ["leaky", "found 'leeky'"]),
        (NET + "[conv]\nsize=1\ngroups=0\n", 6, ["groups", ">= 1", "'0'"]),
        (NET + "[conv]\nfilters=4\ngroups=2\n", 4, ["channels that groups=2 divides", "3"]),
        (NET + "[upsample]\nstride=-2\n", 5, ["stride", ">= 1", "'-2'"]),
        (NET + "[upsample]\nsize=2\n", 5, ["unknown key 'size'", "scale, stride"]),
        (NET + "[yolo]\nnum=2\nanchors=9,9\n", 6, ["anchors", "expected 4", "found 2"]),
        (NET + "[yolo]\nmask=0\n", 4, ["'anchors'"]),
        (NET + "[yolo]\nanchors=9,9\nmask=1\n", 6, ["mask", "0 to 0", "found 1"]),
        (NET + "[yolo]\nanchors=9,9\nmask=0,0\n", 6, ["mask", "once"]),
        (NET + "[yolo]\nanchors=9,9\niou_loss=ciou\n", 6, ["iou_loss=ciou", "only mse"]),
        (NET + "[yolo]\nanchors=9,9\nthresh=.6\n", 6, ["unknown key 'thresh'", "ignore_thresh"]),
        (NET + "[yolo]\nanchors=9,9\nscale_x_y=.9\n", 6, ["scale_x_y", ">= 1"]),
        (NET + "[conv]\nstride_x=1\n", 5, ["stride_x=1", "not supported yet"]),
        (NET + "[soft]\ntemperature=2\n", 5, ["temperature=2", "not supported yet"]),
        (NET + "[cost]\ntype=smooth\n", 5, ["type=smooth is not supported yet"]),
        (NET + "[cost]\nscale=2\n", 5, ["scale=2", "not supported yet"]),
        (NET + "[reorg]\nreverse=1\n", 5, ["reverse=1", "not supported yet"]),
        (NET + "[conv]\nfilters=three\n", 5, ["filters", "integer >= 1", "'three'"]),
        (NET + "[conv]\nfilters=4.0\n", 5, ["filters", "integer >= 1", "'4.0'"]),
        (NET + "[conv]\nfilters=1_0\n", 5, ["filters", "'1_0'"]),
        (NET + "[conv]\nfilters=" + "9" * 5000 + "\n", 5, ["filters"]),
        (NET + "[conv]\nfilters=0\n", 5, ["filters", "integer >= 1", "'0'"]),
        (NET + "[conv]\nstride=0\n", 5, ["stride", ">= 1", "'0'"]),
        (NET + "[conv]\nsize=-1\n", 5, ["size", ">= 1", "'-1'"]),
        (NET + "[conv]\npadding=-1\n", 5, ["padding", ">= 0", "'-1'"]),
        (NET + "[conv]\npad=2\n", 5, ["pad", "0 or 1", "'2'"]),
        (NET + "[conv]\nsize=3 # odd\n", 5, ["size", "'3#odd'"]),
        (NET + "[max]\nsize=0\n", 5, ["size", ">= 1"]),
        (NET + "[dropout]\nprobability=1\n", 5, ["probability", "[0, 1)", "'1'"]),
        (NET + "[dropout]\nprobability=nan\n", 5, ["probability", "'nan'"]),
        (NET + "momentum=1e999\n" + CONV, 4, ["momentum", "'1e999'"]),
        (NET + "angle=much\n" + CONV, 4, ["angle", "'much'"]),
        (NET + "batch=6\nsubdivisions=4\n" + CONV, 5, ["subdivisions", "batch=6", "4"]),
        (NET + "policy=random\n" + CONV, 4, ["policy=random is not supported yet"]),
        (NET + "policy=stepped\n" + CONV, 4, ["policy", "'stepped'"]),
        (NET + "policy=steps\nsteps=3,4\nscales=.1\n" + CONV, 6, ["scales", "2 numbers", "1"]),
        (NET + "policy=steps\n" + CONV, 4, ["steps and scales"]),
        (NET + "policy=poly\n" + CONV, 4, ["max_batches"]),
        (NET + "[route]\n", 4, ["[route]", "'layers'"]),
        (NET + CONV + "[route]\nlayers=-1,\n", 7, ["layers", "integer", "''"]),
        (NET + CONV + "[route]\nlayers=1\n", 7, ["earlier layer", "number 1", "found 1"]),
        (NET + CONV + "[route]\nlayers=-1,-2\n", 7, ["earlier layer", "found -2"]),
        (NET + CONV + "[shortcut]\nfrom=5\n", 7, ["earlier layer", "found 5"]),
        (NET + "[region]\nnum=2\nanchors=1,1\n", 6, ["anchors", "expected 4", "found 2"]),
        (NET + "[region]\nanchors=1,0\n", 5, ["anchors", "> 0", "'0'"]),
        (NET + "[region]\nanchors=1,1\ncoords=5\n", 6, ["coords=5", "not supported yet"]),
        (NET + "[region]\nanchors=1,1\ntree=a.tree\n", 6, ["tree=a.tree", "not supported"]),
        (NET, 0, ["at least one layer"]),
    ],
)
def test_refused_with_its_line(text, line, parts):
    message = error(text)
    assert message.startswith(f"a.cfg:{line}: " if line else "a.cfg: ")
    for part in parts:
        assert part in message


def test_shape_errors_carry_the_line_of_the_section():
    assert error(NET + CONV + "\n[conv]\nsize=9\n").startswith("a.cfg:7: [convolutional] ")


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.cfg"
    with pytest.raises(InputError, match=r"none\.cfg: .*No such file"):
        read_network(path)


def test_reading_a_file_names_it_in_errors(tmp_path):
    path = tmp_path / "bad.cfg"
    path.write_bytes(b"# caf\xe9\r\n[net]\r\nheight=x\r\n")
    with pytest.raises(InputError, match=r"bad\.cfg:3: height: .*'x'"):
        read_network(path)
