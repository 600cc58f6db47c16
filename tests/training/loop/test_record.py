import json

import cv2
import numpy as np
import pytest

from edge_dp.errors import InputError
from edge_dp.training.loop.record import Clock, Record

from .samples import some_samples


def lines(folder):
    return [(line["stage"], line["step"]) for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())]


def test_stage_that_goes_on_forgets_what_was_noted_beyond_its_save(tmp_path):
    record = Record(tmp_path, -1, 1)
    record.begin("float", 0)
    for step in (1, 2, 3):
        record.numbers("float", step, {"loss": 0.1 * step})
    record.end()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"stage": "float", "st')  # cut by a kill
    record = Record(tmp_path, -1, 1)
    record.begin("float", 2)
    record.numbers("float", 3, {"loss": 0.5})
    record.end()
    record.begin("quantised", 0)
    record.numbers("quantised", 1, {"loss": 0.25})
    record.end()
    assert lines(tmp_path) == [("float", 1), ("float", 2), ("float", 3), ("quantised", 1)]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[2])["loss"] == 0.5


def test_tensorboard_reads_the_numbers_and_the_pictures(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record, samples = Record(tmp_path, -2, 2), some_samples(3)
    record.begin("float", 0)
    record.numbers("float", 7, {"loss": 0.625, "l1": 0.5})
    record.pictures("float", 7, samples, samples.label.astype(np.float32), np.full((3, 8, 8), 0.5, np.float32))
    record.end()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "float"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 0.625)]
    (image,) = events.Images("view, label, prediction, confidence")
    assert (image.width, image.height) == (4 * 8, 3 * 8)


def test_picture_shows_view_label_prediction_and_confidence(tmp_path):
    record, samples = Record(tmp_path, -2, 2), some_samples(3)
    record.pictures("float", 7, samples, samples.label.astype(np.float32), np.full((3, 8, 8), 0.5, np.float32))
    picture = cv2.imread(str(tmp_path / "pictures" / "float_000007.png"))
    view, label, prediction, confidence = np.split(picture, 4, axis=1)
    mask = samples.mask.reshape(24, 8)
    np.testing.assert_array_equal(label[mask], prediction[mask])  # the prediction was the label
    assert (label[~mask] == 0).all() and prediction[~mask].any(axis=-1).all()
    assert (confidence == 127).all()
    assert view.max() == 255 and (view == view[..., :1]).all()


def test_place_that_cannot_be_written_is_said(tmp_path):
    record = Record(tmp_path, -1, 1)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(
        InputError, match=r"records cannot be written: Is a directory. Free space, then go on with --resume"
    ):
        record.numbers("float", 1, {"loss": 1.0})


def test_seconds_add_up_over_sessions_and_survive_an_error(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("edge_dp.training.loop.record.time.monotonic", lambda: now[0])
    clock = Clock(tmp_path / "seconds.json")
    with clock.measure("float"):
        now[0] += 2
        clock.save()
        now[0] += 3
    clock = Clock(tmp_path / "seconds.json")
    with pytest.raises(ZeroDivisionError), clock.measure("float"):
        now[0] += 4
        raise ZeroDivisionError
    clock.add("float: waiting for data", 1.5)
    clock.save()
    assert Clock(tmp_path / "seconds.json").seconds == {"float": 9.0, "float: waiting for data": 1.5}
