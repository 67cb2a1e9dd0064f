"""The registry of published models: python -m components.registry COMMAND --output_dir=..."""

import argparse
import json
import sys

from components import report
from components.registry import registry, retention
from trainer.common import storage
from trainer.common.errors import without_traceback
from trainer.evaluation.metrics import METRICS


def main(argv: list[str]) -> None:
    """Run a command."""
    arguments = _parser().parse_args(argv)
    with without_traceback():
        publish_dir = storage.join(arguments.output_dir, "published")
        COMMANDS[arguments.command](publish_dir, arguments)


def _list(publish_dir: str, _arguments) -> None:
    champion = registry.read_champion(publish_dir)
    kept = registry.versions(publish_dir)
    entries = [entry for entry in registry.history(publish_dir) if entry["version"] in kept]
    for entry in entries:
        is_champion = champion is not None and entry["version"] == champion.version
        print(f"{'*' if is_champion else ' '} {_line(entry)}")
    print("* is the champion." if champion else "No model is published.")


def _show(publish_dir: str, arguments) -> None:
    print(json.dumps(registry.read_manifest(publish_dir, arguments.version), indent=1))


def _history(publish_dir: str, _arguments) -> None:
    for entry in registry.history(publish_dir):
        origin = f" of version {entry['of_version']}" if entry.get("of_version") else ""
        reason = f": {entry['reason']}" if entry.get("reason") else ""
        print(f"{_line(entry)}  {entry['action']}{origin}{reason}")


def _publish(publish_dir: str, arguments) -> None:
    version = registry.publish(
        arguments.model_dir, publish_dir, arguments.metrics_file, arguments.expected_champion
    )
    print(f"Published: {storage.join(publish_dir, registry.SERVED, version)}")


def _promote(publish_dir: str, arguments) -> None:
    version = registry.promote(publish_dir, arguments.version, arguments.reason)
    print(f"Published version {arguments.version} again, as version {version}.")


def _rollback(publish_dir: str, arguments) -> None:
    version = registry.rollback(publish_dir, arguments.reason)
    origin = registry.read_manifest(publish_dir, version)["of_version"]
    print(f"Published version {origin} again, as version {version}.")


def _prune(publish_dir: str, arguments) -> None:
    folders = retention.prune(
        arguments.output_dir,
        publish_dir,
        arguments.keep_versions,
        arguments.keep_runs,
        arguments.dry_run,
    )
    for folder in folders:
        print(f"{'Would delete' if arguments.dry_run else 'Deleted'}: {folder}")
    print(f"{len(folders)} folders.")


def _line(entry: dict) -> str:
    metrics = "  ".join(
        f"{metric.title} {report.score(entry['metrics'].get(name))}"
        for name, metric in METRICS.items()
    )
    return f"{entry['version']:>6}  {entry['time']}  {metrics}"


COMMANDS = {
    "list": _list,
    "show": _show,
    "history": _history,
    "publish": _publish,
    "promote": _promote,
    "rollback": _rollback,
    "prune": _prune,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.registry", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument(
            "--output_dir", required=True, help="Output folder of the pipeline, local or gs://."
        )
        return command

    add("list", "List the versions that are kept, with their metrics.")
    show = add("show", "Print the manifest of a version, with its lineage, as JSON.")
    show.add_argument("version", help="Number of the version.")
    add("history", "Print what was published, and when.")
    publish = add("publish", "Publish an exported model.")
    publish.add_argument("--model_dir", required=True, help="Folder of the exported model.")
    publish.add_argument("--metrics_file", required=True, help="metrics.json of its evaluation.")
    publish.add_argument(
        "--expected_champion", default="", help="Version that is published now. Empty: none."
    )
    promote = add("promote", "Publish a version again, under a new number.")
    promote.add_argument("version", help="Number of the version.")
    rollback = add("rollback", "Publish the model again that was published before the champion.")
    for command in (promote, rollback):
        command.add_argument("--reason", default="", help="Reason, for the history.")
    prune = add("prune", "Delete old versions, runs and trainings.")
    prune.add_argument(
        "--keep_versions", type=int, default=5, help="Versions to keep before the champion."
    )
    prune.add_argument("--keep_runs", type=int, default=50, help="Newest runs to keep.")
    prune.add_argument("--dry_run", action="store_true", help="Print, and delete nothing.")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
