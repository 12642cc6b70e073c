"""What may be asked for."""

import pytest
from outlastapi.imaging.v1.imaging_pb2 import DerivativeSpec

import outlast
from outlast_imaging.specs import derivative_id, resolve_all


def test_defaults_are_filled_in():
    (resolved,) = resolve_all([DerivativeSpec(width=640)])

    assert resolved == DerivativeSpec(
        width=640, fit=DerivativeSpec.INSIDE, format=DerivativeSpec.JPEG, quality=82
    )


def test_what_is_resolved_stays_as_it_is():
    resolved = resolve_all([DerivativeSpec(width=640, format=DerivativeSpec.PNG)])

    assert resolve_all(resolved) == resolved


def test_the_request_is_not_changed():
    spec = DerivativeSpec(width=640)

    resolve_all([spec])

    assert spec == DerivativeSpec(width=640)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (DerivativeSpec(width=640), "640x0-inside-q82.jpg"),
        (
            DerivativeSpec(width=64, height=48, fit=DerivativeSpec.COVER, quality=5),
            "64x48-cover-q5.jpg",
        ),
        (DerivativeSpec(height=9, format=DerivativeSpec.PNG), "0x9-inside.png"),
        (DerivativeSpec(height=9, format=DerivativeSpec.WEBP), "0x9-inside-q82.webp"),
        (
            DerivativeSpec(width=1, height=1, fit=DerivativeSpec.EXACT, format=DerivativeSpec.AVIF),
            "1x1-exact-q82.avif",
        ),
    ],
)
def test_a_derivative_is_called_by_how_it_is_made(spec, expected):
    assert derivative_id(*resolve_all([spec])) == expected


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (DerivativeSpec(), "derivatives[0]"),
        (DerivativeSpec(width=-1), "derivatives[0].width"),
        (DerivativeSpec(width=8193), "derivatives[0].width"),
        (DerivativeSpec(width=2**31 - 1), "derivatives[0].width"),
        (DerivativeSpec(width=1, height=-1), "derivatives[0].height"),
        (DerivativeSpec(width=1, height=8193), "derivatives[0].height"),
        (DerivativeSpec(width=1, fit=DerivativeSpec.COVER), "derivatives[0].height"),
        (DerivativeSpec(height=1, fit=DerivativeSpec.EXACT), "derivatives[0].width"),
        (DerivativeSpec(width=1, fit=99), "derivatives[0].fit"),
        (DerivativeSpec(width=1, format=99), "derivatives[0].format"),
        (DerivativeSpec(width=1, quality=101), "derivatives[0].quality"),
        (DerivativeSpec(width=1, quality=-1), "derivatives[0].quality"),
        (DerivativeSpec(width=1, quality=90, format=DerivativeSpec.PNG), "derivatives[0].quality"),
    ],
    ids=lambda value: " ".join(str(value).split()),
)
def test_what_cannot_be_made_is_refused_by_its_field(spec, field):
    with pytest.raises(outlast.InvalidArgumentError) as caught:
        resolve_all([spec])
    assert caught.value.field == field


def test_the_same_derivative_twice_is_refused():
    with pytest.raises(outlast.InvalidArgumentError) as caught:
        resolve_all(
            [DerivativeSpec(width=5), DerivativeSpec(width=6), DerivativeSpec(width=5, quality=82)]
        )
    assert caught.value.field == "derivatives[2]"


def test_there_may_be_sixteen_derivatives_and_no_more():
    specs = [DerivativeSpec(width=width) for width in range(1, 18)]

    assert len(resolve_all(specs[:16])) == 16
    with pytest.raises(outlast.InvalidArgumentError) as caught:
        resolve_all(specs)
    assert caught.value.field == "derivatives"
