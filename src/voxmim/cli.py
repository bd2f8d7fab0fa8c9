"""The command line, generated from `voxmim.api`: parameters of functions are options, docstrings are the help."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from inspect import Parameter, Signature, getdoc, signature
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import cyclopts
import yaml

from voxmim import __version__, api, commands
from voxmim.console import CONSOLE, ERRORS, agreed, bar, escape_unencodable, fail, plain
from voxmim.errors import RecipeError, StoppedError, VoxmimError
from voxmim.workers import keep_memory

# How long threads spin while they wait. OpenMP's default slows training up to tenfold beside another busy process, and
# no spinning costs 40 % of the speed on an idle machine; a short time does well in both cases. It is only read when
# torch is imported, so the api imports torch late.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

OPTIONS = {  # of parameters whose options have other names
    "out": ("--out", "-o"),
    "recipe": ("--recipe", "-r"),
    "workers": ("--workers", "-j"),
    "json_file": ("--json",),
    "csv_file": ("--csv",),
    "html_file": ("--html",),
    "list_file": ("--list",),
    "settings": ("--set", "-s"),
    "label_format": ("--format",),
    "tolerance_mm": ("--tolerance",),
}
RENAMED = {"--shares": "--fractions"}  # old options that are still accepted
CALLBACKS = ("on_case", "agree", "watch")  # parameters that are not options
SHORT: dict[str, tuple[str, Any, str]] = {  # options of a training: setting, type, help
    "steps": ("{phase}.steps", int, "number of optimiser steps."),
    "batch": ("{phase}.batch", int, "crops per step, over all devices."),
    "lr": ("{phase}.lr", float, "peak learning rate."),
    "seed": ("seed", int, "seed of everything random."),
    "accumulate": ("{phase}.accumulate", int, "gradient accumulation steps."),
    "devices": ("devices", int, "number of GPUs or processes per node."),
    "nodes": ("nodes", int, "number of nodes, under torchrun or SLURM."),
    "precision": ("precision", str, "auto (bf16 where the device is fast at it, else 32), bf16, 16 (GPU only) or 32."),
    "compile": ("compile", bool, "use torch.compile."),
}


@dataclass(frozen=True)
class Command:
    """A function of the api as a command."""

    arguments: tuple[str, ...] = ()  # positional parameters; all others are options
    function: str = ""  # in `voxmim.api` and `voxmim.commands`, if its name is not the command's
    optional: tuple[str, ...] = ()  # positional parameters that may be left out
    phase: str = ""  # of the recipe, whose settings have short options (`SHORT`)
    flags: Mapping[str, str] = field(default_factory=dict)  # further flags and their help, for `call`
    call: Callable[..., Any] | None = None  # called with the arguments and the flags instead of the function
    title: str = ""  # of the progress bar, if the function has a parameter `on_case`
    examples: tuple[str, ...] = ()  # below the help


def _training(kind: Literal["pretrain", "finetune"]) -> Callable[..., Any]:
    """Train, or estimate what it costs."""

    def call(given: dict[str, Any], plan_only: bool) -> Any:
        if not plan_only:
            return getattr(api, kind)(**given)
        if given["resume"] or given["hours"] is not None:
            raise RecipeError("--plan-only estimates a training of known length; leave out --resume and --hours.")
        others = ("out", "resume", "hours", "accept_findings", "quiet", "log_every", "log")
        return api.plan(kind=kind, **{name: value for name, value in given.items() if name not in others})

    return call


PLAN_ONLY = {"plan_only": "estimate time, memory and disk from a few steps; nothing is written."}


def _predict(given: dict[str, Any]) -> Any:
    """Predict with an ensemble if the first scans are runs."""
    others = list(takewhile(_is_run, given["scans"]))
    joined = {"scans": given["scans"][len(others) :], "ensemble": [*given["ensemble"], *others]}
    return api.predict(**{**given, **joined})


def _is_run(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path / "run.json").is_file() or any(path.glob("*.safetensors"))


def _download(given: dict[str, Any], yes: bool) -> Any:
    if given["name"] is None:
        return api.data_sets()
    return api.download(**given, agree=lambda terms: agreed(terms, yes), watch=lambda stage: bar(stage, of_bytes=True))


COMMANDS = {
    "demo": Command(examples=("voxmim demo", "voxmim demo --data SCANS --out demo")),
    "prepare": Command(("source", "out"), examples=("voxmim prepare SCANS store --spacing 1.5 1.5 2",)),
    "pretrain": Command(
        ("store", "out"),
        phase="pretrain",
        flags=PLAN_ONLY,
        call=_training("pretrain"),
        examples=("voxmim pretrain store pretrained --recipe resenc-tiny --set mask.ratio=0.6",),
    ),
    "finetune": Command(
        ("store", "out"),
        phase="finetune",
        flags=PLAN_ONLY,
        call=_training("finetune"),
        examples=("voxmim finetune store segmentor --init pretrained --labels 12",),
    ),
    "evaluate": Command(("run", "data"), title="evaluating", examples=("voxmim evaluate segmentor store",)),
    "predict": Command(
        ("run", "scans"),
        title="predicting",
        call=_predict,
        examples=(
            "voxmim predict segmentor scan.nii.gz --out labels",
            "voxmim predict fold1 fold2 fold3 scan.nii.gz --out labels",
        ),
    ),
    "reconstruct": Command(
        ("run", "scans"),
        title="reconstructing",
        examples=("voxmim reconstruct pretrained scan.nii.gz --out pictures",),
    ),
    "embed": Command(
        ("run", "scans"),
        title="embedding",
        examples=("voxmim embed pretrained SCANS --out embeddings.parquet --nearest 3",),
    ),
    "inspect": Command(
        ("source",),
        title="reading",
        examples=("voxmim inspect SCANS --html inspection.html", "voxmim inspect SCANS --list scans.csv"),
    ),
    "view": Command(("path",), examples=("voxmim view segmentor", "voxmim view scan.nii.gz")),
    "verify": Command(("store",), examples=("voxmim verify store",)),
    "split": Command(("store",), examples=("voxmim split store --seed 1 --fractions 0.2 0.2",)),
    "study": Command(("name",), examples=("voxmim study convergence --data store --out studies",)),
    "phantom": Command(("out",), title="phantoms", examples=("voxmim phantom heads --kind head --cases 20",)),
    "download": Command(
        ("name",),
        optional=("name",),
        flags={"yes": "accept the licence without a question."},
        call=_download,
        examples=("voxmim download", "voxmim download msd-hippocampus --out data"),
    ),
    "import": Command(
        ("file", "out"), "import_weights", examples=("voxmim import monai.pt encoder --like store --set vit.heads=12",)
    ),
    "export": Command(
        ("run", "out"),
        "export_weights",
        examples=("voxmim export pretrained encoder.safetensors", "voxmim export segmentor segmentor.onnx --to onnx"),
    ),
    "recipes": Command(("name",), examples=("voxmim recipes", "voxmim recipes resenc-tiny > mine.yaml")),
    "doctor": Command(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that the user can fix are printed as one sentence, with exit status 2."""
    keep_memory()
    escape_unencodable()
    tokens = [_current(token) for token in (sys.argv[1:] if arguments is None else arguments)]
    app = make_app()
    try:
        status = app(tokens or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        command = f"{tokens[0]} " if tokens[0] in COMMANDS else ""
        fail(f"{' '.join(str(error).split()).rstrip('.')}; see 'voxmim {command}--help'.")
    except StoppedError as error:
        ERRORS.print(plain(str(error)), soft_wrap=True)
        sys.exit(error.status)
    except VoxmimError as error:
        fail(str(error))
    except OSError as error:  # such as missing permissions or a full disk
        fail(f"{error.filename or 'system'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        phase = tokens and tokens[0] in COMMANDS and COMMANDS[tokens[0]].phase
        ERRORS.print("stopped; --resume continues from the last checkpoint." if phase else "stopped.")
        sys.exit(130)
    sys.exit(2 if not tokens else status or 0)


def _current(token: str) -> str:
    """An option under its current name."""
    name, *value = token.split("=", 1)
    if name not in RENAMED:
        return token
    ERRORS.print(f"{name} is now {RENAMED[name]}.")
    return "=".join([RENAMED[name], *value])


def make_app() -> cyclopts.App:
    """The command line with all commands."""
    app = cyclopts.App(
        name="voxmim",
        help="Pre-train a 3D encoder on the scans you have; fine-tune it on the few you labelled.",
        help_format="plaintext",
        help_epilogue="Start with 'voxmim demo': it runs every step on phantoms and prints the command of each step.",
        version=f"voxmim {__version__}",
        version_format="plaintext",
        console=CONSOLE,
        error_console=ERRORS,
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=(), consume_multiple=True),
    )
    app.register_install_completion_command()
    for position, (name, command) in enumerate(COMMANDS.items()):
        examples = "\n  ".join(("Examples:", *command.examples)) if command.examples else None
        app.command(_runner(name, command), name=name, sort_key=position, help_epilogue=examples)
    return app


def _runner(name: str, command: Command) -> Callable[..., int]:
    """A function with the signature of a command; it calls the api, prints the result and returns the exit status."""
    function = getattr(api, command.function or name)
    shape = _shape(function, command)

    def run(*arguments: Any, **options: Any) -> int:
        bound = shape.bind(*arguments, **options)
        bound.apply_defaults()
        given = dict(bound.arguments)
        flags = {key: given.pop(key) for key in command.flags}
        if "settings" in given:
            short = {key: given.pop(key) for key in SHORT} if command.phase else {}
            given["settings"] = settings_of(given["settings"] or (), command.phase, short)
            # From scratch, the learning rate is another setting.
            if command.phase == "finetune" and given["init"] is None and short["lr"] is not None:
                given["settings"]["scratch_lr"] = short["lr"]
        with bar(command.title) if command.title else nullcontext() as on_case:
            watched = {"on_case": on_case} if command.title else {}
            if command.call:
                result = command.call(given | watched, **flags)
            else:
                result = getattr(api, function.__name__)(**given, **watched)
        return getattr(commands, function.__name__)(result, given) or 0

    # Each paragraph and parameter on one line, to be wrapped by the terminal.
    run.__doc__ = re.sub(r"(?<=\S)\n(?: {8,})?(?=\S)", " ", getdoc(function) or "").replace("`", "")
    run.__signature__ = shape  # type: ignore[attr-defined]
    return run


def _shape(function: Callable[..., Any], command: Command) -> Signature:
    """The signature of a command: the function's with keyword-only options, short options and flags."""
    own = signature(function).parameters
    annotations = {name: parameter.annotation for name, parameter in own.items() if name not in CALLBACKS}
    types = get_type_hints(SimpleNamespace(__annotations__=annotations), vars(sys.modules[function.__module__]))
    parameters = []
    for name in (*command.arguments, *(name for name in types if name not in command.arguments)):
        kind: Any = Parameter.KEYWORD_ONLY
        default, type_ = own[name].default, _option_type(types[name])
        label = OPTIONS.get(name, (f"--{name.replace('_', '-')}",))
        if name in command.arguments:
            kind, label = Parameter.POSITIONAL_ONLY, (name.upper(),)
            default = None if name in command.optional else default
            if get_origin(type_) is list:
                kind, type_ = Parameter.VAR_POSITIONAL, get_args(type_)[0]
        required = default is Parameter.empty
        info = cyclopts.Parameter(
            name=label,
            required=required,
            show_default=default not in (None, False, "", (), Parameter.empty),
            consume_multiple=name != "settings",
        )
        type_ = type_ | None if default is None else type_  # cyclopts checks defaults if pydantic is imported
        parameters.append(Parameter(name, kind, default=default, annotation=Annotated[type_, info]))
    short = [(name, type_, text, None) for name, (_, type_, text) in SHORT.items()] if command.phase else []
    for name, type_, text, default in [*short, *((name, bool, text, False) for name, text in command.flags.items())]:
        info = cyclopts.Parameter(name=f"--{name.replace('_', '-')}", help=text, show_default=False)
        parameters.append(
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_ | None, info])
        )
    return Signature(parameters)


def _option_type(annotation: Any) -> Any:
    """The type of an option, of the types that a parameter allows."""
    types = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for each in types:
        if get_origin(each) is Sequence:
            return list[_option_type(get_args(each)[0])]  # type: ignore[misc]
        if get_origin(each) is Mapping:
            return list[str]
    return next((each for each in (Path, str) if each in types), types[0])


def settings_of(overrides: Sequence[str], phase: str = "", short: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of `--set` and of the short options of a phase, such as ``{"mask.ratio": 0.6}``.

    Raises:
        RecipeError: a `--set` is not KEY=VALUE.
    """
    settings: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"--set {override}: write it as KEY=VALUE, such as mask.ratio=0.6.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {override}: '{value}' is no valid value; write it as in YAML.") from None
    given = {SHORT[name][0].format(phase=phase): value for name, value in (short or {}).items() if value is not None}
    return settings | given
