"""Scenes and the vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.shapes import COLOURS, FOREIGN, SHAPES, ClipSpec, make_scene, matches, parse, phrases

colours = st.sampled_from((None, *COLOURS))
shapes = st.sampled_from((None, *SHAPES))


@given(colours, shapes)
def test_every_phrase_is_read_back_as_what_it_asks_for(colour, shape):
    assert {parse(phrase) for phrase in phrases(colour, shape)} == {(colour, shape)}


@pytest.mark.parametrize("word", FOREIGN)
def test_foreign_words_ask_for_nothing_drawn(word):
    assert parse(word) is None


@given(colours, shapes, st.sampled_from(COLOURS), st.sampled_from(SHAPES))
def test_a_phrase_asks_for_an_object_when_every_word_of_it_fits(colour, shape, own_colour, own_shape):
    expected = colour in (None, own_colour) and shape in (None, own_shape)
    assert matches(colour, shape, (own_colour, own_shape)) is expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 4))
def test_a_scene_is_decided_by_its_seed_and_holds_as_many_objects_as_asked(seed, fewest, more):
    spec = ClipSpec(seed, objects=(fewest, fewest + more))
    scene = make_scene(spec)
    assert scene == make_scene(spec)
    assert fewest <= len(scene.objects) <= fewest + more
    assert [thing.object_id for thing in scene.objects] == list(range(1, len(scene.objects) + 1))


def test_neighbouring_seeds_give_different_scenes():
    assert len({make_scene(ClipSpec(seed)).things for seed in range(20)}) == 20


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"fps": 0.0}, "fps must be above 0, got 0.0"),
        ({"look": "cubist"}, "look must be one of mixed, plain, got 'cubist'"),
        ({"objects": (3, 2)}, "objects must be"),
    ],
)
def test_a_spec_says_what_is_wrong_with_it(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClipSpec(1, **wrong)
