#!/usr/bin/env bash
# Submits the job to a running Ray cluster, follows its log, and exits with its code.
#
#   RAY_API_SERVER_ADDRESS=http://head:8265 configs/deploy/submit.sh s3://my-bucket/config.yaml [--set key=value ...]
#
# The address is the dashboard's: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if it begins with http, else the dashboard
# on this machine. The nodes need sam3ray (in their image, or with `pip install sam3ray[s3]` on each). Otherwise, let
# Ray install it:
#   SUBMIT_OPTIONS='--runtime-env-json {"pip":["sam3ray[s3]"]}'
# If the cluster requires a token, put it into RAY_AUTH_TOKEN or ~/.ray/auth_token.
set -euo pipefail

if [[ $# -lt 1 ]]; then
    sed -n '2,10p' "$0" >&2
    exit 2
fi

if [[ -z "${RAY_API_SERVER_ADDRESS:-}" ]]; then
    if [[ "${RAY_ADDRESS:-}" == http* ]]; then
        RAY_API_SERVER_ADDRESS="$RAY_ADDRESS"
    else
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:8265"
    fi
fi
export RAY_API_SERVER_ADDRESS
# Ray sends a token only if told to. Clusters without tokens ignore it.
token_file="${RAY_AUTH_TOKEN_PATH:-${HOME:-/nonexistent}/.ray/auth_token}"
if [[ -z "${RAY_AUTH_MODE:-}" && ( -n "${RAY_AUTH_TOKEN:-}" || -f "$token_file" ) ]]; then
    export RAY_AUTH_MODE=token
fi

id="sam3ray-$(date +%Y%m%d-%H%M%S)-$$"
code=0
# shellcheck disable=SC2086  # options are words on purpose
ray job submit --submission-id "$id" --working-dir "$(dirname "$0")/../../jobs" ${SUBMIT_OPTIONS:-} \
    -- python prelabel.py "$@" || code=$?

# `ray job submit` only tells success from failure.
told="$(
    python - "$id" <<'PYTHON' || true
import sys

from ray.job_submission import JobSubmissionClient

info = JobSubmissionClient().get_job_info(sys.argv[1])
print(info.status.value, "" if info.driver_exit_code is None else info.driver_exit_code)
PYTHON
)"
read -r status driver_code <<<"$told" || true
case "${status:-}" in
    PENDING | RUNNING) echo "the job is still running; follow it with: ray job logs --follow $id" >&2 ;;
    SUCCEEDED | FAILED | STOPPED)
        # The code is negative if a signal ended the driver.
        if [[ "${driver_code:-}" =~ ^[0-9]+$ ]]; then
            code="$driver_code"
        fi
        ;;
esac
exit "$code"
