"""The ``rlrp`` command. Exit codes: 0 done, 2 the user's mistake (one line), 1 ours."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrp import __version__
from rlrp.config import Config, load_config
from rlrp.errors import RunStopped, UserError

EXPERIMENTS = Path(__file__).resolve().parent / "data" / "experiments"
_CHECKOUT = Path(__file__).resolve().parent.parent / "experiments"


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in one line like all others."""

    def error(self, message: str) -> Any:
        print(f"rlrp: {message} (`{self.prog} --help` shows the options)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _quiet_libraries()
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"rlrp: {error}", file=sys.stderr)
        return 2
    except RunStopped as error:
        print(f"rlrp: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        print(f"rlrp: {error.filename or 'disk'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlrp: interrupted; the same command goes on from what is there", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rlrp", description="Align role-playing language models by reinforcement learning.")
    parser.add_argument("--version", action="version", version=f"rlrp {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sft = _add(commands, "sft", _sft, "fine-tune on role-play dialogues with a share of general data")
    _experiment(sft, trains=True)
    train = _add(commands, "train", _train, "reinforcement learning from the SFT checkpoint")
    _experiment(train, trains=True)
    train.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="for --dry-run: nodes to check the placement against (ray_cluster.yaml, or a list of nodes)",
    )
    status = _add(commands, "status", _status, "say how a run is doing, from its directory, running or dead")
    status.add_argument("folder", type=Path, metavar="RUN", help="a run directory, such as runs/demo")
    status.add_argument("--json", action="store_true", help="one JSON object")
    ev = _add(commands, "eval", _eval, "measure one policy on the evaluation suites")
    _experiment(ev)
    ev.add_argument("--policy", default="rl", help="base, sft, rl, or a model (hub id, directory, adapter)")
    ev.add_argument("--name", help="what to call the policy in the results; default: its spec")
    compare = _add(commands, "compare", _compare, "compare policies: an experiment's, or evaluation files")
    compare.add_argument("inputs", nargs="+", metavar="YAML|JSON", help="one experiment, or evaluation.json files")
    compare.add_argument("--out", type=Path, default=Path("comparison.json"), help="for files: where to write")
    compare.add_argument("--report", type=Path, help="for files: also write an HTML report")
    compare.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting")
    demo = _add(commands, "demo", _demo, "the main job from model to report, on this machine")
    demo.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the characters")
    demo.add_argument("--accept-terms", action="store_true", help="accept the terms of the Chinese demo's model")
    demo.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting")
    demo.add_argument("--fresh", action="store_true", help="do every stage again")
    demo.add_argument("--dry-run", action="store_true", help="print what would run and start nothing")

    _reward_commands(commands)

    card = _add(commands, "card", _card, "show, check or convert a character card (JSON, PNG, charx)")
    card.add_argument("card", type=Path)
    card.add_argument("--prompt", action="store_true", help="print the system prompt it becomes")
    card.add_argument("--to", type=Path, metavar="FILE", help="write it as .json, .png or .charx")
    chat = _add(commands, "chat", _chat, "talk with a policy in the terminal")
    chat.add_argument("model", help="hub id, directory, adapter directory or packaged:NAME")
    chat.add_argument("--card", type=Path, required=True, help="the character to talk with")
    chat.add_argument("--temperature", type=float, default=0.8)
    chat.add_argument("--max-new-tokens", type=int, default=120)
    chat.add_argument("--seed", type=int, default=0)
    chat.add_argument("--accept-terms", action="store_true", help="accept the terms of a packaged model")
    return parser


def _reward_commands(commands: Any) -> None:
    reward = commands.add_parser("reward", help="train, apply and validate reward models (no Ray, no policy)")
    actions = reward.add_subparsers(metavar="ACTION", required=True)
    train = _add(actions, "train", _reward_train, "train the reward models of an experiment")
    _experiment(train, trains=True)
    score = _add(actions, "score", _reward_score, "score replies in a JSONL or parquet file")
    score.add_argument("--reward", required=True, metavar="R.yaml|DIR|hub:OWNER/NAME")
    score.add_argument("--in", dest="source", type=Path, required=True, metavar="samples.jsonl")
    score.add_argument("--out", type=Path, required=True, metavar="scores.jsonl")
    score.add_argument("--set", action="append", default=[], metavar="terms.NAME.weight=0", help="override the reward")
    explain = _add(actions, "explain", _reward_explain, "show why replies got their score, what was found marked")
    explain.add_argument("--reward", required=True, metavar="R.yaml|DIR|hub:OWNER/NAME")
    explain.add_argument("--in", dest="source", type=Path, required=True, metavar="samples.jsonl")
    explain.add_argument("--id", help="the sample to explain; default: the first ones")
    explain.add_argument("--limit", type=int, default=3, help="how many to explain (3)")
    inspect = _add(actions, "inspect", _reward_inspect, "show what a reward or a reward model is made of")
    inspect.add_argument("reward", metavar="R.yaml|DIR|hub:OWNER/NAME")
    validate = _add(actions, "validate", _reward_validate, "measure how far a reward can be trusted")
    _experiment(validate)
    validate.add_argument("--reward", metavar="R.yaml|DIR|hub:OWNER/NAME", help="default: the experiment's own")
    validate.add_argument("--data", type=Path, metavar="DIR", help="public data sets (characterbench, cdconv, ...)")
    validate.add_argument(
        "--best-of", type=int, default=64, metavar="N", help="replies of the SFT policy a prompt (64)"
    )
    validate.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/validation")


def _add(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _experiment(parser: argparse.ArgumentParser, *, trains: bool = False) -> None:
    parser.add_argument("config", help="an experiment's YAML file, e.g. experiments/demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting")
    if trains:
        parser.add_argument("--dry-run", action="store_true", help="print what would run and start nothing")
        parser.add_argument("--fresh", action="store_true", help="do the stage again even if its result is there")


def _config(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.config, arguments.set)


def _sft(arguments: argparse.Namespace) -> None:
    from rlrp.pipeline import Experiment
    from rlrp.plan import print_sft_plan

    config = _config(arguments)
    if config.sft is None:
        raise UserError("has no `sft` section", file=arguments.config)
    if arguments.dry_run:
        return print_sft_plan(config)
    experiment = Experiment(config, fresh=arguments.fresh)
    experiment.prepare()
    experiment.sft()


def _reward_train(arguments: argparse.Namespace) -> None:
    from reward.people.settings import read_ratings_config
    from reward.people.train import train_on_ratings
    from rlrp.pipeline import Experiment
    from rlrp.plan import print_ratings_plan, print_reward_plan

    if ratings := read_ratings_config(arguments.config, arguments.set):
        if arguments.dry_run:
            return print_ratings_plan(ratings)
        train_on_ratings(ratings)
        return None
    config = _config(arguments)
    if arguments.dry_run:
        return print_reward_plan(config)
    experiment = Experiment(config, fresh=arguments.fresh)
    experiment.prepare()
    experiment.reward()


def _reward_score(arguments: argparse.Namespace) -> None:
    from reward.config import reward_path
    from reward.scoring import score_file

    score_file(reward_path(arguments.reward), arguments.source, arguments.out, overrides=arguments.set)


def _reward_explain(arguments: argparse.Namespace) -> None:
    from reward.config import reward_path
    from reward.explain import explain_file

    explain_file(reward_path(arguments.reward), arguments.source, identifier=arguments.id, limit=arguments.limit)


def _reward_inspect(arguments: argparse.Namespace) -> None:
    from reward.config import reward_path
    from reward.hub import HUB
    from reward.inspection import inspect_reward

    inspect_reward(reward_path(arguments.reward) if arguments.reward.startswith(HUB) else arguments.reward)


def _reward_validate(arguments: argparse.Namespace) -> None:
    from reward.config import reward_path
    from reward.people.settings import read_ratings_config
    from reward.validation.run import validate_ratings
    from rlrp.pipeline import Experiment

    path = None if arguments.reward is None else reward_path(arguments.reward)
    chosen = {"reward": path, "data": arguments.data, "out": arguments.out}
    if ratings := read_ratings_config(arguments.config, arguments.set):
        validate_ratings(ratings, **chosen)
    else:
        Experiment(_config(arguments)).validate_reward(**chosen, best_of=arguments.best_of)


def _train(arguments: argparse.Namespace) -> None:
    from rlrp.pipeline import Experiment
    from rlrp.plan import print_train_plan

    config = _config(arguments)
    if arguments.cluster and not arguments.dry_run:
        raise UserError("goes with --dry-run; a run joins the cluster that RAY_ADDRESS names", place="--cluster")
    if arguments.dry_run:
        return print_train_plan(config, arguments.cluster)
    print(Experiment(config, fresh=arguments.fresh).train())


def _status(arguments: argparse.Namespace) -> None:
    from rlrp.status import print_status, read_status

    print_status(read_status(arguments.folder), as_json=arguments.json)


def _eval(arguments: argparse.Namespace) -> None:
    from rlrp.pipeline import Experiment

    experiment = Experiment(_config(arguments))
    experiment.prepare()
    experiment.reward()
    known = experiment.policies
    spec, anchor = known.get(arguments.policy, (arguments.policy, experiment.policy))
    if spec.startswith(str(experiment.run)) and not Path(spec).exists():
        raise UserError(f"there is no {arguments.policy} policy yet; `rlrp train` makes it", file=spec)
    name = arguments.name or (arguments.policy if arguments.policy in known else Path(spec).name)
    print(experiment.evaluate(name, spec, anchor=anchor))


def _compare(arguments: argparse.Namespace) -> None:
    if Path(arguments.inputs[0]).suffix in (".yaml", ".yml"):
        from rlrp.pipeline import Experiment

        Experiment(load_config(arguments.inputs[0], arguments.set)).compare()
        return
    from rlrp.evaluation.comparison import compare_policies, write_comparison
    from rlrp.evaluation.report import write_report
    from rlrp.evaluation.results import read_evaluation
    from rlrp.evaluation.table import print_comparison

    evaluations = [read_evaluation(path) for path in arguments.inputs]
    comparison = compare_policies(evaluations)
    write_comparison(arguments.out, comparison)
    if arguments.report:
        samples = {name: e.samples for name, e in zip(comparison.policies, evaluations, strict=True)}
        write_report(arguments.report, comparison, [], samples, title="rlrp compare")
    print_comparison(comparison)


def demo_config(language: str, overrides: Sequence[str]) -> Config:
    """The demo's shipped experiment: from the checkout, or from the installed package."""
    name = "demo.yaml" if language == "en" else f"demo_{language}.yaml"
    folder = next(folder for folder in (_CHECKOUT, EXPERIMENTS) if (folder / name).exists())
    return load_config(folder / name, overrides)


def _demo(arguments: argparse.Namespace) -> None:
    from rlrp.pipeline import run_demo
    from rlrp.plan import print_train_plan

    overrides = list(arguments.set)
    if arguments.accept_terms:
        overrides.append("accept_terms=true")
    config = demo_config(arguments.lang, overrides)
    if arguments.dry_run:
        return print_train_plan(config)
    run_demo(config, fresh=arguments.fresh)


def _card(arguments: argparse.Namespace) -> None:
    from rlrp.cards import read_card, render_system_prompt, write_card
    from rlrp.terminal import print_card

    card = read_card(arguments.card)
    if arguments.to:
        write_card(card, arguments.to)
        print(arguments.to)
    elif arguments.prompt:
        print(render_system_prompt(card))
    else:
        print_card(card)


def _chat(arguments: argparse.Namespace) -> None:
    from rlrp.terminal import chat

    chat(
        arguments.model,
        arguments.card,
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        accept_terms=arguments.accept_terms,
    )


def _quiet_libraries() -> None:
    """Libraries' chatter would bury ours; a variable that the user set stays as it is."""
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        # An actor's death has a line of ours; Ray's own has 700 characters.
        (
            "RAY_DEDUP_LOGS_SKIP_REGEX",
            "^A worker died or was killed while executing a task by an unexpected system error",
        ),
    ):
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:
        # A Ray of our own listens on the loopback interface alone; Ray reads this when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


if __name__ == "__main__":
    raise SystemExit(main())
