"""``llmrec simulate``: simulated users talk to recommenders; every session goes to the journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import (
    AdapterOption,
    DatasetOption,
    JsonOption,
    RankerOption,
    RecommenderOption,
    SeedOption,
    StrictOption,
    StyleOption,
    ToolsOption,
    agent_settings,
    console,
    emit,
    note,
    output,
    progress,
    run_command,
)

if TYPE_CHECKING:
    from llmrec.lm.loading import ChosenAdapter
    from llmrec.lm.protocol import LanguageModel
    from llmrec.roles.mindset import UserConfig

app = typer.Typer(add_completion=False)
DEFAULT_JOURNAL = "llmrec-sessions.db"


@app.command()
def simulate(
    dataset: DatasetOption = "films",
    users: Annotated[int, typer.Option("--users", help="Simulated users; each meets every policy once.", min=1)] = 20,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="Comma-separated: agent, agent-blind, popular, knn, ..., or folders of saved ones.",
        ),
    ] = "agent,popular,knn",
    max_rounds: Annotated[int, typer.Option("--max-rounds", help="Rounds after which a session is cut.", min=1)] = 8,
    slate: Annotated[int, typer.Option("--slate", help="Items a round.", min=1, max=50)] = 5,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Language model: folder or hub id; default $LLMREC_BACKBONE.", metavar="DIR"),
    ] = None,
    adapter: AdapterOption = None,
    user_adapter: Annotated[
        str | None,
        typer.Option(
            "--user-adapter",
            help="LoRA adapter that plays the users, likewise; default that of the user's agent.yaml.",
            metavar="NAME|DIR",
        ),
    ] = None,
    bare_user: Annotated[bool, typer.Option("--no-user-adapter", help="Let the bare backbone play the users.")] = False,
    style: StyleOption = "auto",
    tools: ToolsOption = None,
    recommender: RecommenderOption = None,
    ranker: RankerOption = None,
    user: Annotated[
        str, typer.Option("--user", help="Simulated user: agent name or folder.", metavar="AGENT")
    ] = "user",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default made of the settings.", metavar="ID")
    ] = None,
    journal: Annotated[
        str, typer.Option("--journal", help="SQLite file or SQLAlchemy URL.", metavar="FILE|URL")
    ] = DEFAULT_JOURNAL,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Sessions under way at once.", min=1)] = 128,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; for the backbone.")] = "auto",
    strict: StrictOption = False,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Let simulated users talk to recommenders. A run that was stopped goes on when the same command is given again."""
    with run_command(resume="the same command goes on where it stopped"):
        import asyncio
        import time

        from llmrec.data.spec import load
        from llmrec.data.splits import leave_one_out
        from llmrec.lm.loading import chosen_adapter, load_backbone
        from llmrec.simulate.journal import Journal
        from llmrec.simulate.metrics import summarise_run
        from llmrec.simulate.policies import build_policies
        from llmrec.simulate.runner import simulate as play

        names = [name.strip() for name in policy.split(",") if name.strip()]
        _check_names(names)
        settings = agent_settings(style, tools, recommender, ranker)
        uncalibrated = _user_config(user, user_adapter, bare_user, style)
        spec = _spec(backbone)
        agent_chosen = chosen_adapter(spec, adapter, role="agent")
        user_chosen = chosen_adapter(spec, uncalibrated.adapter, role="user")
        config = _calibrated(uncalibrated, user_chosen)
        if agent_chosen.name is not None:
            settings["adapter"] = agent_chosen.name
        with Journal(journal) as book:  # before the model is loaded: a wrong journal must fail in a second
            given = {**agent_chosen.folders, **user_chosen.folders}
            lm = load_backbone(spec, adapters=given, seed=seed, device=device)
            _check_user(config, lm)
            data = load(dataset, seed=seed, strict=strict)
            if data.rejected:
                note(f"{len(data.rejected)} rows were rejected; see them with: llmrec data describe {dataset}")
            split = leave_one_out(data.interactions)
            policies = build_policies(names, data, split, lm, slate_size=slate, agent=settings)
            started = time.perf_counter()
            with progress("sessions", users * len(names)) as advance:
                result = asyncio.run(
                    play(
                        data,
                        split,
                        lm,
                        policies=policies,
                        n_users=users,
                        max_rounds=max_rounds,
                        slate_size=slate,
                        seed=seed,
                        run=run,
                        journal=book,
                        concurrency=concurrency,
                        user_config=config,
                        progress=_steps(advance),
                    )
                )
        answer = {
            "run": result.run,
            "journal": journal,
            "settings": result.settings,
            "sessions": len(result.sessions),
            "resumed": result.n_resumed,
            "seconds": round(time.perf_counter() - started, 1),
            "policies": summarise_run(result.sessions, split, seed=seed),
        }
        emit(answer, json_output=json_output, render=_show)


def _check_names(names: list[str]) -> None:
    from llmrec.errors import ConfigError
    from llmrec.simulate.policies import check_policy, policy_names

    if not names:
        raise ConfigError(f"--policy got no name; choose from {', '.join(policy_names())}")
    for name in names:
        check_policy(name)


def _user_config(user: str, adapter: str | None, bare: bool, style: str) -> UserConfig:
    from llmrec.errors import ConfigError
    from llmrec.roles.loading import load_agent

    if bare and adapter is not None:
        raise ConfigError(
            f"--no-user-adapter lets the bare backbone play the users, got --user-adapter {adapter!r} too"
        )
    settings: dict[str, Any] = {} if style in ("auto", "tools") else {"style": style}
    if bare or adapter is not None:
        settings["adapter"] = adapter
    config: UserConfig = load_agent(user, **settings).config
    return config


def _check_user(config: UserConfig, lm: LanguageModel) -> None:
    """Raise `ConfigError` unless the model has the adapter that plays the users."""
    from llmrec.errors import ConfigError

    if config.adapter is not None and config.adapter not in lm.capabilities.adapters:
        raise ConfigError(
            f"the backbone has no adapter {config.adapter!r} that plays the users; its adapters are: "
            f"{', '.join(lm.capabilities.adapters) or 'none'}; name one of them, or the folder of one that llmrec "
            "finetune user wrote, with --user-adapter, or let the bare backbone play them with --no-user-adapter"
        )


def _calibrated(given: UserConfig, chosen: ChosenAdapter) -> UserConfig:
    """The user under the adapter's name at the engine, corrected as the adapter's folder says."""
    from llmrec.roles.click_calibration import UNCORRECTED

    config = given.calibrated_for(chosen.folder).model_copy(update={"adapter": chosen.name})
    if config.calibration != UNCORRECTED:
        scale, offset = config.calibration
        note(f"users: log-odds of a click times {scale:.3f} plus {offset:+.3f}, their calibration")
    return config


def _spec(backbone: str | None) -> str:
    from llmrec.errors import ConfigError

    spec = backbone or os.environ.get("LLMREC_BACKBONE")
    if not spec:
        raise ConfigError(
            "simulated users need a language model; name a folder or hub id with --backbone or LLMREC_BACKBONE "
            "(llmrec quickstart trains one and prints its folder)"
        )
    return spec


def _steps(advance: Any) -> Any:
    """Turn (finished, total) reports into steps of a bar."""
    before = 0

    def report(finished: int, _total: int) -> None:
        nonlocal before
        advance(finished - before)
        before = finished

    return report


def _show(answer: dict[str, Any]) -> None:
    from rich.table import Table

    settings = answer["settings"]
    table = Table(
        title=f"{settings['dataset']}, simulated users, n = {settings['users']} per policy, seed {settings['seed']}"
    )
    table.add_column("policy")
    for title in ("rounds", "click rate", "speaks up", "compliance", "failed", "strangers"):
        table.add_column(title, justify="right")
    for name, row in answer["policies"].items():
        compliance = row["compliance"]
        change = f"{_plain(compliance['before'])} to {_plain(compliance['after'])}"
        cells = (_cell(row["rounds"]), _cell(row["click_rate"]), _plain(row["instruction_rate"]), change)
        table.add_row(name, *cells, str(row["failed"]), str(row["out_of_catalogue"]))
    screen = output()
    screen.print(table)
    screen.print(
        "speaks up: share of rounds after which the user says what should change; compliance: share of the slate that "
        "fulfils it, before and after; strangers: items shown that are not in the catalogue",
        style="dim",
        soft_wrap=True,
    )
    for name, row in answer["policies"].items():
        endings = ", ".join(f"{ending} {n}" for ending, n in row["endings"].items())
        screen.print(f"{name}: {endings}", markup=False, soft_wrap=True)
        if row["agent"] is not None:
            screen.print(f"{name}: {agent_line(row['agent'])}", markup=False, soft_wrap=True)
    screen.print(
        f"run {answer['run']}; read it with: llmrec sessions show {answer['run']}", markup=False, soft_wrap=True
    )
    console().print(f"{answer['seconds']} s, {answer['resumed']} sessions were in the journal already", style="dim")


def agent_line(turns: dict[str, Any]) -> str:
    """What an agent's turns took, in one line."""
    calls, kept = turns["calls"], turns["constraints"]
    return (
        f"{turns['turns']} turns, {calls['asked']} tool calls ({_share(calls['valid_share'])} valid, "
        f"{_share(calls['repaired_share'])} of these mended, {_share(calls['refused_share'])} refused by the tool), "
        f"{turns['corrections']} readings corrected, refused conditions kept out of {_share(kept['kept'])} of "
        f"{kept['n']} slates, {turns['seconds_per_turn']['value']:.2f} s and {turns['tokens_per_turn']:.0f} new tokens "
        "a turn"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _cell(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f} ({interval['low']:.2f}..{interval['high']:.2f})"


def _plain(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f}"
