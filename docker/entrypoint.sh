#!/bin/sh
# entrypoint.sh MODULE [WORD ...]: runs the module with the flags that follow it, or, where a command
# follows it, that command. For Docker puts an image's entry point before a command (as kfp's local
# runner gives one), where Kubernetes and Vertex AI replace it.
set -eu
module=$1
shift
case ${1:-} in
    "" | -*) exec python3 -m "$module" "$@" ;;
    *) exec "$@" ;;
esac
