"""What can be asked of each format: one frozen config each, so that an option of one cannot be passed to another.

Nothing here imports a toolchain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_dp.errors import InputError

Reference = Literal["float", "weights", "quantised"]
"""Which outputs of the model an artifact must reproduce: of the float model, of the float model with its int8 weights, or of the
quantised graph, weights and activations int8."""

_REFERENCES: dict[str, Reference] = {
    "int8": "quantised",
    "w8a8": "quantised",
    "w8a16": "weights",
    "int16x8": "weights",
    "fp16": "float",
    "fp32": "float",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatConfig:
    """One artifact to write. Subclasses add the options of their format.

    Raises:
        InputError: the format has no such precision, or its options exclude each other.
    """

    precision: str
    format: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    default: ClassVar[tuple[str, ...]]
    """Precisions written when none is asked for."""

    def __post_init__(self) -> None:
        if self.precision not in self.precisions:
            raise InputError(
                f"{self.format}: no precision {self.precision!r}; it has {', '.join(sorted(self.precisions))}"
            )

    @property
    def label(self) -> str:
        """Precision and options in one word, unique within the format."""
        return self.precision

    @property
    def name(self) -> str:
        """Of the artifact, such as ``tflite-int8``."""
        return f"{self.format}-{self.label}"

    @property
    def reference(self) -> Reference:
        """What the artifact is compared with."""
        return _REFERENCES[self.precision]

    @property
    def integer(self) -> bool:
        """Whether its activations are the trained int8 ones."""
        return self.reference == "quantised"

    @property
    def integer_arithmetic(self) -> bool:
        """Whether it promises integer kernels, on activations of 8 or 16 bits."""
        return self.integer or self.precision == "int16x8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuTorchConfig(FormatConfig):
    """A ``.pte``. XNNPACK runs on every CPU; programs for Core ML or Vulkan are written here and run on a device only."""

    backend: Literal["xnnpack", "coreml", "vulkan"] = "xnnpack"
    format: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp32", "fp16")
    default: ClassVar[tuple[str, ...]] = ("int8", "fp32")

    def __post_init__(self) -> None:
        FormatConfig.__post_init__(self)
        allowed = {"xnnpack": ("int8", "fp32"), "coreml": ("int8", "fp16"), "vulkan": ("fp32", "fp16")}
        if self.backend not in allowed:
            raise InputError(f"executorch: no backend {self.backend!r}; it has {', '.join(allowed)}")
        if self.precision not in allowed[self.backend]:
            raise InputError(
                f"executorch: backend {self.backend} has {' and '.join(allowed[self.backend])}, found {self.precision!r}"
            )

    @property
    def label(self) -> str:
        """With the backend where it is not XNNPACK."""
        return self.precision if self.backend == "xnnpack" else f"{self.backend}-{self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TFLiteConfig(FormatConfig):
    """A ``.tflite``.

    float_io: int8 only: float32 tensors at the border, with the conversions inside.
    """

    float_io: bool = False
    format: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "int16x8", "fp16", "fp32")
    default: ClassVar[tuple[str, ...]] = ("int8", "fp32")

    def __post_init__(self) -> None:
        FormatConfig.__post_init__(self)
        if self.float_io and self.precision != "int8":
            raise InputError(f"tflite: float_io is an option of int8, found precision {self.precision!r}")

    @property
    def label(self) -> str:
        """With the kind of border where it is not the precision's own."""
        return f"{self.precision}-float-io" if self.float_io else self.precision


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMLConfig(FormatConfig):
    """An ``.mlpackage``: int8 weights and activations (W8A8), int8 weights alone (W8A16), half or float."""

    format: ClassVar[str] = "coreml"
    precisions: ClassVar[tuple[str, ...]] = ("w8a8", "w8a16", "fp16", "fp32")
    default: ClassVar[tuple[str, ...]] = ("w8a8", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxConfig(FormatConfig):
    """An ``.onnx``: int8 as quantise and dequantise nodes around each operation.

    unsigned: int8 only: the same integers shifted by 128, as uint8; weights stay int8. For ONNX Runtime on ARM and on x86 with
        VNNI, whose kernels for them are exact and, on x86, several times faster; sums may round a near-tie the other way.
        On x86 without VNNI (AVX2, AVX-512) those kernels add pairs of products in 16 bits, which saturate (ONNX Runtime's
        "Quantize ONNX models", section "When and why do I need to try U8U8?"), and values are steps off without a word. There
        set session.x64quantprecision to 1, which is exact and slower, or keep to signed. Weights within [-64, 63],
        its ``reduce_range``, would rule saturation out; those of a trained quantisation use all of int8.
    """

    unsigned: bool = False
    format: ClassVar[str] = "onnx"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp16", "fp32")
    default: ClassVar[tuple[str, ...]] = ("int8", "fp32")

    def __post_init__(self) -> None:
        FormatConfig.__post_init__(self)
        if self.unsigned and self.precision != "int8":
            raise InputError(f"onnx: unsigned is an option of int8, found precision {self.precision!r}")

    @property
    def label(self) -> str:
        """With the sign of the activations where they have none."""
        return f"{self.precision}-unsigned" if self.unsigned else self.precision


CONFIGS: dict[str, type[FormatConfig]] = {
    config.format: config for config in (ExecuTorchConfig, TFLiteConfig, CoreMLConfig, OnnxConfig)
}


Formats = str | FormatConfig | Sequence[str | FormatConfig]


def plan(formats: Formats | None = None, precision: str | Sequence[str] | None = None) -> list[FormatConfig]:
    """The artifacts to write.

    Args:
        formats: names, or configs where a format's options matter; all formats unless given.
        precision: only these, of formats given by name; each format's own two unless given.

    Raises:
        InputError: no such format or precision, nothing left to write, or one artifact twice.
    """
    if formats is None:
        formats = list(CONFIGS)
    chosen = [formats] if isinstance(formats, str | FormatConfig) else list(formats)
    asked = (precision,) if isinstance(precision, str) else tuple(precision or ())
    names = [name for name in chosen if isinstance(name, str)]
    if unknown := [name for name in names if name not in CONFIGS]:
        raise InputError(f"{unknown[0]}: no such format; known are {', '.join(CONFIGS)}")
    if asked and chosen and not names:
        raise InputError(
            f"precision {asked[0]}: expected a format by name that it is for, found configs with their own"
        )
    known = {p for name in names for p in CONFIGS[name].precisions}
    if unknown := sorted(set(asked) - known):
        raise InputError(f"{unknown[0]}: no such precision; {', '.join(names)} have {', '.join(sorted(known))}")
    configs: list[FormatConfig] = []
    for item in chosen:
        if isinstance(item, FormatConfig):
            configs.append(item)
        else:
            config = CONFIGS[item]
            configs += [config(precision=p) for p in config.precisions if p in (asked or config.default)]
    if not configs:
        raise InputError("nothing to export: no format given")
    if twice := {config.name for config in configs if sum(c.name == config.name for c in configs) > 1}:
        raise InputError(f"{min(twice)}: asked for twice")
    return configs
