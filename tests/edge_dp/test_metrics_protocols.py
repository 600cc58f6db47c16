"""The presets against straightforward re-statements of what each publication computes."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import InputError
from edge_dp.metrics import PROTOCOLS, ai1, ai2, evaluate, one_minus_abs_spearman, protocol_named
from edge_dp.metrics.regions import CentreCrop, HalveBicubic, PatchGridCrop, TrimBorder

SEEDS = st.integers(0, 2**32 - 1)
NAMES = sorted(PROTOCOLS)
WITHOUT_STEPS = [dataclasses.replace(PROTOCOLS[name], steps=()) for name in NAMES]
weighted = pytest.mark.parametrize(
    "protocol", [p for p in WITHOUT_STEPS if p.counted != "all"], ids=lambda protocol: protocol.name
)
every = pytest.mark.parametrize("protocol", WITHOUT_STEPS, ids=lambda protocol: protocol.name)


def scene(seed=0, shape=(30, 40), holes=0.1):
    """Prediction, 8-bit target with holes at level 0, and confidence."""
    rng = np.random.default_rng(seed)
    target = rng.integers(1, 256, shape).astype(np.uint8)
    target[rng.random(shape) < holes] = 0
    prediction = np.round(3 - target / 100 + rng.normal(0, 0.4, shape), 1)  # tied, as maps of a few levels are
    return prediction, target, rng.random(shape)


def irls(p, t, c, updates):
    """A first least-squares fit, then as many reweighted ones; the error of the last."""
    p, t, c = p.ravel(), t.ravel(), c.ravel()
    design, weight = np.stack([p, np.ones_like(p)], 1), np.ones_like(p)
    for _ in range(1 + updates):
        root = np.sqrt(weight * c)
        residual = abs(design @ np.linalg.lstsq(design * root[:, None], t * root)[0] - t)
        weight = 1 / np.maximum(1e-3, residual)
    return np.average(residual, weights=c)


def rms_of_fit(p, t, c, rows):
    p, t, c, rows = p.ravel(), t.ravel(), c.ravel(), rows.ravel()
    design = np.stack([p, np.ones_like(p)], 1)
    fit = np.linalg.lstsq(design * rows[:, None], t * rows)[0]
    return np.sqrt(np.average((design @ fit - t) ** 2, weights=c))


def rank_correlation(p, t, c, method):
    p, t = (rankdata(values, method).ravel() for values in (p, t))
    covariance = np.cov(p, t, aweights=c.ravel())
    return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def assert_scores(found, expected):
    assert list(found) == ["ai1", "ai2", "one_minus_abs_spearman"]
    assert all(type(value) is float for value in found.values())
    assert list(found.values()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_google2019_as_published():
    """Centre 384 x 512 of 756 x 1008 (W x H), confidence as weight, ordinal ranks of the whole crop."""
    prediction, target, confidence = scene(shape=(1008, 756))
    confidence[confidence < 0.3] = 0
    p, c = prediction[248:760, 186:570], confidence[248:760, 186:570]
    t = target[248:760, 186:570] / 255
    spearman = 1 - max(rank_correlation(p, t, c, "ordinal"), rank_correlation(-p, t, c, "ordinal"))
    expected = [irls(p, t, c, updates=4), rms_of_fit(p, t, c, np.sqrt(c)), spearman]
    assert_scores(evaluate("google2019", prediction, target, confidence), expected)


def test_iccp2020_as_published():
    prediction, target, _ = scene(shape=(720, 759))
    prediction = np.round(10 * prediction)  # the halves are exact, so that both sides tie the same values
    half = np.rint(halved(target.astype(float))).clip(0, 255) / 255
    rows, columns = (matlab_grid(size) for size in half.shape)
    region = np.ix_(rows[100:-100], columns[100:-100])
    p, t = halved(prediction)[region], half[region]
    assert p.shape == (8 * 33 - 200, 9 * 33 - 200)
    ones = np.ones_like(t)
    expected = [irls(p, t, ones, updates=5), rms_of_fit(p, t, ones, ones)]
    spearman = 1 - abs(rank_correlation(p, t, ones, "dense"))
    found = evaluate("iccp2020", prediction, target)
    assert_scores(found, [*expected, spearman])
    # The published demo holds an estimate of the patch grid already.
    on_grid = halved(prediction)[np.ix_(rows, columns)]
    assert evaluate("iccp2020", on_grid, target) == pytest.approx(found, rel=1e-9)
    assert evaluate("iccp2020", prediction, (target / 255).astype(np.float32)) == pytest.approx(found, rel=1e-9)


def test_sfbd_as_published():
    small, rough, coarse = scene(shape=(49, 86))
    frame = (5180, 2940)
    prediction, confidence = (cv2.resize(values, frame) for values in (small, coarse))
    target = cv2.resize(rough, frame, interpolation=cv2.INTER_CUBIC)

    def region(values):
        resized = cv2.resize(values[125:2717, 143:4879], (2386, 1296), interpolation=cv2.INTER_LINEAR)
        rows = np.arange(56, 1296 - 55, 33)
        columns = np.arange(56, 2386 - 55, 33)
        return resized[rows[0] - 16 : rows[-1] + 17, columns[0] - 16 : columns[-1] + 17]

    p, t, c = region(prediction), region(target / 255), region(confidence)
    assert p.shape == (1188, 2277)
    expected = [irls(p, t, c, updates=4), rms_of_fit(p, t, c, c), 1 - abs(rank_correlation(p, t, c, "dense"))]
    assert_scores(evaluate("sfbd", prediction, target, confidence), expected)


def test_xin2021_scores_where_there_is_ground_truth():
    prediction, target, _ = scene()
    p, t = prediction[target > 0], target[target > 0] / 255
    ones = np.ones_like(t)
    expected = [irls(p, t, ones, updates=4), rms_of_fit(p, t, ones, ones), 1 - rank_correlation(-p, t, ones, "average")]
    found = evaluate("xin2021", prediction, target)
    assert_scores(found, expected)
    prediction[target == 0] = np.nan
    assert evaluate("xin2021", prediction, target) == found


def test_xin2021_on_a_real_capture(data_root):
    """The sets' numbers so far, and how those of Kim et al. differ: in Spearman alone, as they rank holes too."""
    sample = Xin2021(data_root / "dual_pixel" / "pixel4")[0]
    target, mask = sample.affine_disparity, sample.mask
    prediction = np.round(cv2.GaussianBlur(sample.left[0], (0, 0), 20), 3)
    found = evaluate("xin2021", prediction, target)
    assert_scores(found, [metric(prediction, target, mask) for metric in (ai1, ai2, one_minus_abs_spearman)])
    kim = dataclasses.replace(PROTOCOLS["sfbd"], name="sfbd_on_xin2021", steps=(), counted="target > 0")
    other = evaluate(kim, prediction, target)
    assert (other["ai1"], other["ai2"]) == pytest.approx((found["ai1"], found["ai2"]), rel=1e-9)
    assert abs(other["one_minus_abs_spearman"] - found["one_minus_abs_spearman"]) > 1e-3


@every
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), offset=st.floats(-100, 100), sign=st.sampled_from([-1, 1]))
def test_affine_invariance(protocol, seed, scale, offset, sign):
    prediction, target, _ = scene(seed, (8, 9))
    prediction = np.round(prediction * 10).astype(int)  # apart by 1: an affine map can neither join nor swap levels
    found = evaluate(protocol, sign * scale * prediction + offset, target)
    assert found == pytest.approx(evaluate(protocol, prediction, target), rel=1e-6, abs=1e-9)


@every
def test_a_perfect_prediction_scores_zero(protocol):
    target = np.arange(30 * 40).reshape(30, 40).astype(np.float32) / (30 * 40)
    protocol = dataclasses.replace(protocol, round_target=False)
    assert list(evaluate(protocol, 3 - 2 * target, target).values()) == pytest.approx([0, 0, 0], abs=1e-6)


def test_presets_differ_as_documented():
    """Equal where they should be equal, and nowhere else: on tied data with holes and confidences."""
    prediction, target, confidence = scene(holes=0.3)
    google, iccp, sfbd, _ = WITHOUT_STEPS
    unweighted = [evaluate(protocol, prediction, target) for protocol in WITHOUT_STEPS]
    assert unweighted[0]["ai1"] == unweighted[2]["ai1"] != unweighted[1]["ai1"]
    assert unweighted[0]["ai2"] == unweighted[1]["ai2"] == unweighted[2]["ai2"] != unweighted[3]["ai2"]
    spearman = [scores["one_minus_abs_spearman"] for scores in unweighted]
    assert spearman[1] == spearman[2]
    assert len(set(spearman)) == 3
    with_confidence = [evaluate(protocol, prediction, target, confidence) for protocol in (google, sfbd)]
    assert with_confidence[0]["ai1"] == with_confidence[1]["ai1"]
    assert with_confidence[0]["ai2"] < with_confidence[1]["ai2"]
    binary = [evaluate(protocol, prediction, target, confidence > 0.5) for protocol in (google, sfbd)]
    assert binary[0]["ai2"] == pytest.approx(binary[1]["ai2"], rel=1e-12)
    assert iccp.ai1_fits == google.ai1_fits + 1


def test_a_constant_prediction_scores_as_the_rows_do_in_google2019_alone():
    target = np.arange(1, 241).reshape(20, 12).astype(np.uint8)
    flat = np.zeros(target.shape)
    scores = {p.name: evaluate(p, flat, target)["one_minus_abs_spearman"] for p in WITHOUT_STEPS}
    assert scores == pytest.approx({"google2019": 0, "iccp2020": 1, "sfbd": 1, "xin2021": 1}, abs=1e-9)
    upside_down = evaluate(protocol_without_steps("google2019"), flat, target[::-1, ::-1])
    assert upside_down["one_minus_abs_spearman"] == pytest.approx(2)


@weighted
def test_mask_and_zero_confidence_are_one(protocol):
    prediction, target, confidence = scene(3)
    keep = confidence > 0.4
    masked = evaluate(protocol, prediction, target, mask=keep)
    assert masked == pytest.approx(evaluate(protocol, prediction, target, keep * 1.0), rel=1e-12)
    assert masked != evaluate(protocol, prediction, target)


def test_only_protocols_that_rank_all_see_pixels_that_do_not_count():
    prediction, target, confidence = scene(4)
    keep = confidence > 0.4
    other = np.where(keep, prediction, 100.0)
    for protocol in WITHOUT_STEPS:
        if protocol.counted == "all":
            continue
        before, after = (evaluate(protocol, values, target, mask=keep) for values in (prediction, other))
        assert before["ai1"] == after["ai1"]
        assert before["ai2"] == after["ai2"]
        assert (before["one_minus_abs_spearman"] != after["one_minus_abs_spearman"]) == protocol.rank_all


def test_a_resized_pixel_counts_where_all_it_is_made_of_does():
    protocol = dataclasses.replace(PROTOCOLS["xin2021"], steps=(HalveBicubic(),))
    prediction, target, _ = scene(5, (40, 60), holes=0)
    target, mask = target // 2 + 60, np.ones(target.shape, bool)
    mask[:, 0:11] = False
    found = evaluate(protocol, prediction, target, mask=mask)
    # Taps of column 7 of the half reach from 11 to 18 of the whole, those of column 6 from 9.
    p, t = (halved(values)[:, 7:] for values in (prediction, target / 255))
    assert found["ai2"] == pytest.approx(ai2(p, t), rel=1e-9)


def protocol_without_steps(name):
    return dataclasses.replace(PROTOCOLS[name], steps=())


def halved(image):
    """MATLAB's imresize by 0.5 from its definition: stretched cubic at each output's place, mirrored edges."""

    def cubic(x):
        x = abs(x)
        return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

    def weights(size):
        matrix = np.zeros((-(-size // 2), size))
        mirrored = np.r_[np.arange(size), np.arange(size)[::-1]]
        for row in range(len(matrix)):
            place = 2 * row + 0.5  # in input pixels, counted from 0
            inputs = np.arange(int(np.floor(place - 4)), int(np.floor(place - 4)) + 10)
            taps = cubic((place - inputs) / 2)
            np.add.at(matrix[row], mirrored[inputs % (2 * size)], taps / taps.sum())
        return matrix

    return weights(image.shape[0]) @ image @ weights(image.shape[1]).T


def matlab_grid(size, patch=111, stride=33):
    """Indices, from 0, of rowmax(1)-mids : rowmax(end)+mids with rowmax = m+1 : s : row-m, counted from 1."""
    half = (patch - 1) // 2
    centres = [centre for centre in range(half + 1, size + 1, stride) if centre <= size - half]
    return np.arange(centres[0] - (stride - 1) // 2, centres[-1] + (stride - 1) // 2 + 1) - 1


@pytest.mark.parametrize("shape", [(8, 8), (31, 20), (9, 13)])
def test_halving_is_matlabs(shape):
    image = np.random.default_rng(0).random(shape)
    assert HalveBicubic()(image) == pytest.approx(halved(image), abs=1e-12)


def test_halving_smooths():
    """OpenCV's cubic keeps the finest stripes as they alias; MATLAB's takes them away."""
    stripes = np.tile([0.0, 0.0, 1.0, 1.0, 0.0], (40, 8))
    assert np.ptp(HalveBicubic()(stripes)[10, 5:15]) < np.ptp(cv2.resize(stripes, None, fx=0.5, fy=0.5)[10, 5:15])
    assert HalveBicubic()(np.full((7, 6), 0.3)) == pytest.approx(np.full((4, 3), 0.3))


@given(size=st.integers(111, 600))
def test_patch_grid_is_matlabs_and_the_other_starts_a_pixel_later(size):
    line = np.tile(np.arange(size, dtype=float), (111 + 33, 1))
    matlab = PatchGridCrop(111, 33, first=55)(line)[0]
    assert list(matlab) == list(matlab_grid(size))
    if size > 111:
        other = PatchGridCrop(111, 33, first=56)(line)[0]
        assert other[0] == matlab[0] + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_record_names_everything_a_number_depends_on(name):
    record = json.loads(json.dumps(PROTOCOLS[name].record()))
    assert set(record) == {field.name for field in dataclasses.fields(PROTOCOLS[name])}
    assert record["name"] == name
    assert record["source"]
    steps = {step.__name__: step for step in (CentreCrop, HalveBicubic, PatchGridCrop, TrimBorder)}
    for step, text in zip(PROTOCOLS[name].steps, record["steps"], strict=True):
        if type(step).__name__ in steps:
            assert eval(text, steps) == step


def test_what_does_not_fit_is_refused():
    prediction, target, confidence = scene(shape=(600, 500))
    with pytest.raises(InputError, match="iccp2021: no such protocol; known are google2019, iccp2020, sfbd, xin2021"):
        protocol_named("iccp2021")
    with pytest.raises(InputError, match=r"target: expected at least 512 x 384 .* found 300 x 500"):
        evaluate("google2019", prediction, target[:300])
    with pytest.raises(
        InputError, match=r"prediction: expected \(600, 500\) or \(512, 384\) .* google2019, found \(500, 600\)"
    ):
        evaluate("google2019", prediction.T, target)
    with pytest.raises(InputError, match=r"confidence: expected \(600, 500\) or \(512, 384\)"):
        evaluate("google2019", prediction, target, confidence[1:])
    with pytest.raises(InputError, match=r"mask: expected \(600, 500\)"):
        evaluate("xin2021", prediction, target, mask=np.ones(3, bool))
    with pytest.raises(InputError, match=r"target: expected \(2940, 5180\) .* found \(600, 500\)"):
        evaluate("sfbd", prediction, target)
    with pytest.raises(InputError, match=r"target: expected at least 111 px .* PatchGridCrop.* found 50"):
        evaluate("iccp2020", prediction[:100], target[:100])
    with pytest.raises(InputError, match=r"target: expected more than 200 px .* found \(198, 165\)"):
        evaluate("iccp2020", prediction, target)
    with pytest.raises(InputError, match="confidence, mask: expected none, as protocol iccp2020 counts all pixels"):
        evaluate("iccp2020", prediction, target, mask=target > 0)
    with pytest.raises(InputError, match=r"target: .* found float64 \(600, 500\) with \d+ values outside"):
        evaluate("xin2021", prediction, target.astype(float))
    with pytest.raises(InputError, match=r"target: expected \(H, W\) ground truth as published, .* found uint16"):
        evaluate("xin2021", prediction, target.astype(np.uint16))
    with pytest.raises(InputError, match=r"target: .* found uint8 \(600, 500, 1\)"):
        evaluate("xin2021", prediction, target[..., None])
    prediction[300, 250] = np.nan
    with pytest.raises(InputError, match="prediction: expected finite values, found NaN or infinity in 1 of"):
        evaluate("google2019", prediction, target)
    with pytest.raises(InputError, match="mask: expected at least one pixel with ground truth, found none"):
        evaluate("xin2021", prediction, np.zeros_like(target))
