#!/usr/bin/env bash
# Submits the job to a running Ray cluster and follows it.
#
#   RAY_API_SERVER_ADDRESS=http://head:8265 configs/deploy/submit.sh s3://my-bucket/config.yaml [--set key=value ...]
#
# The nodes have sam3ray installed (an image, or `pip install sam3ray[s3]` on each). Where they do not, let Ray install
# it from where they can reach it:  SUBMIT_OPTIONS='--runtime-env-json {"pip":["sam3ray[s3]"]}'
# Clusters of Ray 2.60 ask for a token by default: put it into RAY_AUTH_TOKEN or ~/.ray/auth_token.
set -euo pipefail

if [[ $# -lt 1 ]]; then
    sed -n '2,8p' "$0" >&2
    exit 2
fi

export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"

# shellcheck disable=SC2086  # options are words on purpose
exec ray job submit --working-dir "$(dirname "$0")/../../jobs" ${SUBMIT_OPTIONS:-} -- python prelabel.py "$@"
