"""The distillation run: simulate and label, train the float student, train it quantisation-aware, write the checkpoint.

Everything is a function of the recipe: captures of their index, batches, learning rates and noise of the step. So the complete
state of a run is weights, their average, optimiser moments and a step number, and a run killed at any moment goes on from its
last save as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_dp._version import VERSION
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from edge_dp.models.registry import build_student, student_entry
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.simulation.shards import claim_folder
from edge_dp.training.labels import SHARD_SIZE, Samples, data_set_key, read_provenance, read_shards, write_shards
from edge_dp.training.labels.teachers import resolve, teacher_note
from edge_dp.training.loop.batches import BatchMaker
from edge_dp.training.loop.evaluate import end_point_error, teacher_error
from edge_dp.training.loop.processes import Processes, join_processes
from edge_dp.training.loop.record import Clock, Record
from edge_dp.training.loop.sources import InMemory, Simulated, Source, join, part
from edge_dp.training.loop.stage import Loop, Progress
from edge_dp.training.recipe import QuantisedStageRecipe, Recipe

DATA_LICENCE = "none: procedural scenes rendered by edge_dp"
_SHOWN = 4  # held-out captures in a picture


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    device: str = "cpu",
    captures: Path | None = None,
    progress: Progress,
) -> Path:
    """Run a recipe, alone or as one of the processes that ``torchrun`` started; they must see the same ``folder``.

    Args:
        folder: of the run; holds the simulated captures, the states, the records and in the end ``checkpoint/``.
        resume: go on with what ``folder`` holds; otherwise it must not hold a run.
        workers: processes that simulate; all cores unless given.
        device: ``cpu`` or ``cuda``.
        captures: where simulated captures and their labels are kept, for any run with the same ones; ``folder`` unless given.
        progress: see ``Progress``; called in the first process.

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: the folder holds another run or something else, or nothing to resume, or a batch cannot be shared.
        MissingExtraError: a stage needs what is not installed.
        TrainingError: training cannot go on; what was saved last is kept.
    """
    _check_installed(recipe, device)
    companion = _companion(recipe)
    with join_processes(device) as processes:
        progress = progress if processes.is_first else _silent
        for stage in recipe.stages.values():
            processes.share(stage.batch)
        if processes.is_first:
            claim_folder(folder, "recipe.json", dataclasses.asdict(recipe), holds="run", resume=resume)
        clock = Clock(folder / "seconds.json" if processes.is_first else None)
        with clock.measure("simulate"):
            samples = _captures(recipe, captures or folder, workers or os.cpu_count() or 1, processes, progress)
        return _distil(recipe, companion, folder, samples, workers or os.cpu_count() or 1, processes, clock, progress)


def _silent(stage: str, done: int, total: int, text: str) -> None:
    """Progress of the processes after the first."""


def _distil(
    recipe: Recipe,
    companion: Checkpoint | None,
    folder: Path,
    captures: Samples,
    workers: int,
    processes: Processes,
    clock: Clock,
    progress: Progress,
) -> Path:
    device, data = processes.device, recipe.data
    held_out = part(captures, slice(data.held_out))
    is_in_loop = data.simulated == "loop"
    known = InMemory(
        part(captures, slice(None if is_in_loop else data.held_out, None)), use_mask=recipe.targets.use_mask
    )
    source: Source = Simulated(recipe, device) if is_in_loop else known
    make = BatchMaker(source, recipe.targets, recipe.exposure, recipe.seed, device)
    record = Record(folder, *data.simulation.scene.disparity) if processes.is_first else None
    threads = max(1, workers // processes.count) if is_in_loop else 1
    shown = part(held_out, slice(_SHOWN))
    loop = Loop(recipe, folder, processes, make, threads, shown, record, clock, progress)
    torch.manual_seed(recipe.seed)
    student = build_student(recipe.student).to(processes.device)
    student.companion = None  # it is trained already, and joins below
    processes.share_batch_norm(student)
    loop.run("float", student)
    student.eval()
    errors = {"teacher": teacher_error(held_out)}
    if processes.is_first:
        errors["float"] = end_point_error(student, held_out, recipe.exposure, processes.device)
    student.fold_batch_norm()
    if companion is not None:
        student.join(companion.build().to(processes.device))
        if processes.is_first:
            errors["joined"] = end_point_error(student, held_out, recipe.exposure, processes.device)
    ranges: list[ActivationRange] = []
    if recipe.quantised_stage is not None:
        shape = (1, 2, *(recipe.quantised_stage.crop or source.size))
        prepared, ranges = _quantised(loop, student, recipe.quantised_stage, shape)
        if processes.is_first:
            errors["quantised"] = end_point_error(prepared, held_out, recipe.exposure, processes.device)
    checkpoint = Checkpoint(
        student=recipe.student,
        input_size=student_entry(recipe.student).size,
        weights={name: tensor.detach().cpu().numpy().copy() for name, tensor in student.state_dict().items()},
        ranges=tuple(ranges),
        exposure=recipe.exposure,
        training=_training(recipe, companion, processes, clock, errors, known.left_out),
    )
    if processes.is_first:
        write_checkpoint(checkpoint, folder / "checkpoint")
    processes.wait()
    return folder / "checkpoint"


def _companion(recipe: Recipe) -> Checkpoint | None:
    """The trained student that this recipe's joins.

    Raises:
        InputError: there is no such checkpoint, or it is of another student or sees the views otherwise.
    """
    if recipe.companion is None:
        return None
    checkpoint = read_checkpoint(recipe.companion)
    wanted = student_entry(recipe.student).companion
    if checkpoint.student != wanted:
        raise InputError(
            f"companion: {recipe.companion}: expected a checkpoint of {wanted}, found {checkpoint.student}"
        )
    if checkpoint.exposure != recipe.exposure:
        raise InputError(
            f"companion: {recipe.companion}: expected exposure {dataclasses.asdict(recipe.exposure)} as this recipe has, as both "
            f"see the same views, found {dataclasses.asdict(checkpoint.exposure)}"
        )
    return checkpoint


def _quantised(
    loop: Loop, student: nn.Module, stage: QuantisedStageRecipe, shape: tuple[int, ...]
) -> tuple[nn.Module, list[ActivationRange]]:
    """Train ``student`` quantisation-aware, in place; the graph that was trained and the ranges of its activations."""
    from edge_dp.quantization import qat  # needs torchao, which the stages before do without

    device = loop.processes.device
    prepared = qat.prepare(student, (torch.zeros(shape, device=device),)).to(device)
    with contextlib.ExitStack() as noise, contextlib.ExitStack() as observation:
        observation.enter_context(qat.quantile_ranges(prepared, stage.range_quantile))

        def after(step: int) -> None:
            if step <= stage.observe_steps:
                loop.processes.share_ranges(prepared)
            if step == stage.observe_steps:
                observation.close()
                qat.freeze_ranges(prepared)
                qat.set_output_ranges(prepared, _output_limits(loop.recipe))
                noise.enter_context(qat.rounding_noise(prepared, stage.rounding_noise))

        loop.run("quantised", prepared, after=after, quiet_until=stage.observe_steps)
    qat.freeze_ranges(prepared)
    student.load_state_dict({name: prepared.get_parameter(name) for name in student.state_dict()})
    return prepared, list(qat.read_ranges(prepared))


def _training(
    recipe: Recipe,
    companion: Checkpoint | None,
    processes: Processes,
    clock: Clock,
    errors: dict[str, float | None],
    without_labels: int,
) -> dict[str, Any]:
    """What the checkpoint says of where it comes from."""
    waiting = ": waiting for data"
    seconds = {name: value for name, value in clock.seconds.items() if not name.endswith(waiting)}
    shares = {
        name: clock.seconds.get(name + waiting, 0.0) / max(seconds.get(name, 0.0), 1e-9) for name in recipe.stages
    }
    cuda = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else None
    return {
        "recipe": dataclasses.asdict(recipe),
        **_origin(recipe, companion),
        "ground_truth_used": recipe.targets.supervision == "ground_truth",
        "captures_without_labels": without_labels,
        "metrics": {
            f"held_out_epe_px_{name}": None if error is None else round(error, 4)
            for name in ("float", "joined", "quantised", "teacher")
            if name in errors
            for error in [errors[name]]
        },
        "limits": _limits(recipe),
        "minutes": round(sum(seconds.values()) / 60, 1),
        "minutes_of_part": {name: round(value / 60, 1) for name, value in seconds.items()},
        "data_wait_share": {name: round(share, 4) for name, share in shares.items()},
        "machine": {
            "processor": cuda or platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "processes": processes.count,
        },
        "versions": {"edge_dp": VERSION, "torch": torch.__version__},
    }


def _origin(recipe: Recipe, companion: Checkpoint | None) -> dict[str, Any]:
    """Captures and teachers with their licences, in words, and what the labelled captures say of themselves."""
    notes = [teacher_note(resolve(recipe.teacher))]
    sets = [read_provenance(_shards(folder)[0]) for folder in recipe.data.labelled]
    notes += [one["teacher"] for one in sets]
    if companion is not None:
        notes += [note for note in companion.training.get("teachers", []) if note not in notes]
    captures = "procedural layered scenes; uniform and field-varying point-spread functions; shading, noise, raw levels"
    return {
        "data": "; ".join([captures, *(f"labelled captures: {one['source'].get('kind', 'unknown')}" for one in sets)]),
        "data_licence": "; ".join([DATA_LICENCE, *(["of the labelled captures: see their source"] if sets else [])]),
        "teacher": "; ".join(dict.fromkeys(note["name"] for note in notes)),
        "teacher_licence": "; ".join(dict.fromkeys(_licence(note) for note in notes)),
        "teachers": notes,
        "companion": None if companion is None else f"{recipe.companion}, a {companion.student}",
        "labelled": [one["source"] for one in sets],
    }


def _limits(recipe: Recipe) -> list[str]:
    """What a student of this recipe cannot do, in words for its card."""
    low, high = recipe.data.simulation.scene.disparity
    limits = [
        f"disparity of {low:g} to {high:g} px of the input",
        "trained on rendered scenes; photographs were seen in tests alone" if not recipe.data.labelled else "",
        "where nothing has texture it guesses, and says so by its confidence",
        "depth in metres needs the focus distance, which it does not know",
    ]
    if student_entry(recipe.student).monocular:
        limits.append("a control for experiments: from one view it knows blur, but not on which side of focus")
    return [limit for limit in limits if limit]


def _licence(note: dict[str, Any]) -> str:
    licence = note["licence"]
    use = "" if licence["commercial"] else "; no commercial use"
    return f"{note['name']}: code {licence['code']}, weights {licence['weights']}{use}"


def _output_limits(recipe: Recipe) -> list[tuple[float, float]]:
    """The scenes' disparity, a tenth wider, and confidence from 0 to 1, likewise: averages of batches would cut the ends."""
    low, high = recipe.data.simulation.scene.disparity
    margin = 0.1 * (high - low)
    return [(low - margin, high + margin), (-0.1, 1.1)]


def _captures(recipe: Recipe, folder: Path, workers: int, processes: Processes, progress: Progress) -> Samples:
    """Held-out captures, which are never trained on, and after them those to train on, unless the loop simulates them."""
    data = recipe.data
    total = data.held_out + (data.captures if data.simulated == "workers" else 0)
    key = data_set_key(recipe.seed, data.simulation, recipe.teacher, recipe.labels)
    if not processes.is_first:  # the first one makes the shards, and the others find them
        processes.wait()
    shards = write_shards(
        folder / f"captures_{key}",
        total,
        recipe.seed,
        data.simulation,
        recipe.teacher,
        workers,
        lambda done: progress("simulate", min(done, total), total, f"shards of {SHARD_SIZE} captures"),
        recipe.labels,
    )
    if processes.is_first:
        processes.wait()
    simulated = part(read_shards(shards), slice(total))
    return join([simulated, *(read_shards(_shards(path)) for path in data.labelled)])


def _shards(folder: str) -> list[Path]:
    """Of a folder of labels.

    Raises:
        InputError: there are none.
    """
    shards = sorted(Path(folder).glob("shard_*.npz"))
    if not shards:
        raise InputError(
            f"data: labelled: {folder}: expected shards that edge-dp label wrote, found none. Check the path."
        )
    return shards


def _check_installed(recipe: Recipe, device: str) -> None:
    """Before hours of work, what the later stages will need."""
    resolve(recipe.teacher)
    for folder in recipe.data.labelled:
        _shards(folder)
    if recipe.quantised_stage is not None and find_spec("torchao") is None:
        raise MissingExtraError(
            "quantised_stage needs torchao: pip install 'edge-dp[train]', or leave that stage out of the recipe"
        )
    compiler = os.environ.get("CXX", "g++")
    if recipe.float_stage.compile and device == "cpu" and shutil.which(compiler) is None:
        raise MissingExtraError(f"float_stage: compile needs a C++ compiler, found no {compiler}; set compile: false")
