"""Tools around a cluster: `python -m cluster check`."""

import argparse
import sys
from pathlib import Path

from cluster.check import DEFAULT_PATHS, run_check

EXAMPLES = """\
examples:
  python -m cluster check                          cluster.yaml and cluster/kuberay
  python -m cluster check my-cluster.yaml          one file for `ray up`, or of manifests
  python -m cluster check cluster/kuberay/overlays/a100

Exit status: 0 no mistake, 2 mistakes or bad usage.
"""


def main() -> int:
    """Run the tool that is named; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
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
        default=list(DEFAULT_PATHS),
        help="a file or a folder; default: cluster.yaml and cluster/kuberay",
    )
    return run_check(parser.parse_args().paths)


if __name__ == "__main__":
    sys.exit(main())
