#!/bin/sh
# entrypoint.sh MODULE [ARGUMENT ...]: if the first argument is a flag or missing, run the module with
# the arguments; otherwise run the arguments as a command. Docker, and so kfp's local runner, puts the
# entry point before a step's command; Kubernetes and Vertex AI replace it.
set -eu
module=$1
shift
case ${1:-} in
    "" | -*) exec python3 -m "$module" "$@" ;;
    *) exec "$@" ;;
esac
